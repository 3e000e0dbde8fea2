"""How much of what an archive fills is noise: elites and generated policies, the same ones, played again and again."""

from typing import Any

import jax
import numpy as np

from ldpol.archive import Grid
from ldpol.evaluation.metrics import compare, summarise
from ldpol.evaluation.retention import RATIOS
from ldpol.types import Score, mean_score


def repeat_distance(measures: np.ndarray) -> float:
    """Return the mean L2 distance between successive plays `[P, N, M]` of the same policies, P at least 2."""
    return float(np.linalg.norm(np.diff(measures, axis=0), axis=-1).mean())


def averaged(plays: Score, size: int) -> list[Score]:
    """Average plays `[P, N]` in groups of `size`, in order; a last group that is not full is left out."""
    count = len(plays.fitness) // size
    return [
        mean_score(jax.tree.map(lambda leaf: np.asarray(leaf)[i * size : (i + 1) * size], plays), -2)  # noqa: B023
        for i in range(count)
    ]


def steadiness_metrics(
    grid: Grid, targets: np.ndarray, elites: Score, generated: Score, episodes: int, offset: float
) -> dict[str, Any]:
    """Compare elites with the policies generated for them, where more and more episodes are averaged.

    Noise scatters equal behaviours over several cells. Whoever is noisier therefore fills more of them, until enough
    episodes are averaged.

    Args:
      grid: the archive's grid.
      targets: `[N, M]` what was asked for.
      elites: `[P, N]` mean scores of P plays of the elites, P at least 2.
      generated: `[P, N]` of P plays of one policy each.
      episodes: of a play.
      offset: fitness offset of the QD score.

    Returns:
      `plays`; `repeat_elites` and `repeat_generated`, mean distance between two plays of the same policies; and `rows`,
      one for 1, 2, 4 ... plays averaged, up to P: `episodes` a policy, the ratios, `cells_elites`, `cells_generated`,
      and `mem`, generated to target; means over all groups of so many plays.
    """
    plays, rows = len(elites.fitness), []
    for size in (2**power for power in range(plays.bit_length())):
        groups = list(zip(averaged(elites, size), averaged(generated, size), strict=True))
        found = [compare(grid, was, now, offset) for was, now in groups]
        cells = np.mean([[summarise(grid, score, offset)["cells"] for score in group] for group in groups], 0)
        away = [np.linalg.norm(now.measures - targets, axis=-1).mean() for _, now in groups]
        rows.append(
            {
                "episodes": size * episodes,
                **{name: float(np.mean([one[name] for one in found])) for name in RATIOS},
                "cells_elites": float(cells[0]),
                "cells_generated": float(cells[1]),
                "mem": float(np.mean(away)),
            }
        )
    return {
        "plays": plays,
        "repeat_elites": repeat_distance(np.asarray(elites.measures)),
        "repeat_generated": repeat_distance(np.asarray(generated.measures)),
        "rows": rows,
    }
