"""Verified draws: policies that the model drew while it was made, and what they achieved in rollouts.

A decoded policy deviates from its target, and a second evaluation shows the same deviation. So training keeps what it
evaluated: one row per draw, 30 bytes or so, with its latent, the measures given to the decoder, and what the policy
did. A request is then answered by a row that did what is asked for. Semi-parametric generation (Blattmann et al.,
NeurIPS 2022) with a database of the generator's own draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.errors import UserError
from ldpol.model.condition import Condition
from ldpol.types import Array, Key

LEVELS = 255
"""Of a table's column, between its least and largest value: a measure is kept to 0.002 of its range."""
QUALITY, WEIGHT = "quality", "log weight"
SOFTNESS = 0.01
"""Width over which a claim turns from true to false, in spans of its trait: traits are means of a few episodes."""
LEAST = 50.0
"""A claim that is false is as unlikely as this, in nats, so that sums of them stay finite."""


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
        return self.levels.astype(jnp.float32) * self.step


def latent_step(mean: Array, deviation: Array) -> Array:
    """Return the step `[c]` between levels that spans posteriors with means and deviations `[N, h, w, c]`.

    A number that every precision of a model's file can hold.
    """
    largest = (jnp.abs(mean) + 4.0 * deviation).max((0, 1, 2))
    return jnp.maximum(largest / 127.0, 1e-4).astype(jnp.bfloat16).astype(jnp.float32)


def round_draws(latents: Array, measures: Array, step: Array) -> RoundedDraws:
    """Round latents `[R, h, w, c]` to multiples of `step` `[c]`, and measures `[R, M]` in [0, 1] to 255ths."""
    levels = jnp.clip(jnp.round(latents / step), -127, 127).astype(jnp.int8)
    return RoundedDraws(levels, step, jnp.round(jnp.clip(measures, 0.0, 1.0) * LEVELS) / LEVELS)


@struct.dataclass
class VerifiedBank:
    """R draws and what they achieved.

    Attributes:
      levels: int8 `[R, h, w, c]` latents.
      step: `[c]` latent units per level.
      given: uint8 `[R, M]` measures given to the decoder, in 255ths.
      table: uint8 `[R, K]` what the policies achieved, see `columns`.
      low, high: `[K]` what levels 0 and 255 of each column are worth.
      columns: K names: the measures (scaled to [0, 1]), the task's traits and measures in their units where it has
        traits, the quantile of fitness among the elites, and the log of how often a row is drawn.
    """

    levels: Array
    step: Array
    given: Array
    table: Array
    low: Array
    high: Array
    columns: tuple[str, ...] = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return self.table.shape[0]

    @property
    def count(self) -> int:
        """How many measures, M: the first columns."""
        return self.given.shape[-1]

    @property
    def values(self) -> Array:
        """`[R, K]` the table in its units."""
        return self.low + (self.high - self.low) * self.table.astype(jnp.float32) / LEVELS

    @property
    def measures(self) -> Array:
        """`[R, M]` achieved, scaled to [0, 1]."""
        return self.values[:, : self.count]


def make_bank(
    draws: RoundedDraws,
    measures: np.ndarray,
    traits: np.ndarray,
    *,
    quality: np.ndarray,
    log_weight: np.ndarray,
    trait_names: Sequence[str],
) -> VerifiedBank:
    """Put a table together.

    Args:
      draws: R of them.
      measures: `[R, M]` achieved, scaled to [0, 1].
      traits: `[R, C]` achieved, in their units; C may be 0.
      quality: `[R]` quantiles of their fitness among the elites.
      log_weight: `[R]` how often each is drawn.
      trait_names: C names.

    Raises:
      UserError: if a value is not finite.
    """
    values = np.concatenate([measures, traits, quality[:, None], log_weight[:, None]], 1).astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{(~np.isfinite(values)).any(1).sum()} of {len(values)} verified draws hold NaN or infinity")
    low, high = values.min(0), values.max(0)
    low[: measures.shape[1]], high[: measures.shape[1]] = 0.0, 1.0  # so that equal rows stay equal in every bank
    span = np.maximum(high - low, 1e-6)
    table = np.clip(np.round((values - low) / span * LEVELS), 0, LEVELS).astype(np.uint8)
    names = (*(f"measure {i}" for i in range(measures.shape[1])), *trait_names, QUALITY, WEIGHT)
    given = jnp.round(draws.measures * LEVELS).astype(jnp.uint8)
    bounds = jnp.asarray(low), jnp.asarray(low + span)
    return VerifiedBank(draws.levels, draws.step, given, jnp.asarray(table), *bounds, columns=names)


