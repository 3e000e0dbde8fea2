"""Fewer bits a number: any model in half precision or int8.

Models are computed with in float32; only what lies on the disk is coarser.
"""

import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.errors import UserError
from ldpol.types import Array, PyTree

Precision = Literal["float32", "float16", "bfloat16", "int8"]
PRECISIONS = get_args(Precision)
SMALL = 256
"""Tensors with fewer numbers stay in float16 where the others go to int8: they weigh nothing."""
BLOCK = 64
"""Consecutive numbers that share a scale where a tensor goes to int8: 3 % more bytes."""
_LEAST = float(jnp.finfo(jnp.float16).smallest_normal)
_NODE = frozenset(("int8", "scale"))


def compress(tree: PyTree, precision: Precision) -> PyTree:
    """Store a pytree's floating-point tensors in fewer bits.

    Args:
      tree: any pytree of arrays, for instance a `PolicyGenerator`; vmap it for N policies.
      precision: of the result. `int8` quantises matrices (`quantise`); vectors and small tensors become float16.

    Returns:
      The same pytree with other dtypes; quantised tensors are dicts of `int8` and `scale`. `expand` leads back.

    Raises:
      ValueError: for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")

    def one(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if precision == "int8":
            return quantise(leaf) if leaf.ndim > 1 and leaf.size >= SMALL else leaf.astype(jnp.float16)
        return leaf.astype(precision)

    return jax.tree.map(one, tree)


def expand(tree: PyTree) -> PyTree:
    """Return what `compress` made of one item as float32 again; vmap it for N.

    Other dtypes than floating-point and quantised tensors stay.
    """

    def one(node: Any) -> Any:
        if _is_quantised(node):
            return node["int8"].astype(jnp.float32) * _steps(node["scale"], node["int8"].shape)
        node = jnp.asarray(node)
        return node.astype(jnp.float32) if jnp.issubdtype(node.dtype, jnp.floating) else node

    return jax.tree.map(one, tree, is_leaf=_is_quantised)


def quantise(tensor: Array) -> dict[str, Array]:
    """Round a tensor to 255 levels, symmetric around zero, that every block of 64 consecutive numbers has for itself.

    Weights that read large observations are small and must not be rounded in the steps of others: in a kernel
    `[inputs, 64]`, or a basis of such kernels, a block is what one input is weighted by.

    Args:
      tensor: any shape.

    Returns:
      `int8` of the same shape and the float16 `scale` `[blocks]`; the error is at most half a scale.
    """
    flat = tensor.reshape(-1)
    largest = jnp.abs(jnp.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)).max(1)
    scale = jnp.maximum(largest / 127.0, _LEAST).astype(jnp.float16)
    levels = jnp.clip(jnp.round(tensor / _steps(scale, tensor.shape)), -127, 127)
    return {"int8": levels.astype(jnp.int8), "scale": scale}


def _steps(scale: Array, shape: tuple[int, ...]) -> Array:
    """Return what one level is worth at every number of a tensor."""
    return jnp.repeat(scale.astype(jnp.float32), BLOCK)[: math.prod(shape)].reshape(shape)


def _is_quantised(node: Any) -> bool:
    return isinstance(node, dict) and frozenset(node) == _NODE


def size(tree: PyTree) -> int:
    """Return the numbers of a model, scales of quantised tensors included."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))
