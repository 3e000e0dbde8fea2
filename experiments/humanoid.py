"""Humanoid, two measures: how much of the time each foot touches the ground.

Variants: cpu (default), smoke, large, gpu, paper, and ppga_cpu, hybrid_gpu, ... for another search; see
`ldpol/experiments/variants.py` and the presets that it chooses for what each changes.
"""

from ldpol.experiments import configs, variants


def get_config(variant: str = "cpu"):
    config = configs.base("humanoid")
    config.task.reset_noise = 1e-2
    return variants.vary(config, variant)