def choose_rows(achieved: np.ndarray, targets: np.ndarray, rows: int) -> np.ndarray:
    """Choose the draws that answer the most requests: the nearest of every target first, then the second nearest, ...

    Args:
      achieved: `[R, M]`.
      targets: `[N, M]` what is going to be asked for.
      rows: how many to keep.

    Returns:
      Indices of at most `rows` draws, ascending.
    """
    if len(achieved) <= rows:
        return np.arange(len(achieved))
    distance = np.linalg.norm(targets[:, None] - achieved[None], axis=-1)
    order = np.argsort(distance, 1, kind="stable")
    kept: dict[int, None] = {}
    for rank in range(order.shape[1]):
        # Those that are nearest to their target first: where a rank does not fit whole, the best of it stays.
        column = order[:, rank]
        for row in column[np.argsort(distance[np.arange(len(targets)), column], kind="stable")]:
            kept.setdefault(int(row))
            if len(kept) == rows:
                return np.sort(np.fromiter(kept, int))
    return np.sort(np.fromiter(kept, int))


class Kernel(NamedTuple):
    """How far from a request a row may be.

    Attributes:
      measures: standard deviation, measures scaled to [0, 1].
      quality: standard deviation in quantiles.
    """

    measures: float
    quality: float = 0.1


class Source(NamedTuple):
    """Where a latent comes from.

    Attributes:
      verified: `[]` bool, from the verified draws; else from diffusion.
      distance: `[]` from the target to what the nearest verified draw achieved, over the measures that are asked for,
        scaled to [0, 1]; 0 where none is asked for, infinite without verified draws.
    """

    verified: Array
    distance: Array


def row_logits(
    bank: VerifiedBank, condition: Condition, kernel: Kernel, claims: Sequence[tuple[str, float, float]]
) -> Array:
    """Return how well each row answers a request, as log-likelihoods `[R]` up to a constant.

    What is left free says nothing; rows are also weighed as training weighs elites, or reward would be lost.

    Args:
      bank: the rows.
      condition: what is asked for.
      kernel: widths.
      claims: the L claims of the model's language, `(trait, low, high)`.
    """
    values = bank.values
    squared = (values[:, : bank.count] - condition.measures) ** 2
    logits = values[:, bank.columns.index(WEIGHT)] - 0.5 * squared @ condition.mask / kernel.measures**2
    away = condition.quality - values[:, bank.columns.index(QUALITY)]
    logits -= 0.5 * condition.quality_mask * away**2 / kernel.quality**2
    known = [i for i, (trait, *_) in enumerate(claims) if trait in bank.columns]
    if known and condition.text.shape[0]:
        place = np.array([bank.columns.index(claims[i][0]) for i in known])
        low, high = (jnp.asarray([claims[i][end] for i in known], jnp.float32) for end in (1, 2))
        found, width = values[:, place], jnp.maximum(SOFTNESS * (bank.high - bank.low)[place], 1e-6)
        truth = -jnp.logaddexp(0.0, -(found - low) / width) - jnp.logaddexp(0.0, -(high - found) / width)
        logits += condition.text_mask * jnp.maximum(truth, -LEAST) @ condition.text[jnp.asarray(known)]
    return logits


def answer_verified(
    key: Key,
    bank: VerifiedBank | None,
    condition: Condition,
    kernel: Kernel,
    drawn: tuple[Array, Array],
    *,
    claims: Sequence[tuple[str, float, float]] = (),
) -> tuple[Array, Array, Source]:
    """Answer a request by a verified draw that did what is asked for, if there is one. Pure: jit and vmap it.

    Args:
      key: one key, one row.
      bank: the rows; None answers nothing.
      condition: what is asked for.
      kernel: widths; the bank answers where a row lies within two of them.
      drawn: latent `[h, w, c]` and measures `[M]` to decode otherwise: a draw of the diffusion model.
      claims: of the model's language.

    Returns:
      Latent `[h, w, c]`, the measures `[M]` in [0, 1] to decode it with, and where they come from.
    """
    if bank is None:
        return *drawn, Source(jnp.zeros((), bool), jnp.full((), jnp.inf))
    distance = jnp.sqrt((((bank.measures - condition.measures) ** 2) @ condition.mask).min())
    near = distance <= 2.0 * kernel.measures
    row = jax.random.categorical(key, row_logits(bank, condition, kernel, claims))
    latent = bank.levels[row].astype(jnp.float32) * bank.step
    measures = bank.given[row].astype(jnp.float32) / LEVELS
    return jnp.where(near, latent, drawn[0]), jnp.where(near, measures, drawn[1]), Source(near, distance)
