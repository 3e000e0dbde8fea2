"""Suite `composition`: conditions put together from parts, against asking for the whole at once.

The joint condition names all measures at once. Its parts name one measure each; training saw each of them, but never
their composition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from ldpol.archive import Tessellation
from ldpol.errors import UserError
from ldpol.evaluation.context import Context, Result, rows_of
from ldpol.evaluation.intervals import paired
from ldpol.evaluation.metrics import compare
from ldpol.evaluation.tables import Column, Row, Table, numbers, signed, write
from ldpol.generator import PolicyGenerator
from ldpol.settings import check
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params, Score

ASKED = ("joint", "free")
"""Conditions to sample for: all measures at once, and one of them with the others left free."""
COMPOSED = ("and", "part", "not")
"""Compositions to sample for: AND of all parts, one part alone, and that part but NOT the next one."""
SHOWN = ("mem", "reward_ratio", "coverage_ratio", "success_rate")


@dataclass(frozen=True)
class Composition:
    """Ask for the same elites' measures in all ways, with the same random numbers.

    Attributes:
      conditions: elites whose measures are asked for.
    """

    name: ClassVar[str] = "composition"
    conditions: int = 170

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"conditions": 1})

    def check_task(self, task: Task) -> None:
        """Every task will do; one of a single measure is left out."""

    def run(self, context: Context) -> Result:
        """Measure."""
        if context.task.measures < 2:
            context.without(self.name, f"{context.task.name} has one measure only and nothing to compose")
            return Result({"composition": {}, "free": {}})
        reference = rows_of(context.reference, context.choose(self.conditions, "composition/conditions"))
        requests = build_requests(np.asarray(reference.measures))
        scores = {}
        for name, ways, sample, rows in (
            ("composition_asked", ASKED, _joint, requests.single),
            ("composition", COMPOSED, _composed, requests.composed),
        ):
            title = f"compositions ({', '.join(ways)})"
            found = context.sample(self, name, title, sample, rows, context.key_for("composition"), rows["pair"])
            scores |= by_way(ways, found.score)
        composed = composition_metrics(context.archive.grid, reference, scores, context.task.fitness_offset)
        return Result({"composition": composed, "free": free_metrics(reference, scores)})

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return the joint condition against its parts, and sentences on NOT and on free measures."""
        found, free = metrics.get("composition") or {}, metrics.get("free") or {}
        if not found:
            return []
        columns = (
            Column("Target error", "MEM"),
            Column("Reward", "of reference", "percent"),
            Column("Coverage", "of reference", "percent"),
            Column("Success", "", "percent"),
        )
        names = ("mem", "reward_ratio", "coverage_ratio", "success_rate")
        rows = (
            Row("Joint condition", numbers(found.get("joint"), names), "all measures in one condition", True),
            Row("AND of single measures", numbers(found.get("and"), names), "a composition that was never trained"),
        )
        unlike = found.get("not") or {}
        text = (
            f"AND of single measures has an error larger by {signed(found.get('mem_difference'))} than the joint "
            f"condition. NOT moves the measure to avoid from {write(unlike.get('away_without'))} to "
            f"{write(unlike.get('away'))} away from its value ({signed(unlike.get('difference'))}), while the error of "
            f"the one asked for is {write(unlike.get('error'))} instead of {write(unlike.get('error_without'))}."
        )
        if free:
            text += (
                f" A condition that leaves the others free has an error of {write(free.get('error'))} in its measure, "
                f"the joint condition one of {write(free.get('joint_error'))}: {write(free.get('ratio'), '.2f')} times "
                "as much."
            )
        return [Table("Composition and free measures", columns, rows, text)]


def _joint(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, request["measures"], verified=False)


