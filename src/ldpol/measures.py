"""Distances between measures, and the elites nearest to a target."""

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.types import Array


def distance(target: Array, achieved: Array) -> Array:
    """Return the L2 distance `[...]` of measures `[..., M]` from targets `[..., M]`, whose NaN leave measures free."""
    return jnp.linalg.norm(jnp.where(jnp.isnan(target), 0.0, achieved - target), axis=-1)


def nearest(target: Array, measures: Array, count: int = 1) -> Array:
    """Return the rows `[count]` of `measures` `[N, M]` nearest to `target` `[M]`, the nearest first; NaN is free."""
    return jax.lax.top_k(-distance(target[None], measures.astype(jnp.float32)), count)[1]


def parts(count: int) -> list[np.ndarray]:
    """Return the rows 0 to `count` - 1 in parts, so that distances from one part to all rows fit into memory."""
    return np.array_split(np.arange(count), -(-count // 256))
