"""The variants of a config: `smoke`, `large`, `gpu` and `paper`, each also with another search before it.

What a search, a distillation and an evaluation are for each, the `presets` of these say.
"""

import dataclasses

from ldpol.distillation import presets as distillations
from ldpol.errors import meant
from ldpol.evaluation import presets as evaluations
from ldpol.experiments import configs
from ldpol.experiments.configs import SUITES, Config
from ldpol.search import presets as searches
from ldpol.search.config import SEARCHES

SCALES = ("cpu", "smoke", "large", "gpu", "paper")
VARIANTS = (*SCALES, *(f"{search}_{scale}" for search in SEARCHES for scale in SCALES))
CELLS = {"ant": 10, "hopper": 1000}
"""Per measure, on a large grid, where there are more or fewer than two measures."""
ITERATIONS = {"map_elites_cpu": 100, "ppga_cpu": 300, "map_elites_paper": 600, "hybrid_paper": 600}
"""Where another search takes other iterations than the one that a scale comes with."""


def vary(config: Config, variant: str) -> Config:
    """Turn the default config into a variant.

    Raises:
      KeyError: for an unknown variant.
    """
    if variant not in VARIANTS:
        raise KeyError(
            f"unknown variant {variant!r}{meant(variant, VARIANTS)} (known: {', '.join(SCALES)}, and each of them with "
            f"another search before it: {', '.join(f'{search}_cpu' for search in SEARCHES)}, ...)"
        )
    name, _, scale = variant.rpartition("_")
    task, search, distill = config.task.name, configs.search_of(config), configs.distill_of(config)
    if scale == "smoke":
        search, distill = searches.quick(search), distillations.quick(distill)
        configs.put_suites(config, evaluations.quick())
        config.task.episode_length = 50
        config.archive.checkpoint_every = 1
        config.eval.suites = tuple(SUITES)
        config.train.update(steps_per_call=20, checkpoint_seconds=0.0)
    if scale == "large":
        search, distill = searches.large(search), distillations.large(distill)
        config.archive.checkpoint_every = 25  # of 0.8 GB each
    if scale in ("gpu", "paper"):
        search, distill = searches.accelerated(search), distillations.accelerated(distill)
        configs.put_suites(config, evaluations.accelerated())
        config.train.steps_per_call = 500
    if scale in ("large", "gpu", "paper"):
        search = dataclasses.replace(search, cells=CELLS.get(task, search.cells))
        config.task.episode_length = 1000
    if scale == "paper":
        search, distill = searches.published(search, task), distillations.published(distill)
        config.train.held_out.update(fraction=0.0, low=(), high=())
    if name:
        search = dataclasses.replace(search, search=name, iterations=ITERATIONS.get(variant, search.iterations))
    if variant == "ppga_paper" and task != "ant":
        search = dataclasses.replace(search, cells=50)  # PPGA's own grid; the archives that the paper distils have 100
    configs.put_search(config, search)
    configs.put_distill(config, distill)
    return config
