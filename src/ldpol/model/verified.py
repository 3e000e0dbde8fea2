"""Verified draws: policies that the model drew while it was made, and what they achieved in rollouts.

A decoded policy deviates from its target, and a second evaluation shows the same deviation. So training keeps what it
evaluated: one row per draw, 30 bytes or so, with its latent, the measures given to the decoder, and what the policy
did. A request is then answered by a row that did what is asked for. Semi-parametric generation (Blattmann et al.,
NeurIPS 2022) with a database of the generator's own draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.errors import UserError
from ldpol.measures import parts
from ldpol.types import Array

LEVELS = 255
"""Of a table's column, between its least and largest value, and of the measures that are given to the decoder."""
FINE = 60000
"""Levels of achieved measures: a grid of a thousand cells in one measure needs more than 255. Shares of 500 or 1,000
steps, averaged over 10 episodes, are whole levels, and so are the borders of most grids: rounding moves none across."""
QUALITY, WEIGHT, FITNESS = "quality", "log weight", "fitness"
RANKS = 64
"""Draws that may be kept for the sake of one target."""


class RoundedDraws(NamedTuple):
    """Draws as a bank keeps them: rounded before they are evaluated, so that what is kept is what was evaluated.

    Attributes:
      levels: int8 `[R, h, w, c]`.
      step: `[c]` latent units per level.
      measures: `[R, M]` given to the decoder, multiples of 1 / 255.
    """

    levels: Array
    step: Array
    measures: Array

    @property
    def latents(self) -> Array:
        """`[R, h, w, c]`."""
        return self.levels.astype(jnp.float32) * self.step[None, None, None]


def latent_step(mean: Array, deviation: Array) -> Array:
    """Return the step `[c]` between levels that spans posteriors with means and deviations `[N, h, w, c]`.

    A number that every precision of a model's file can hold.
    """
    largest = (jnp.abs(mean) + 4.0 * deviation).max((0, 1, 2))
    return jnp.maximum(largest / 127.0, 1e-4).astype(jnp.bfloat16).astype(jnp.float32)


def round_draws(latents: Array, measures: Array, step: Array) -> RoundedDraws:
    """Round latents `[R, h, w, c]` to multiples of `step` `[c]`, and measures `[R, M]` in [0, 1] to 255ths."""
    levels = jnp.clip(jnp.round(latents / step[None, None, None]), -127, 127).astype(jnp.int8)
    return RoundedDraws(levels, step, in_levels(measures).astype(jnp.float32) / LEVELS)


def in_levels(measures: Array, levels: int = LEVELS) -> Array:
    """Return measures `[..., M]`, scaled to [0, 1], in 255ths, uint8, or other levels, uint16."""
    return jnp.round(jnp.clip(measures, 0.0, 1.0) * levels).astype(jnp.uint8 if levels <= LEVELS else jnp.uint16)


@struct.dataclass
class VerifiedBank:
    """R draws and what they achieved.

    Attributes:
      levels: int8 `[R, h, w, c]` latents.
      step: `[c]` latent units per level.
      given: uint8 `[R, M]` measures given to the decoder, in 255ths.
      achieved: uint16 `[R, M]` measures that the policies achieved, in 60000ths of their range.
      table: uint8 `[R, K]` what else they achieved, see `columns`.
      low, high: `[K]` what levels 0 and 255 of each column are worth.
      columns: K names: the task's traits and measures in their units where it has traits, the quantile of fitness
        among the elites, the log of how often a row is drawn, and the fitness where it is known.
    """

    levels: Array
    step: Array
    given: Array
    achieved: Array
    table: Array
    low: Array
    high: Array
    columns: tuple[str, ...] = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return self.table.shape[0]

    @property
    def values(self) -> Array:
        """`[R, K]` the table in its units."""
        return self.low[None] + (self.high - self.low)[None] * self.table.astype(jnp.float32) / LEVELS

    @property
    def measures(self) -> Array:
        """`[R, M]` achieved, scaled to [0, 1]."""
        return self.achieved.astype(jnp.float32) / FINE

    @property
    def features(self) -> Array:
        """`[R, C]` how the policies move: each trait scaled to [0, 1]; the measures for a task without traits."""
        apart = (QUALITY, WEIGHT, FITNESS)
        traits = [i for i, name in enumerate(self.columns) if name not in apart]
        return self.table[:, np.array(traits)].astype(jnp.float32) / LEVELS if traits else self.measures

    @property
    def fitness(self) -> Array | None:
        """`[R]` achieved, in the task's units; None where it is not known."""
        return self.values[:, self.columns.index(FITNESS)] if FITNESS in self.columns else None


