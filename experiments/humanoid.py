"""Humanoid, two measures: how much of the time each foot touches the ground.

Variants: cpu (default), smoke, gpu, paper, and ppga_cpu, hybrid_gpu, ... for another search; see
`ldpol/experiments/defaults.py` for what each changes.
"""

from ldpol.experiments import defaults


def get_config(variant: str = "cpu"):
    config = defaults.base("humanoid")
    config.task.reset_noise = 1e-2
    return defaults.vary(config, variant)
