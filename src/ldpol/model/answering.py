"""What answers a request from verified draws: a kernel over what they achieved."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Tessellation
from ldpol.model.condition import Condition
from ldpol.model.verified import QUALITY, WEIGHT, VerifiedBank, in_cell, of_levels
from ldpol.types import Array, Key

BORDER = 0.0005
"""Width over which a claim turns from true to false, in spans of its trait: next to none, for what a row did is known.
A near miss is still a better answer than a far one, where no row does all that is claimed."""
LEAST = 50.0
"""A claim that is false is as unlikely as this, in nats, so that sums of them stay finite."""
CANDIDATES = 4
"""Rows among which each policy of a set is chosen."""
Claims: TypeAlias = Sequence[tuple[str, float, float]]


class Kernel(NamedTuple):
    """How far from a request a row may be.

    Attributes:
      measures: standard deviation, measures scaled to [0, 1].
      spread: distance from the request within which rows of a set may lie, measures scaled to [0, 1].
      cell: how much likelier a row is drawn that is in the cell of a complete request, in nats.
      quality: standard deviation in quantiles.
    """

    measures: float = 0.0
    spread: float = 0.0
    cell: float = 0.0
    quality: float = 0.1


class Source(NamedTuple):
    """Where a latent comes from.

    Attributes:
      verified: `[]` bool, from the verified draws; else from diffusion.
      distance: `[]` from the target to what the nearest verified draw achieved, over the measures that are asked for,
        scaled to [0, 1]; 0 where none is asked for, infinite without verified draws. The farther away, the worse a
        policy meets the request, whatever draws it: measured, diffusion misses by more than the nearest draw at any
        distance.
    """

    verified: Array
    distance: Array


def row_logits(
    bank: VerifiedBank, condition: Condition, kernel: Kernel, grid: Tessellation, claims: Claims = ()
) -> Array:
    """Return how well each row answers a request, as log-likelihoods `[R]` up to a constant.

    What is left free says nothing; rows are also weighed as training weighs elites, or reward would be lost.

    Args:
      bank: the rows.
      condition: what is asked for.
      kernel: widths.
      grid: says which rows are in the cell of a request for all measures.
      claims: the L claims of the model's language, `(trait, low, high)`.
    """
    values = bank.values
    squared = (bank.measures - condition.measures[None]) ** 2
    logits = values[:, bank.columns.index(WEIGHT)] - 0.5 * squared @ condition.mask / kernel.measures**2
    if kernel.cell:
        logits += kernel.cell * condition.mask.prod() * in_cell(grid, bank.measures, condition.measures)
    away = condition.quality - values[:, bank.columns.index(QUALITY)]
    logits -= 0.5 * condition.quality_mask * away**2 / kernel.quality**2
    known = [i for i, (trait, *_) in enumerate(claims) if trait in bank.columns]
    if known and condition.text.shape[0]:
        place = np.array([bank.columns.index(claims[i][0]) for i in known])
        low, high = (jnp.asarray([[claims[i][end] for i in known]], jnp.float32) for end in (1, 2))
        found, width = values[:, place], jnp.maximum(BORDER * (bank.high - bank.low)[place], 1e-6)[None]
        truth = -jnp.logaddexp(0.0, -(found - low) / width) - jnp.logaddexp(0.0, -(high - found) / width)
        logits += condition.text_mask * jnp.maximum(truth, -LEAST) @ condition.text[jnp.asarray(known)]
    return logits


def answer_verified(
    key: Key, bank: VerifiedBank, condition: Condition, kernel: Kernel, grid: Tessellation, *, claims: Claims = ()
) -> tuple[Array, Array, Source]:
    """Answer a request by one of the verified draws that did what is asked for, or else by the nearest. Pure.

    Args:
      key: one key, one row.
      bank: the rows.
      condition: what is asked for.
      kernel: widths.
      grid: see `row_logits`.
      claims: of the model's language.

    Returns:
      Latent `[h, w, c]`, the measures `[M]` in [0, 1] to decode it with, and where they come from.
    """
    row = jax.random.categorical(key, row_logits(bank, condition, kernel, grid, claims))
    source = Source(jnp.ones((), bool), row_distances(bank, condition).min())
    return *row_content(bank, row), source


def answer_set(
    key: Key,
    count: int,
    bank: VerifiedBank,
    condition: Condition,
    kernel: Kernel,
    grid: Tessellation,
    *,
    claims: Claims = (),
) -> tuple[Array, Array, Source]:
    """Answer one request by n verified draws that differ. Pure: jit (`count` static) and vmap it.

    Of `CANDIDATES` n rows, drawn without replacement as likely as one is drawn alone, the first is kept, then always
    the one that did the most different things from those kept so far (farthest-point choice in traits). Where fewer
    than n rows lie within the kernel's spread and break no claim, the next likeliest make up the number.

    Args:
      key: one key, one set.
      count: n, at most as many as there are rows.
      bank: the rows.
      condition: what is asked for.
      kernel: widths.
      grid: see `row_logits`.
      claims: of the model's language.

    Returns:
      Latents `[n, h, w, c]`, the measures `[n, M]` to decode them with, and where each comes from.
    """
    logits, distance = row_logits(bank, condition, kernel, grid, claims), row_distances(bank, condition)
    logits -= logits.max()
    # A row that breaks a claim is a poor answer, however different it is.
    near = (distance <= kernel.spread) & (logits >= -0.5 * LEAST)
    # Whatever is near comes before whatever is not: no row that is near is less likely than this.
    order = logits + 2.0 * LEAST * near + jax.random.gumbel(key, logits.shape)
    _, rows = jax.lax.top_k(order, min(CANDIDATES * count, len(bank)))
    possible, features = near[rows] | (jnp.arange(len(rows)) < count), bank.features[rows]

    def choose(gap: Array, _: None) -> tuple[Array, Array]:
        best = jnp.argmax(gap)
        nearer = jnp.minimum(gap, jnp.linalg.norm(features - features[best][None], axis=-1))
        return nearer.at[best].set(-jnp.inf), rows[best]

    # Nothing is chosen yet: all gaps are alike but for a little that puts the row that was drawn first in front.
    gap = jnp.where(possible, 1e6 - jnp.arange(len(rows)), -jnp.inf)
    _, row = jax.lax.scan(choose, gap, None, length=count)
    latents, measures = jax.vmap(lambda one: row_content(bank, one))(row)
    return latents, measures, Source(jnp.ones(count, bool), jnp.full(count, distance.min()))


def row_distances(bank: VerifiedBank, condition: Condition) -> Array:
    """Return how far each row is from the measures that are asked for, `[R]`, measures scaled to [0, 1]."""
    return jnp.sqrt(((bank.measures - condition.measures[None]) ** 2) @ condition.mask)


def row_content(bank: VerifiedBank, row: Array) -> tuple[Array, Array]:
    """Return the latent `[h, w, c]` of one row and the measures `[M]` to decode it with."""
    latent = bank.levels[row].astype(jnp.float32) * bank.step[None, None]
    return latent, of_levels(bank.given[row])
