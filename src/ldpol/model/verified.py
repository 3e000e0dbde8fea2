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

from ldpol.archive import Tessellation
from ldpol.errors import UserError
from ldpol.types import Array

LEVELS = 255
"""Of a table's column, between its least and largest value, and of the measures that are given to the decoder."""
FINE = 60000
"""Levels of achieved measures: a grid of a thousand cells in one measure needs more than 255. Shares of 500 or 1,000
steps, averaged over 10 episodes, are whole levels, and so are the borders of most grids: rounding moves none across."""
QUALITY, WEIGHT, FITNESS = "quality", "log weight", "fitness"


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
    return RoundedDraws(levels, step, of_levels(in_levels(measures)))


def in_levels(measures: Array, levels: int = LEVELS) -> Array:
    """Return measures `[..., M]`, scaled to [0, 1], in 255ths, uint8, or in `FINE` levels, uint16."""
    return jnp.round(jnp.clip(measures, 0.0, 1.0) * levels).astype(jnp.uint8 if levels <= LEVELS else jnp.uint16)


def of_levels(stored: Array) -> Array:
    """Return measures in [0, 1] that `in_levels` made 255ths of, uint8, or 60000ths, uint16."""
    return stored.astype(jnp.float32) / (LEVELS if stored.dtype == jnp.uint8 else FINE)


def in_cell(grid: Tessellation, achieved: Array, place: Array) -> Array:
    """Return which of the measures `[R, M]` are in the cell of `place` `[M]`, all scaled to [0, 1]; `[R]` bool."""
    cells, asked = (grid.index(grid.unscaled(one)) for one in (achieved, place[None]))
    return cells == asked


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
        return of_levels(self.achieved)

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
