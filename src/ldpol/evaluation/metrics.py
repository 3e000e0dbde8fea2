"""Numbers that compare a generated archive with the original one; all on re-evaluated scores."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Grid, Tessellation, best_per_cell, grid_metrics
from ldpol.errors import UserError
from ldpol.measures import parts
from ldpol.rollout import Apply
from ldpol.types import Array, Key, Params, Score

RATIOS = ("reward_ratio", "coverage_ratio", "qd_ratio")


def distances(targets: Array, achieved: Array) -> Array:
    """Return the L2 distance `[N]` between targets and achieved measures, both `[N, M]`."""
    return jnp.linalg.norm(targets - achieved, axis=-1)


def js_divergence(grid: Tessellation, one: Array, other: Array) -> float:
    """Return the Jensen-Shannon divergence of two samples of measures, in bits, 0 (same) to 1 (disjoint).

    Args:
      grid: whose cells, merged to at most 10 per measure, are the histogram's bins.
      one: `[N, M]`.
      other: `[N', M]`.
    """
    coarse = Grid(tuple(min(10, side) for side in grid.regular.shape), grid.low, grid.high)
    p, q = (np.bincount(np.asarray(coarse.index(x)), minlength=coarse.cells) / len(x) for x in (one, other))
    middle = (p + q) / 2

    def relative_entropy(a: np.ndarray) -> float:
        used = a > 0
        return float(np.sum(a[used] * np.log2(a[used] / middle[used])))

    return (relative_entropy(p) + relative_entropy(q)) / 2


def action_distance(apply: Apply, policies: Params, observations: Array) -> Array:
    """Return how differently N policies act, `[]`: the mean L2 distance of actions over all pairs and observations.

    Args:
      apply: `(params, observation [O]) -> action [A]`.
      policies: N policies, for instance samples of one condition: leading axis on every leaf.
      observations: `[B, O]` where they act.

    Raises:
      ValueError: if there is no pair or no observation.
    """
    count = jax.tree.leaves(policies)[0].shape[0]
    if count < 2 or not observations.shape[0]:
        raise UserError(
            f"a distance between policies takes at least 2 policies and 1 observation, found {count} and "
            f"{observations.shape[0]}"
        )
    actions = jax.vmap(lambda params: jax.vmap(lambda seen: apply(params, seen))(observations))(policies)
    one, other = np.triu_indices(count, 1)
    return distances(actions[one], actions[other]).mean()


def diversity(
    apply: Apply, sample: Callable[[Key, Array], Params], targets: Array, keys: Key, observations: Array
) -> Array:
    """Return how differently several policies of one condition act, `[]`, averaged over conditions.

    Args:
      apply: `(params, observation [O]) -> action [A]`.
      sample: `(key, measures [M]) -> one policy`.
      targets: `[N, M]` the conditions.
      keys: `[N, S]`, one per policy.
      observations: `[N, B, O]` where the policies of a condition act.
    """

    def one(part: tuple[Array, Key, Array]) -> Array:
        target, keys, seen = part
        return action_distance(apply, jax.vmap(sample, (0, None))(keys, target), seen)

    return jax.lax.map(one, (targets, keys, observations)).mean()


def summarise(grid: Tessellation, score: Score, offset: float) -> dict[str, float]:
    """Insert N scores into an empty grid and return its `cells`, `coverage`, `qd_score`, `best`, `mean`."""
    best = best_per_cell(grid, jnp.asarray(score.fitness), jnp.asarray(score.measures))
    return {name: float(value) for name, value in grid_metrics(best, offset).items()}


def expected_cells(grid: Tessellation, measures: Array | np.ndarray) -> float:
    """Return how many cells N policies fill on average if each plays one episode, from E episodes of each.

    Sum over cells of `1 - prod_i (1 - p_i)`, where `p_i` is the share of the episodes of policy i that end in the cell.
    Policies are independent, so that this has no bias, and it varies much less than a count of cells.

    Args:
      grid: the cells.
      measures: `[N, E, M]` of single episodes.
    """
    count, episodes = measures.shape[:2]
    cells = np.asarray(grid.index(jnp.asarray(measures))).astype(np.int64)
    places, times = np.unique(np.arange(count)[:, None] * grid.cells + cells, return_counts=True)
    empty = np.zeros(grid.cells)  # logarithm of the probability that nobody comes
    with np.errstate(divide="ignore"):
        np.add.at(empty, places % grid.cells, np.log1p(-times / episodes))
    return float(-np.expm1(empty).sum())


def slope(targets: np.ndarray, achieved: np.ndarray, *, neighbours: int = 40) -> float:
    """Return how much of a target's deviation from its neighbourhood is achieved: 1 for all, 0 for the average of it.

    Regression of achieved on target measures, both less the mean target of the nearest ones, over all measures. A
    policy that shrinks towards what is common scores below 1, which coverage does not show; noise does not change it.

    Args:
      targets: `[N, M]`.
      achieved: `[N, M]`.
      neighbours: how many of the nearest targets make a neighbourhood, the target itself left out.
    """
    targets, achieved = np.asarray(targets, np.float64), np.asarray(achieved, np.float64)
    count = min(neighbours, len(targets) - 1)
    if count < 1:
        return math.nan
    centre = np.empty_like(targets)
    for rows in parts(len(targets)):
        near = np.linalg.norm(targets[rows, None] - targets[None], axis=-1)
        near[np.arange(len(rows)), rows] = np.inf
        centre[rows] = targets[np.argpartition(near, count - 1, axis=1)[:, :count]].mean(1)
    wanted = targets - centre
    power = float((wanted**2).sum())
    return float((wanted * (achieved - centre)).sum()) / power if power else math.nan


def jittered(grid: Tessellation, reference: Score, mem: float, seed: int) -> Score:
    """Return the reference with Gaussian noise on its measures that makes it miss by `mem` on average.

    Noise fills cells, so coverage alone does not tell a copy from a noisy one: this is what noise alone would score.

    Args:
      grid: gives the measures' bounds; what noise carries over them is clipped.
      reference: `[N]` mean scores; fitness stays.
      mem: mean distance.
      seed: of the noise.
    """
    measures = np.asarray(reference.measures, np.float64)
    noise = np.random.default_rng(seed).normal(size=measures.shape)
    noise *= mem / np.linalg.norm(noise, axis=-1).mean()
    noisy = np.clip(measures + noise, grid.low, grid.high).astype(np.float32)
    return dataclasses.replace(reference, measures=noisy)  # type: ignore[arg-type]


def occupied(grid: Tessellation, measures: Array) -> set[int]:
    """Return the cells that measures `[N, M]` lie in."""
    return set(np.asarray(grid.index(jnp.asarray(measures))).tolist())


def compare(grid: Tessellation, reference: Score, other: Score, offset: float) -> dict[str, Any]:
    """Compare scores `[N]` with the reference scores `[N]` of the policies they stand for, row by row.

    Args:
      grid: the archive's grid.
      reference: mean scores of the original policies; their measures are the targets.
      other: mean scores of what is compared.
      offset: fitness offset of the QD score.

    Returns:
      `reward_ratio` (means over all conditions, no grid), `coverage_ratio`, `qd_ratio` (fresh grids on both sides),
      `mem` (mean L2 of target to achieved), `success_rate` (distance below one cell's diagonal), `js_divergence`,
      `best_reward`, and `policies`.
    """
    was, now = summarise(grid, reference, offset), summarise(grid, other, offset)
    distance = distances(jnp.asarray(reference.measures), jnp.asarray(other.measures))
    return {
        "reward_ratio": float(np.mean(other.fitness) / np.mean(reference.fitness)),
        "coverage_ratio": now["cells"] / was["cells"],
        "qd_ratio": now["qd_score"] / was["qd_score"],
        "mem": float(distance.mean()),
        "success_rate": float((distance < grid.diagonal).mean()),
        "js_divergence": js_divergence(grid, reference.measures, other.measures),
        "best_reward": now["best"],
        "policies": len(np.asarray(reference.fitness)),
    }
