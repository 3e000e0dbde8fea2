"""A `vmap` that keeps the batch axis last, so that a CPU's vector units run over the batch.

`jax.vmap` puts the batch axis first: the innermost loop of every array then runs over the 3 or 4 numbers of a vector
or quaternion. `lanes_last` traces a function of ONE item and evaluates its equations on arrays whose LAST axis counts
items ("lanes"), in every intermediate. Values that do not depend on a lane stay unbatched. What it has no rule for goes
through `jax.vmap` of that one equation, so any function that can be vmapped can be mapped this way.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from ldpol.lanes.interpreter import evaluate
from ldpol.lanes.values import Lanes, lift
from ldpol.types import Array, PyTree

__all__ = ["batch_last", "lanes_last"]


def lanes_last(function: Callable[..., PyTree], in_axes: PyTree = -1) -> Callable[..., PyTree]:
    """Map a function of one item over the last axis of its arguments.

    The result equals `jax.vmap(function, in_axes, out_axes=-1)` up to rounding, also under `jit`, `vmap`, `grad` and
    inside `shard_map(..., check_vma=False)`. Loops whose condition differs between lanes run until the last lane is
    done; of a `cond` whose predicate differs, both branches run.

    Args:
      function: takes and returns pytrees of arrays; shapes must be static.
      in_axes: -1 for arguments with a lane axis, None for those that all lanes share; one of them for all arguments, or
        a tuple with one pytree prefix per argument.

    Returns:
      A function whose results have the lane axis last in every leaf.

    Raises:
      ValueError: when called, if no argument has a lane axis or their sizes differ.
    """

    function = _traced_once(function)

    def mapped(*arguments: PyTree) -> PyTree:
        prefix = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(arguments)
        leaves, structure = jax.tree.flatten(arguments)
        axes = _spread(prefix, arguments)
        lanes = _count_lanes(leaves, axes)
        shared = iter([leaf for leaf, axis in zip(leaves, axes, strict=True) if axis is None])
        items = [next(shared) if axis is None else _item(leaf) for leaf, axis in zip(leaves, axes, strict=True)]
        program, shapes = jax.make_jaxpr(
            lambda *flat: function(*jax.tree.unflatten(structure, flat)), return_shape=True
        )(*items)
        values = [leaf if axis is None else Lanes(leaf) for leaf, axis in zip(leaves, axes, strict=True)]
        results = evaluate(program, values, lanes)
        return jax.tree.unflatten(jax.tree.structure(shapes), [lift(value, lanes) for value in results])

    return mapped


def batch_last(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return the function with a batching rule of its own: on a CPU, `jax.vmap` of it computes with lanes last.

    Batches come in and go out with their axis wherever `vmap` has it, so callers need not know. Nested `vmap`s share
    one lane axis. What this costs against `lanes_last` around a whole loop is a transposition per call. Derivatives are
    those of `function`.

    Args:
      function: takes positional pytrees of arrays, returns a pytree of arrays; shapes must be static.
    """

    function = _traced_once(function)
    # `custom_vmap` has no reverse mode, so derivatives go past it.
    call = jax.custom_jvp(lambda *arguments: one(*arguments))
    call.defjvp(lambda primals, tangents: jax.jvp(function, primals, tangents))

    @custom_vmap
    def one(*arguments: PyTree) -> PyTree:
        return function(*arguments)

    @custom_vmap
    def last(*arguments: PyTree) -> PyTree:
        return lanes_last(function)(*arguments)

    @one.def_vmap
    def _(size: int, batched: list[PyTree], *arguments: PyTree) -> tuple[PyTree, PyTree]:
        if jax.default_backend() != "cpu":
            axes = jax.tree.map(lambda has: 0 if has else None, tuple(batched))
            result = jax.vmap(function, axes)(*arguments)
        else:
            spread = lambda has, leaf: _move(leaf, 0, -1) if has else lift(leaf, size)  # noqa: E731
            result = last(*jax.tree.map(spread, tuple(batched), arguments))
            result = jax.tree.map(lambda leaf: _move(leaf, -1, 0), result)
        return result, jax.tree.map(lambda _: True, result)

    @last.def_vmap
    def _(size: int, batched: list[PyTree], *arguments: PyTree) -> tuple[PyTree, PyTree]:
        def merge(has: bool, leaf: Array) -> Array:
            """`[size, ..., lanes]` to `[..., size * lanes]`."""
            leaf = leaf if has else jnp.broadcast_to(leaf, (size, *leaf.shape))
            leaf = _move(leaf, 0, -2)
            return leaf.reshape(*leaf.shape[:-2], -1)

        result = last(*jax.tree.map(merge, tuple(batched), arguments))
        result = jax.tree.map(lambda leaf: _move(leaf.reshape(*leaf.shape[:-1], size, -1), -2, 0), result)
        return result, jax.tree.map(lambda _: True, result)

    return functools.wraps(function)(lambda *arguments: call(*arguments))


def _traced_once(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Return the function as one whose trace JAX keeps: a step of physics takes a second of Python to trace.

    One program needs several, and there are many programs. Wherever it is called it becomes part of its caller.
    """
    return jax.jit(function, inline=True)


def _move(array: Array, source: int, target: int) -> Array:
    """`jnp.moveaxis`, for typed keys too."""
    order = list(range(array.ndim))
    order.insert(target % array.ndim, order.pop(source % array.ndim))
    return lax.transpose(array, order)


def _spread(prefix: PyTree, arguments: PyTree) -> list[int | None]:
    """Return the axis of every leaf of the arguments."""
    axes: list[int | None] = []
    jax.tree.map(
        lambda axis, part: axes.extend([axis] * len(jax.tree.leaves(part))),
        prefix,
        arguments,
        is_leaf=lambda axis: axis is None,
    )
    return axes


def _count_lanes(leaves: Sequence[Any], axes: Sequence[int | None]) -> int:
    if any(axis not in (-1, None) for axis in axes):
        raise ValueError(f"lanes_last: in_axes must be -1 (the last axis counts lanes) or None (shared), found {axes}")
    shapes = [jnp.shape(leaf) for leaf, axis in zip(leaves, axes, strict=True) if axis is not None]
    counts = {shape[-1] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "lanes_last: all mapped arguments need a last axis of the same size, one entry per lane; found shapes "
            f"{shapes[:8]}{' ...' if len(shapes) > 8 else ''}"
        )
    return counts.pop()


def _item(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return the shape of one lane's share of a leaf."""
    aval = jax.typeof(jnp.asarray(leaf) if not hasattr(leaf, "dtype") else leaf)
    return jax.ShapeDtypeStruct(aval.shape[:-1], aval.dtype, weak_type=getattr(aval, "weak_type", False))
