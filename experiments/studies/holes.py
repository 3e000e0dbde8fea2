"""Walker2d with a hole in its archive: what does the generator do where training saw nothing?

    mkdir -p runs/square_3 && cp -r runs/demo/archive runs/square_3/
    python -m ldpol.experiments train --config experiments/studies/holes.py:square_3 --workdir runs/square_3
    python -m ldpol.experiments evaluate --config experiments/studies/holes.py:square_3 --workdir runs/square_3

All elites whose re-evaluated measures lie in the region are kept from training; suite `held_out_region` asks for them.

Variants: square_1 to square_5 (side 0.1 to 0.5) in the midst of the archive, corner_1 to corner_5 near both feet in the
air, l (two arms), half (right foot on the ground for more than 0.55 of the time) and checkerboard (half of 10 x 10
blocks); each also as square_3_smoke. A region of one's own: --config.train.held_out.low="((0.4, 0.4), (0.6, 0.2))"
--config.train.held_out.high="((0.6, 0.7), (0.8, 0.4))".
"""

from ldpol.experiments import configs, variants
from ldpol.regions import Region, checkerboard, square

REGIONS = {
    **{f"square_{tenths}": square((0.55, 0.55), tenths / 10) for tenths in range(1, 6)},
    **{f"corner_{tenths}": square((0.3, 0.3), tenths / 10) for tenths in range(1, 6)},
    "l": Region(low=((0.3, 0.3), (0.3, 0.3)), high=((0.5, 0.8), (0.8, 0.5))),
    "half": Region(low=((0.55, 0.0),), high=((1.0, 1.0),)),
    "checkerboard": checkerboard((0.0, 0.0), (1.0, 1.0), blocks=10, seed=0),
}


def get_config(variant: str = "square_3"):
    """Return the config of walker2d with a region held out."""
    shape, scale = variant.removesuffix("_smoke"), "smoke" if variant.endswith("_smoke") else "cpu"
    if shape not in REGIONS:
        raise KeyError(f"unknown variant {variant!r}; the variants are {', '.join(REGIONS)}, and square_3_smoke, ...")
    config = variants.vary(configs.base("walker2d"), scale)
    config.train.held_out.update(low=REGIONS[shape].low, high=REGIONS[shape].high)
    config.eval.suites = ("reconstruction", "held_out_region")
    return config
