"""Ant, four measures: how much of the time each foot touches the ground.

Variants: cpu (default), smoke, large, gpu, paper, and ppga_cpu, hybrid_gpu, ... for another search; see
`ldpol/experiments/variants.py` and the presets that it chooses for what each changes.
"""

from ldpol.experiments import configs, variants


def get_config(variant: str = "cpu"):
    config = configs.base("ant")
    config.task.reset_noise = 0.1
    config.archive.cells = 7  # 2,401 cells for four measures
    config.train.held_out.update(low=(0.4,) * 4, high=(0.6,) * 4)
    return variants.vary(config, variant)
