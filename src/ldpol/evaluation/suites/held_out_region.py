"""Suite `held_out_region`: ask for the box of measures that training never saw, against the elites around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Tessellation
from ldpol.evaluation.context import Context, Result, rows_of, sample_measures
from ldpol.evaluation.intervals import Ratio, difference
from ldpol.evaluation.tables import Column, Row, Table, numbers
from ldpol.measures import nearest
from ldpol.reference import IN_BOX, TRAINED
from ldpol.settings import check
from ldpol.tasks import Task
from ldpol.types import Score


@dataclass(frozen=True)
class HeldOutRegion:
    """Ask for the centre of every cell of the box several times, and evaluate the nearest trained elite as often.

    Attributes:
      draws: policies per cell.
    """

    name: ClassVar[str] = "held_out_region"
    draws: int = 10

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"draws": 1})

    def check_task(self, task: Task) -> None:
        """Every task will do."""

    def run(self, context: Context) -> Result:
        """Measure; a training without a box with elites in it is left out."""
        grid, (low, high), kind = context.archive.grid, context.split.box, context.split.kind
        targets = box_targets(grid, low, high) if low else np.zeros((0, context.task.measures))
        originals = rows_of(context.reference, kind == IN_BOX)
        if not len(targets) or not len(originals.fitness):
            context.without(self.name, "training held no box with elites out (train.held_out.low and high)")
            return Result({"held_out_region": {}})
        repeated = np.repeat(targets, self.draws, 0)
        title = "the held-out box"
        generated = context.sample(
            self, "held_out_region", title, sample_measures, repeated, context.key_for("held out region/generated")
        ).score
        # Neighbours among what training saw: the generator knows the random held-out elites no more than the box.
        rows = np.flatnonzero(kind == TRAINED)
        known = jnp.asarray(np.asarray(context.reference.measures)[rows])
        chosen = rows[np.asarray(jax.vmap(partial(nearest, measures=known))(jnp.asarray(targets)))[:, 0]]
        policies = jax.tree.map(lambda leaf: np.asarray(leaf)[np.repeat(chosen, self.draws)], context.archive.policies)
        title = "nearest elites outside the box"
        neighbours = context.evaluate(
            self, "held_out_region_nearest", title, policies, context.key_for("held out region/nearest")
        ).score
        return Result(
            {"held_out_region": held_out_region_metrics(grid, targets, originals, generated, neighbours, self.draws)}
        )

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return the generator against the nearest trained elites, inside the box."""
        found = metrics.get("held_out_region") or {}
        if not found:
            return []
        columns = (
            Column("Cells reached", f"of {found.get('cells')}", "count"),
            Column("Target error", "MEM"),
            Column("Reward", "of originals", "percent"),
        )
        tries = f"{found.get('draws')} tries per cell"
        nearest_names = ("reached_by_nearest", "mem_nearest", "reward_ratio_nearest")
        rows = (
            Row("Generated", numbers(found, ("reached", "mem", "reward_ratio")), tries, True),
            Row("Nearest trained elites", numbers(found, nearest_names), f"outside the box, {tries}"),
            Row("Originals", (found.get("reached_by_originals"), None, None), f"{found.get('originals')} elites"),
        )
        return [Table("The held-out box", columns, rows)]


def box_targets(grid: Tessellation, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """Return the centres `[C, M]` of the grid's cells that lie inside the box; C may be 0.

    Args:
      grid: the archive's grid.
      low: `[M]` corner of the box.
      high: `[M]` the opposite corner.
    """
    axes = []
    for side, start, end, least, most in zip(grid.regular.shape, grid.low, grid.high, low, high, strict=True):
        centres = start + (np.arange(side) + 0.5) * (end - start) / side
        axes.append(centres[(centres >= least) & (centres <= most)])
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)).astype(np.float32)


def reached(grid: Tessellation, targets: np.ndarray, achieved: np.ndarray) -> int:
    """Count the cells of the targets `[C, M]` into which at least one of the measures `[N, M]` falls."""
    cells, hit = (np.unique(np.asarray(grid.index(jnp.asarray(values)))) for values in (targets, achieved))
    return int(np.isin(cells, hit).sum())


def held_out_region_metrics(
    grid: Tessellation, targets: np.ndarray, originals: Score, generated: Score, neighbours: Score, draws: int
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
    repeated = np.repeat(targets, draws, 0)
    errors = [np.linalg.norm(np.asarray(score.measures) - repeated, axis=-1) for score in (generated, neighbours)]
    ratios = [Ratio(part.reshape(-1, draws).sum(1), np.full(len(targets), draws)) for part in errors]
    worth = float(np.mean(originals.fitness))
    return {
        "cells": len(targets),
        "reached": reached(grid, targets, np.asarray(generated.measures)),
        "reached_by_nearest": reached(grid, targets, np.asarray(neighbours.measures)),
        "reached_by_originals": reached(grid, targets, np.asarray(originals.measures)),
        "originals": len(originals.fitness),
        "draws": draws,
        "mem": float(errors[0].mean()),
        "mem_nearest": float(errors[1].mean()),
        "mem_difference": difference(ratios[0], ratios[1]).as_json(),
        "reward_ratio": float(np.mean(generated.fitness) / worth),
        "reward_ratio_nearest": float(np.mean(neighbours.fitness) / worth),
    }
