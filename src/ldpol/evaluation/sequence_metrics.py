"""What episodes of several behaviours come to: survival, fitness, accuracy, and which switches succeed."""

import jax.numpy as jnp
import numpy as np

from ldpol.archive import Grid, Tessellation
from ldpol.errors import UserError
from ldpol.evaluation.intervals import Estimate, Ratio, difference, estimate
from ldpol.planning.sequencing import SequenceScore
from ldpol.types import Array

LONG = 0.8
"""Part of the full length that an episode must exceed to count as survived, as published."""


def regions(grid: Tessellation, sides: int = 3) -> Grid:
    """Return a grid of `sides` regions a measure over the same measure space, for `transitions`."""
    return Grid((sides,) * grid.dimensions, grid.low, grid.high)


def sequence_ratios(
    score: SequenceScore, targets: Array, *, steps: int, within: float, areas: Grid
) -> dict[str, Ratio]:
    """Return what each sequence adds to every metric.

    Args:
      score: `[S, E]`.
      targets: `[S, K, M]` the measures asked for; NaN where one was left free.
      steps: of a segment.
      within: distance of a hit, in measure units, such as a cell's diagonal.
      areas: R regions of the measure space.

    Returns:
      `survival`: share of episodes longer than 0.8 T; `length` in steps; `fitness`; `mem`: mean L2 distance of target
      to achieved measures over the segments that were measured, `[]`, and `segment_mem` `[K]`; `hits`: share of ALL
      segments asked for that were survived, measured and within the distance (a method that falls on hard segments
      cannot gain by it, as it can in `mem`); `reached` `[K]`; `segment_survival` `[K]`: share of the episodes that
      reached a segment and survived it; `transitions` `[R, R]`: the same by the regions asked for before and after a
      switch, row-major regions; `look_ahead`: environment steps an episode spent on choices.

    Raises:
      ValueError: if scores and targets do not fit together.
    """
    segments = score.segments
    measures, lived, survived = np.asarray(segments.measures), np.asarray(segments.lived), np.asarray(segments.survived)
    target = np.asarray(targets, np.float32)
    if measures.ndim != 4 or target.shape != (measures.shape[0], *measures.shape[2:]):
        raise UserError(
            f"scores of {measures.shape[:-1]} (sequences, episodes, segments) do not fit targets of shape "
            f"{target.shape}; expected targets [S, K, M] of the same sequences"
        )
    full = steps * measures.shape[2]
    reached = lived > 0
    counted = np.broadcast_to(np.isfinite(target).max(-1)[:, None], reached.shape)
    measured = counted & ~np.isnan(measures).any(-1)
    error = np.where(np.isnan(target)[:, None] | np.isnan(measures), 0.0, measures - target[:, None])
    distance = np.where(measured, np.linalg.norm(error, axis=-1), 0.0)
    hit = measured & survived & (distance < within)
    return {
        "survival": _mean(np.asarray(score.length) > LONG * full),
        "length": _mean(np.asarray(score.length)),
        "fitness": _mean(np.asarray(score.fitness)),
        "mem": Ratio(distance.sum((1, 2)), measured.sum((1, 2))),
        "segment_mem": Ratio(distance.sum(1), measured.sum(1)),
        "hits": Ratio(hit.sum((1, 2)), counted.sum((1, 2))),
        "reached": _mean(reached),
        "segment_survival": Ratio(survived.sum(1), reached.sum(1)),
        "transitions": _transitions(target, reached, survived, areas),
        "look_ahead": _mean(np.asarray(score.look_ahead)),
    }


def summarise_sequences(
    score: SequenceScore, targets: Array, *, steps: int, within: float, areas: Grid
) -> dict[str, Estimate]:
    """Return the metrics of one method, each with its interval over sequences; arguments as in `sequence_ratios`."""
    ratios = sequence_ratios(score, targets, steps=steps, within=within, areas=areas)
    return {name: estimate(ratio) for name, ratio in ratios.items()}


def compare_sequences(
    one: SequenceScore, other: SequenceScore, targets: Array, *, steps: int, within: float, areas: Grid
) -> dict[str, Estimate]:
    """Return the metrics of one method less those of another, paired by sequence; arguments as in `sequence_ratios`.

    Both must have been played with the same keys. `mem` and `segment_mem` compare the segments each of them reached.
    """
    both = [sequence_ratios(score, targets, steps=steps, within=within, areas=areas) for score in (one, other)]
    return {name: difference(both[0][name], both[1][name]) for name in both[0]}


def _mean(values: np.ndarray) -> Ratio:
    """Return the mean over episodes of `[S, E, ...]`."""
    return Ratio(values.sum(1, dtype=float), np.full((values.shape[0], *values.shape[2:]), values.shape[1]))


def _transitions(targets: np.ndarray, reached: np.ndarray, survived: np.ndarray, areas: Grid) -> Ratio:
    """Count, by the regions asked for before and after a switch, the episodes that met it and that survived it."""
    known = np.isfinite(targets).min(-1)
    region = np.asarray(areas.index(jnp.where(known[..., None], targets, jnp.asarray(areas.low)[None, None])))
    counts = np.zeros((2, len(targets), areas.cells, areas.cells))
    for s in range(len(targets)):
        for k in range(1, targets.shape[1]):
            if known[s, k - 1] and known[s, k]:
                # The first switch, into the first segment, has nothing before it and is not counted.
                counts[:, s, region[s, k - 1], region[s, k]] += survived[s, :, k].sum(), reached[s, :, k].sum()
    return Ratio(*counts)
