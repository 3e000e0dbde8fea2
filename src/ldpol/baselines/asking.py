"""What all baselines do with the measures they are asked for."""

import jax.numpy as jnp

from ldpol.archive import Grid
from ldpol.types import Array


def scaled(grid: Grid, measures: Array) -> Array:
    """Return measures `[..., M]` of task units scaled to [0, 1] by the grid's bounds."""
    low, high = jnp.asarray(grid.low), jnp.asarray(grid.high)
    return (measures - low) / (high - low)


def nearest(wanted: Array, measures: Array) -> Array:
    """Return the row `[]` of `measures` `[N, M]` nearest to `wanted` `[M]`; NaN leaves a measure free."""
    away = jnp.where(jnp.isnan(wanted), 0.0, measures.astype(jnp.float32) - wanted)
    return jnp.argmin((away**2).sum(-1))
