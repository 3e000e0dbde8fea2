"""What all look-ups do with the measures they are asked for."""

import jax.numpy as jnp

from ldpol.types import Array


def nearest(wanted: Array, measures: Array) -> Array:
    """Return the row `[]` of `measures` `[N, M]` nearest to `wanted` `[M]`; NaN leaves a measure free."""
    away = jnp.where(jnp.isnan(wanted), 0.0, measures.astype(jnp.float32) - wanted)
    return jnp.argmin((away**2).sum(-1))
