"""A box of the measure space that training never saw: what to ask for inside it, and what counts as reached."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ldpol.archive import Grid
from ldpol.evaluation.intervals import Ratio, difference
from ldpol.types import Score


def box_targets(grid: Grid, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """Return the centres `[C, M]` of the grid's cells that lie inside the box; C may be 0.

    Args:
      grid: the archive's grid.
      low: `[M]` corner of the box.
      high: `[M]` the opposite corner.
    """
    axes = []
    for side, start, end, least, most in zip(grid.shape, grid.low, grid.high, low, high, strict=True):
        centres = start + (np.arange(side) + 0.5) * (end - start) / side
        axes.append(centres[(centres >= least) & (centres <= most)])
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)).astype(np.float32)


def nearest(targets: np.ndarray, measures: np.ndarray) -> np.ndarray:
    """Return, for each target `[C, M]`, the row `[C]` of the nearest of measures `[N, M]`."""
    return np.array([np.linalg.norm(measures - target, axis=-1).argmin() for target in targets], int)


def reached(grid: Grid, targets: np.ndarray, achieved: np.ndarray) -> int:
    """Count the cells of the targets `[C, M]` into which at least one of the measures `[N, M]` falls."""
    cells, hit = (np.unique(np.asarray(grid.index(jnp.asarray(values)))) for values in (targets, achieved))
    return int(np.isin(cells, hit).sum())


def cutout_metrics(
    grid: Grid, targets: np.ndarray, originals: Score, generated: Score, neighbours: Score, draws: int
) -> dict[str, Any]:
    """Compare what the generator does inside the box with what the nearest trained elites outside it do.

    Both get as many tries: a noisy policy that is played often enough fills cells by luck.

    Args:
      grid: the archive's grid.
      targets: `[C, M]` the centres of the box's cells.
      originals: `[B]` mean scores of the elites that were held out of the box, B at least 1.
      generated: `[C * D]`, D policies a target, target by target.
      neighbours: `[C * D]`, the target's nearest elite, played D times.
      draws: D.

    Returns:
      `cells` of the box, `reached` and `reached_by_nearest`, `mem` and `mem_nearest` (mean L2 distance from the
      target), their paired `mem_difference` with its interval over cells, `reward_ratio` and `reward_ratio_nearest`
      (mean fitness over that of the originals), `reached_by_originals` (in one try each) and how many `originals`.
    """
    asked = np.repeat(targets, draws, 0)
    away = [np.linalg.norm(np.asarray(score.measures) - asked, axis=-1) for score in (generated, neighbours)]
    ratios = [Ratio(part.reshape(-1, draws).sum(1), np.full(len(targets), draws)) for part in away]
    worth = float(np.mean(originals.fitness))
    return {
        "cells": len(targets),
        "reached": reached(grid, targets, np.asarray(generated.measures)),
        "reached_by_nearest": reached(grid, targets, np.asarray(neighbours.measures)),
        "reached_by_originals": reached(grid, targets, np.asarray(originals.measures)),
        "originals": len(originals.fitness),
        "draws": draws,
        "mem": float(away[0].mean()),
        "mem_nearest": float(away[1].mean()),
        "mem_difference": difference(ratios[0], ratios[1]).as_json(),
        "reward_ratio": float(np.mean(generated.fitness) / worth),
        "reward_ratio_nearest": float(np.mean(neighbours.fitness) / worth),
    }
