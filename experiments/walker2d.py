"""Walker2d, two measures: how much of the time each foot touches the ground.

    make demo
    python -m ldpol.experiments archive --config experiments/walker2d.py:cpu --workdir runs/demo
    (then train, evaluate, report)

Run times and what they reach: results/demo-walker2d.json, on two CPU cores.

Variants: cpu (default), smoke, large, gpu, paper, and ppga_cpu, hybrid_gpu, ... for another search; see
`ldpol/experiments/variants.py` and the presets that it chooses for what each changes.
"""

from ldpol.experiments import configs, variants


def get_config(variant: str = "cpu"):
    config = configs.base("walker2d")
    return variants.vary(config, variant)
