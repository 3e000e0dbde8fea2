"""Devices that train together, inside a `shard_map`: one exchange for a whole pytree, not one for every leaf.

An exchange waits for the slowest device, so there should be few of them.
"""

import jax
from jax.flatten_util import ravel_pytree

from ldpol.types import PyTree


def gathered(tree: PyTree, axis: str | None) -> PyTree:
    """Return the trees of all devices along a mesh axis, `[D, ...]` on every leaf; None is one device on its own."""
    if axis is None:
        return jax.tree.map(lambda leaf: leaf[None], tree)
    flat, restore = ravel_pytree(tree)
    return jax.vmap(restore)(jax.lax.all_gather(flat, axis))


def averaged(tree: PyTree, axis: str | None) -> PyTree:
    """Return the mean of the trees of all devices along a mesh axis; None is one device on its own."""
    if axis is None:
        return tree
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.pmean(flat, axis))
