"""Hopper, one measure: how much of the time its foot touches the ground.

Variants: cpu (default), smoke, large, gpu, paper, and ppga_cpu, hybrid_gpu, ... for another search; see
`ldpol/experiments/variants.py` and the presets that it chooses for what each changes.
"""

from ldpol.experiments import configs, variants


def get_config(variant: str = "cpu"):
    config = configs.base("hopper")
    config.archive.cells = 500  # one measure
    config.train.held_out.update(low=(0.5,), high=(0.55,))
    return variants.vary(config, variant)
