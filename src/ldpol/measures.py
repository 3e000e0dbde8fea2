"""Distances between measures, and the elites nearest to a target."""

import jax
import jax.numpy as jnp

from ldpol.types import Array


def distance(target: Array, achieved: Array) -> Array:
    """Return the L2 distance `[...]` of measures `[..., M]` from a target `[..., M]`, whose NaN leave measures free."""
    return jnp.linalg.norm(jnp.where(jnp.isnan(target), 0.0, achieved - target), axis=-1)


def nearest(target: Array, measures: Array, count: int = 1) -> Array:
    """Return the rows `[count]` of `measures` `[N, M]` nearest to `target` `[M]`, the nearest first; NaN is free."""
    return jax.lax.top_k(-distance(target, measures.astype(jnp.float32)), count)[1]
