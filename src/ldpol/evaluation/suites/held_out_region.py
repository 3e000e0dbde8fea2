"""Suite `held_out_region`: ask for what the hidden elites do, against the nearest trained elites.

How far a policy misses depends on how far its target is from anything training saw, so misses are shown by distance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Tessellation
from ldpol.evaluation.context import Context, Result, rows_of, sample_blind, sample_measures
from ldpol.evaluation.intervals import Ratio, difference
from ldpol.evaluation.metrics import occupied
from ldpol.evaluation.tables import Column, Row, Table, signed, write
from ldpol.measures import nearest
from ldpol.reference import IN_BOX, TRAINED
from ldpol.settings import check, fail
from ldpol.tasks import Task
from ldpol.types import Score

NEAREST, CEILING = "nearest", "ceiling"
WAYS = {
    "generated": ("Generated", "the generator as it answers"),
    "blind": ("by diffusion alone", "without verified draws"),
    NEAREST: ("Nearest trained elites", "outside the region"),
    CEILING: ("Hidden elites", "evaluated again"),
}


@dataclass(frozen=True)
class HeldOutRegion:
    """Ask for the measures of every hidden elite several times, and evaluate the elites as often.

    Attributes:
      draws: policies per elite.
      edges: between the three bins of the distance to the nearest trained elite, in diagonals of a cell.
    """

    name: ClassVar[str] = "held_out_region"
    draws: int = 4
    edges: tuple[float, float] = (1.0, 2.5)

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"draws": 1}, above={"edges": 0})
        if self.edges[0] >= self.edges[1]:
            fail(self, "edges", f"must increase, found {self.edges}")

    def check_task(self, task: Task) -> None:
        """Every task will do."""

    def run(self, context: Context) -> Result:
        """Measure; a training without a region with elites in it is left out."""
        kind = context.split.kind
        hidden, known = np.flatnonzero(kind == IN_BOX), np.flatnonzero(kind == TRAINED)
        if not len(hidden):
            context.without(self.name, "training held no region with elites in it out (train.held_out.low and high)")
            return Result({"held_out_region": {}})
        labels = np.asarray(context.reference.measures)
        # Neighbours among what training saw: the generator knows the random held-out elites no more than the region.
        find = jax.vmap(partial(nearest, measures=jnp.asarray(labels[known])))
        neighbours = known[np.asarray(find(jnp.asarray(labels[hidden])))[:, 0]]
        targets, scores = np.repeat(labels[hidden], self.draws, 0), {}
        samples = {"generated": sample_measures} | ({} if context.generator.bank is None else {"blind": sample_blind})
        for way, sample in samples.items():
            name, title = f"held_out_region_{way}", f"the held-out region, {WAYS[way][0].lower()}"
            key = context.key_for(f"held out region/{way}")
            scores[way] = context.sample(self, name, title, sample, targets, key).score
        for way, rows in {NEAREST: neighbours, CEILING: hidden}.items():
            name, title = f"held_out_region_{way}", f"the held-out region, {WAYS[way][0].lower()}"
            policies = rows_of(context.archive.policies, np.repeat(rows, self.draws))
            key = context.key_for(f"held out region/{way}")
            scores[way] = context.evaluate(self, name, title, policies, key).score
        found = held_out_region_metrics(
            context.archive.grid,
            rows_of(context.reference, hidden),
            np.linalg.norm(labels[hidden] - labels[neighbours], axis=-1),
            scores,
            draws=self.draws,
            edges=self.edges,
        )
        return Result({"held_out_region": found})

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return every way of answering, its error by distance, and a sentence on what generation adds."""
        found = metrics.get("held_out_region") or {}
        if not found:
            return []
        first, second = (write(edge) for edge in found["edges"])
        names = (f"Up to {first} away", f"{first} to {second}", f"Beyond {second}")
        bins = zip(names, found["elites_by_distance"], strict=True)
        columns = (
            Column("Target error", "MEM"),
            *(Column(name, f"MEM, {write(count, 'count')} elites") for name, count in bins),
            Column("Success", "of targets", "percent"),
            Column("Reward", "of the hidden elites", "percent"),
            Column("Cells", f"of their {found['cells']}", "count"),
        )
        rows = []
        for way, (name, note) in WAYS.items():
            one = found["rows"].get(way)
            if one:
                values = (one["mem"], *one["mem_by_distance"], one["success_rate"], one["reward_ratio"], one["cells"])
                rows.append(Row(name, values, note, way == "generated"))
        less = [f"{WAYS[way][0].lower()} {signed(value, '+.3f')}" for way, value in found["mem_less_nearest"].items()]
        text = (
            f"All {found['elites']} elites whose labels lie in the region were kept from training; the nearest trained "
            f"elite is {write(found['distance'])} away on average. Each is asked for {found['draws']} times. Target "
            f"error less that of the nearest trained elites, positive where a look-up does better: {', '.join(less)}."
        )
        return [Table("The held-out region", columns, tuple(rows), text)]


def held_out_region_metrics(
    grid: Tessellation,
    reference: Score,
    distance: np.ndarray,
    scores: Mapping[str, Score],
    *,
    draws: int,
    edges: tuple[float, float],
) -> dict[str, Any]:
    """Compare ways of answering requests for what hidden elites do.

    All get as many tries: a noisy policy that is played often enough fills cells by luck.

    Args:
      grid: of the archive.
      reference: `[H]` mean scores of the hidden elites, H at least 1.
      distance: `[H]` from their measures to those of the nearest trained elite.
      scores: `[H * D]` by way of answering, elite by elite; `nearest` among them.
      draws: D.
      edges: between three bins of the distance, in diagonals of a cell.

    Returns:
      How many `elites`, their `cells`, their mean `distance`, `edges` in measure units, `elites_by_distance` `[3]`, and
      `rows`: for every way `mem`, `mem_by_distance` `[3]` (None for an empty bin), `success_rate`, `reward_ratio` (mean
      fitness over that of the hidden elites) and `cells`, those of the hidden elites that were reached.
      `mem_less_nearest`: of what was generated, paired over elites, with its interval.
    """
    limits = np.asarray(edges) * grid.diagonal
    where = np.digitize(distance, limits, right=True)
    targets = np.repeat(np.asarray(reference.measures), draws, 0)
    present = occupied(grid, reference.measures)
    rows, errors = {}, {}
    for way, score in scores.items():
        error = np.linalg.norm(np.asarray(score.measures) - targets, axis=-1)
        errors[way] = error.reshape(-1, draws)
        bins = [errors[way][where == number] for number in range(3)]
        reached = occupied(grid, score.measures)
        rows[way] = {
            "mem": float(error.mean()),
            "mem_by_distance": [float(part.mean()) if part.size else None for part in bins],
            "success_rate": float((error < grid.diagonal).mean()),
            "reward_ratio": float(np.mean(score.fitness) / np.mean(reference.fitness)),
            "cells": len(present & reached),
        }
    sums = {way: Ratio(error.sum(1), np.full(len(error), draws)) for way, error in errors.items()}
    made = [way for way in scores if way not in (NEAREST, CEILING)]
    return {
        "elites": len(distance),
        "cells": len(present),
        "draws": draws,
        "distance": float(np.mean(distance)),
        "edges": limits.tolist(),
        "elites_by_distance": np.bincount(where, minlength=3).tolist(),
        "rows": rows,
        "mem_less_nearest": {way: difference(sums[way], sums[NEAREST]).as_json() for way in made},
    }