def _composed(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample_composed(key, request["measures"], request["scales"])


class Requests(NamedTuple):
    """What to ask for, one row per policy.

    Attributes:
      single: `measures [2 N, M]` for `PolicyGenerator.sample`; NaN leaves a measure free.
      composed: `measures [3 N, M, M]` and `scales [3 N, M]` for `PolicyGenerator.sample_composed`.

    Both also hold `pair`, int32: rows of one number ask for the same measures in another way, and share their random
    numbers.
    """

    single: dict[str, np.ndarray]
    composed: dict[str, np.ndarray]


def named(count: int, width: int) -> np.ndarray:
    """Return the number `[N]` of the measure that each row's part names: all of them in turn."""
    return np.arange(count) % width


def build_requests(targets: np.ndarray) -> Requests:
    """Ask for each target in all ways.

    Args:
      targets: `[N, M]` in task units, M at least 2.

    Returns:
      N rows per way, in the order of `ASKED` and `COMPOSED`.

    Raises:
      ValueError: if there are fewer than two measures: nothing to compose.
    """
    count, width = targets.shape
    if width < 2:
        raise UserError(f"a composition takes at least 2 measures, found {width}")
    rows, each, which = np.arange(count), np.arange(width), named(count, width)
    parts = np.full((count, width, width), np.nan, np.float32)
    parts[:, each, each] = targets
    alone = np.zeros((count, width), np.float32)
    alone[rows, which] = 1.0
    unlike = alone.copy()
    unlike[rows, (which + 1) % width] = -1.0
    measures = np.concatenate([targets, np.where(alone > 0, targets, np.nan)]).astype(np.float32)
    scales = np.concatenate([np.ones_like(alone), alone, unlike])
    pair = lambda ways: np.tile(rows, len(ways)).astype(np.int32)  # noqa: E731
    return Requests(
        {"measures": measures, "pair": pair(ASKED)},
        {"measures": np.tile(parts, (len(COMPOSED), 1, 1)), "scales": scales, "pair": pair(COMPOSED)},
    )


def by_way(ways: tuple[str, ...], score: Score) -> dict[str, Score]:
    """Split scores of as many rows per way by the way of asking."""
    split = lambda leaf: np.split(np.asarray(leaf), len(ways))  # noqa: E731
    return {way: jax.tree.map(lambda leaf: split(leaf)[i], score) for i, way in enumerate(ways)}  # noqa: B023


def composition_metrics(
    grid: Tessellation, reference: Score, scores: dict[str, Score], offset: float
) -> dict[str, Any]:
    """Compare compositions with the joint condition, and parts with NOT with parts alone.

    Args:
      grid: the archive's grid.
      reference: `[N]` mean scores of the originals whose measures were asked for.
      scores: `[N]` by way of asking.
      offset: fitness offset of the QD score.

    Returns:
      For `joint` and `and`: MEM, ratios and success rate; `mem_difference`, of `and` less `joint`, paired. For `not`:
      how far the measure to avoid is from its value, `away`, against `away_without` for the part alone, their paired
      `difference`, and the `error` of the measure asked for against `error_without`.
    """
    result: dict[str, Any] = {"policies": len(reference.fitness)}
    for way in ("joint", "and"):
        whole = compare(grid, reference, scores[way], offset)
        result[way] = {name: whole[name] for name in SHOWN}
    result["mem_difference"] = paired(_errors(scores["and"], reference), _errors(scores["joint"], reference))
    which = named(*reference.measures.shape)
    avoided = (which + 1) % reference.measures.shape[1]
    error, without = (_error(scores[way], reference, avoided) for way in ("not", "part"))
    result["not"] = {
        "away": float(error.mean()),
        "away_without": float(without.mean()),
        "difference": paired(error, without),
        "error": float(_error(scores["not"], reference, which).mean()),
        "error_without": float(_error(scores["part"], reference, which).mean()),
        "reward_ratio": float(scores["not"].fitness.mean() / reference.fitness.mean()),
    }
    return result


def free_metrics(reference: Score, scores: dict[str, Score]) -> dict[str, Any]:
    """Compare conditions that leave measures free with the joint condition, by the measure that both name.

    Returns:
      `error` of the given measure (mean absolute, in its units), `joint_error`, their `ratio`, the paired `difference`,
      and `reward_ratio` of the policies that were free to choose.
    """
    which = named(*reference.measures.shape)
    free, joint = (_error(scores[way], reference, which) for way in ASKED[::-1])
    return {
        "policies": len(which),
        "error": float(free.mean()),
        "joint_error": float(joint.mean()),
        "ratio": float(free.mean() / joint.mean()) if joint.mean() > 0 else None,
        "difference": paired(free, joint),
        "reward_ratio": float(scores["free"].fitness.mean() / reference.fitness.mean()),
    }


def _errors(score: Score, reference: Score) -> np.ndarray:
    """Distances `[N]` over all measures."""
    return np.linalg.norm(np.asarray(score.measures) - np.asarray(reference.measures), axis=-1)


def _error(score: Score, reference: Score, which: np.ndarray) -> np.ndarray:
    """Absolute error `[N]` of one measure per row."""
    rows = np.arange(len(which))
    return np.abs(np.asarray(score.measures)[rows, which] - np.asarray(reference.measures)[rows, which])
