"""Suite `steadiness`: how much of the coverage, on both sides, is noise that more episodes average out?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from ldpol.archive import Tessellation
from ldpol.evaluation.context import Context, Result, draw, sample_measures
from ldpol.evaluation.metrics import RATIOS, compare, summarise
from ldpol.evaluation.tables import Column, Row, Table, write
from ldpol.reference import BLANK
from ldpol.settings import check
from ldpol.tasks import Task
from ldpol.types import Behaviour, Key, PyTree, Score, mean_score

PLAYED = ("elites", "generated")


@dataclass(frozen=True)
class Steadiness:
    """Evaluate the elites, and one policy generated for each, several times.

    Attributes:
      plays: evaluations, each of all episodes; the reference is the elites' first.
    """

    name: ClassVar[str] = "steadiness"
    plays: int = 4

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"plays": 2})

    def check_task(self, task: Task) -> None:
        """Every task will do."""

    def run(self, context: Context) -> Result:
        """Measure."""
        targets, player = np.asarray(context.reference.measures), context.player
        requests = {"measures": targets, "number": np.arange(len(targets), dtype=np.int32)}
        draw_key = context.key_for("steadiness/draws")

        def generate(requests: PyTree, keys: Key) -> Behaviour:
            # The keys decide the episodes; every play is of the same policies.
            own = jax.vmap(jax.random.fold_in, (None, 0))(draw_key, requests["number"])
            policies = draw(sample_measures, context.generator, requests["measures"], own, player.mesh)
            return player.play(policies, keys)

        elites, generated = [context.reference], []
        for number in range(self.plays):
            elite_key, generated_key = (context.key_for(f"steadiness/{whose} {number}") for whose in PLAYED)
            title = f"steadiness ({number + 1}/{self.plays})"
            if number:
                name, whose = f"steadiness_elites_{number + 1}", f"{title}, elites"
                elites.append(context.evaluate(self, name, whose, context.archive.policies, elite_key).score)
            how = {"title": f"{title}, generated", "progress": context.hooks.progress}
            found = context.cached(
                self,
                f"steadiness_generated_{number + 1}",
                lambda: player.over(generate, requests, generated_key, **how),  # noqa: B023
                BLANK,
            )
            generated.append(found.score)
        scores = (_stack(elites), _stack(generated), player.episodes, context.task.fitness_offset)
        return Result({"steadiness": steadiness_metrics(context.archive.grid, targets, *scores)})

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return one row for every number of episodes that are averaged, and a sentence."""
        found = metrics.get("steadiness") or {}
        if not found:
            return []
        columns = (
            Column("Reward", "of the elites", "percent"),
            Column("Coverage", "of the elites", "percent"),
            Column("QD score", "of the elites", "percent"),
            Column("Target error", "MEM"),
        )
        rows = tuple(
            Row(
                f"{one['episodes']} episodes",
                tuple(one.get(name) for name in (*RATIOS, "mem")),
                f"cells: elites {write(one.get('cells_elites'), 'count')}, generated "
                f"{write(one.get('cells_generated'), 'count')}",
                not i,
            )
            for i, one in enumerate(found["rows"])
        )
        text = (
            f"From one evaluation to the next, elites move by {write(found.get('repeat_elites'))} in measures and "
            f"generated policies by {write(found.get('repeat_generated'))}. Noise scatters equal behaviours over "
            "several cells, so the noisier fill more of them until enough episodes are averaged."
        )
        return [Table("Steadiness", columns, rows, text)]


def _stack(scores: list[Score]) -> Score:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *scores)


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
    grid: Tessellation, targets: np.ndarray, elites: Score, generated: Score, episodes: int, offset: float
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
        errors = [np.linalg.norm(now.measures - targets, axis=-1).mean() for _, now in groups]
        rows.append(
            {
                "episodes": size * episodes,
                **{name: float(np.mean([one[name] for one in found])) for name in RATIOS},
                "cells_elites": float(cells[0]),
                "cells_generated": float(cells[1]),
                "mem": float(np.mean(errors)),
            }
        )
    return {
        "plays": plays,
        "repeat_elites": repeat_distance(np.asarray(elites.measures)),
        "repeat_generated": repeat_distance(np.asarray(generated.measures)),
        "rows": rows,
    }
