"""Conditions put together from parts: what to ask for, and how the answers compare with asking for the whole.

The joint condition names all measures at once. Its parts name one measure each; training saw each of them, but never
their composition. The decoder sees measures too, so a composition is asked for twice: with the decoder told the joint
condition, and with the decoder told nothing, where whatever is reached comes from the composed denoiser alone.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from ldpol.archive import Grid
from ldpol.evaluation.intervals import paired
from ldpol.evaluation.metrics import compare
from ldpol.types import Score

KINDS = ("joint", "and", "joint_untold", "and_untold", "part", "not")
"""Ways to ask for the same measures: at once, as AND of parts, both again with a decoder that is told nothing, one part
alone, and that part but NOT the next one."""
SHOWN = ("mem", "reward_ratio", "coverage_ratio", "success_rate")


class Requests(NamedTuple):
    """What to hand to `PolicyGenerator.sample_composed`, one row a policy.

    Attributes:
      measures: `[R, M, M]` M conditions each; NaN leaves a measure free.
      scales: `[R, M]` their strengths.
      decoded_as: `[R, M]` what the decoder is told.
      pair: `[R]` int32; rows of one number ask for the same measures in another way, and share their random numbers.
    """

    measures: np.ndarray
    scales: np.ndarray
    decoded_as: np.ndarray
    pair: np.ndarray


def named(count: int, width: int) -> np.ndarray:
    """Return the number `[N]` of the measure that each row's part names: all of them in turn."""
    return np.arange(count) % width


def build_requests(targets: np.ndarray) -> Requests:
    """Ask for each target in all `KINDS` of ways.

    Args:
      targets: `[N, M]` in task units, M at least 2.

    Returns:
      R = 6 N rows, kind by kind.

    Raises:
      ValueError: if there are fewer than two measures: nothing to compose.
    """
    count, width = targets.shape
    if width < 2:
        raise ValueError(f"a composition takes at least 2 measures, found {width}")
    nothing = np.full((count, width, width), np.nan, np.float32)
    whole, parts = nothing.copy(), nothing.copy()
    whole[:, 0] = targets
    each = np.arange(width)
    parts[:, each, each] = targets
    which, rows = named(count, width), np.arange(count)
    alone, after = np.zeros((count, width), np.float32), (which + 1) % width
    alone[rows, which] = 1.0
    unlike = alone.copy()
    unlike[rows, after] = -1.0
    first, all_ = np.zeros((count, width), np.float32), np.ones((count, width), np.float32)
    first[:, 0] = 1.0
    untold = np.full((count, width), np.nan, np.float32)
    part = np.where(alone > 0, targets, np.nan).astype(np.float32)
    # kind:      joint    and      untold          untold          part   not
    measures = (whole, parts, whole, parts, parts, parts)
    scales = (first, all_, first, all_, alone, unlike)
    told = (targets, targets, untold, untold, part, part)
    return Requests(
        np.concatenate(measures),
        np.concatenate(scales),
        np.concatenate(told).astype(np.float32),
        np.tile(rows, len(KINDS)).astype(np.int32),
    )


def by_kind(score: Score) -> dict[str, Score]:
    """Split the scores `[6 N]` of `build_requests` by the way of asking."""
    split = lambda leaf: np.split(np.asarray(leaf), len(KINDS))  # noqa: E731
    return {kind: jax.tree.map(lambda leaf: split(leaf)[i], score) for i, kind in enumerate(KINDS)}  # noqa: B023


def composition_metrics(grid: Grid, reference: Score, scores: dict[str, Score], offset: float) -> dict[str, Any]:
    """Compare compositions with the joint condition, and parts with NOT with parts alone.

    Args:
      grid: the archive's grid.
      reference: `[N]` mean scores of the originals whose measures were asked for.
      scores: `[N]` by way of asking.
      offset: fitness offset of the QD score.

    Returns:
      For `joint`, `and` and both untold: MEM, ratios and success rate; `mem_difference`, of `and` less `joint`, and
      `mem_difference_untold`, paired. For `not`: how far the measure to avoid is from its value, `away`, against
      `away_without` for the part alone, their paired `difference`, and the `error` of the measure asked for against
      `error_without`.
    """
    result: dict[str, Any] = {"policies": len(reference.fitness)}
    for kind in KINDS[:4]:
        whole = compare(grid, reference, scores[kind], offset)
        result[kind] = {name: whole[name] for name in SHOWN}
    for suffix in ("", "_untold"):
        composed, whole = (_miss(scores[f"{kind}{suffix}"], reference) for kind in ("and", "joint"))
        result[f"mem_difference{suffix}"] = paired(composed, whole)
    which = named(*reference.measures.shape)
    avoided = (which + 1) % reference.measures.shape[1]
    away, without = (_error(scores[kind], reference, avoided) for kind in ("not", "part"))
    result["not"] = {
        "away": float(away.mean()),
        "away_without": float(without.mean()),
        "difference": paired(away, without),
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
    free, joint = (_error(scores[kind], reference, which) for kind in ("part", "joint"))
    return {
        "policies": len(which),
        "error": float(free.mean()),
        "joint_error": float(joint.mean()),
        "ratio": float(free.mean() / joint.mean()) if joint.mean() > 0 else None,
        "difference": paired(free, joint),
        "reward_ratio": float(scores["part"].fitness.mean() / reference.fitness.mean()),
    }


def _miss(score: Score, reference: Score) -> np.ndarray:
    return np.linalg.norm(np.asarray(score.measures) - np.asarray(reference.measures), axis=-1)


def _error(score: Score, reference: Score, which: np.ndarray) -> np.ndarray:
    """Absolute error `[N]` of one measure a row."""
    rows = np.arange(len(which))
    return np.abs(np.asarray(score.measures)[rows, which] - np.asarray(reference.measures)[rows, which])