def make_bank(
    draws: RoundedDraws,
    measures: np.ndarray,
    traits: np.ndarray,
    *,
    quality: np.ndarray,
    log_weight: np.ndarray,
    trait_names: Sequence[str],
    fitness: np.ndarray | None = None,
) -> VerifiedBank:
    """Put a table together.

    Args:
      draws: R of them.
      measures: `[R, M]` achieved, scaled to [0, 1].
      traits: `[R, C]` achieved, in their units; C may be 0.
      quality: `[R]` quantiles of their fitness among the elites.
      log_weight: `[R]` how often each is drawn.
      trait_names: C names.
      fitness: `[R]` achieved, in the task's units; None leaves the column out.

    Raises:
      UserError: if a value is not finite.
    """
    worth = [] if fitness is None else [fitness]
    single = np.stack([quality, log_weight, *worth], 1)
    values = np.concatenate([traits, single], 1).astype(np.float32)
    finite = np.isfinite(values).all(1) & np.isfinite(measures).all(1)
    if not finite.all():
        raise UserError(f"{(~finite).sum()} of {len(values)} verified draws hold NaN or infinity")
    low = values.min(0)
    span = np.maximum(values.max(0) - low, 1e-6)
    table = np.clip(np.round((values - low) / span * LEVELS), 0, LEVELS).astype(np.uint8)
    names = (*trait_names, QUALITY, WEIGHT, *([FITNESS] if worth else []))
    given, achieved = in_levels(draws.measures), in_levels(jnp.asarray(measures), FINE)
    bounds = jnp.asarray(low), jnp.asarray(low + span)
    return VerifiedBank(draws.levels, draws.step, given, achieved, jnp.asarray(table), *bounds, columns=names)


def choose_rows(
    achieved: np.ndarray,
    targets: np.ndarray,
    rows: int,
    *,
    width: float,
    log_weight: np.ndarray | float = 0.0,
    cells: tuple[np.ndarray, np.ndarray] | None = None,
    own_cell: float = 0.0,
) -> np.ndarray:
    """Choose the draws that answer the most requests: the likeliest of every target first, then the second, ...

    How likely a draw answers is what `answering.row_logits` makes of a request for measures.

    Args:
      achieved: `[R, M]` scaled to [0, 1].
      targets: `[N, M]` what is going to be asked for, scaled to [0, 1].
      rows: how many to keep.
      width: standard deviation of the kernel on measures.
      log_weight: `[R]` how often each is drawn at equal distance.
      cells: `[R]` and `[N]` the cells of `achieved` and `targets`, where draws of a target's own answer more often.
      own_cell: by how much, in nats.

    Returns:
      Indices of at most `rows` draws, ascending.
    """
    if len(achieved) <= rows:
        return np.arange(len(achieved))
    log_weight = np.broadcast_to(np.asarray(log_weight, np.float32), len(achieved))
    ranks = min(RANKS, len(achieved))
    order, cost = np.empty((len(targets), ranks), int), np.empty((len(targets), ranks), np.float32)
    for part in parts(len(targets)):
        squared = ((targets[part, None] - achieved[None]) ** 2).sum(-1)
        costs = 0.5 * squared / width**2 - log_weight[None]
        if cells is not None:
            costs -= own_cell * (cells[1][part, None] == cells[0][None])
        order[part] = np.argsort(costs, 1, kind="stable")[:, :ranks]
        cost[part] = np.take_along_axis(costs, order[part], 1)
    kept: dict[int, None] = {}
    for rank in range(ranks):
        # Those that answer best first: where a rank does not fit whole, the best of it stays.
        for row in order[np.argsort(cost[:, rank], kind="stable"), rank]:
            kept.setdefault(int(row))
            if len(kept) == rows:
                return np.sort(np.fromiter(kept, int))
    return np.sort(np.fromiter(kept, int))
