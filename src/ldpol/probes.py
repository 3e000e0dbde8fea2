"""How a network acts in a few fixed places: enough to tell its code from other code for the same parameters."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.types import Array, Params

PLACES = 8
"""Observations of a fingerprint."""
TOLERANCE = 1e-3
"""How far actions of the same code may be apart, absolutely and relatively: machines add up in other orders."""
Fingerprint = tuple[tuple[float, ...], ...]


def fingerprint(apply: Callable[[Params, Array], Array], abstract: Params, observation_size: int) -> Fingerprint:
    """Return actions `[PLACES, A]` of made-up parameters at made-up observations.

    Nothing that is stored has to be decoded for it, so that it is the same for every archive and generator.

    Args:
      apply: `(params, observation [O]) -> action [A]`.
      abstract: the parameters as shapes.
      observation_size: O.
    """
    random = np.random.RandomState(0)  # its numbers are frozen; those of newer generators may change with NumPy

    def fill(leaf: jax.ShapeDtypeStruct) -> Array:
        inputs = math.prod(leaf.shape[:-1])  # so that layers neither die out nor saturate; 1 for biases
        return jnp.asarray(random.standard_normal(leaf.shape) / math.sqrt(max(inputs, 1)), leaf.dtype)

    params = jax.tree.map(fill, abstract)
    seen = jnp.asarray(random.standard_normal((PLACES, observation_size)), jnp.float32)
    actions = np.nan_to_num(np.asarray(jax.jit(jax.vmap(apply, (None, 0)))(params, seen)))
    return tuple(tuple(round(float(value), 6) for value in row) for row in actions)


def difference(one: Fingerprint, other: Fingerprint) -> float:
    """Return by how much actions of two networks of the same shapes differ; 0 where no more than `TOLERANCE`."""
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape:
        return math.inf
    apart = np.abs(first - second)
    return 0.0 if (apart <= TOLERANCE * (1 + np.abs(first))).all() else float(apart.max())
