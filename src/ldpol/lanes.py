"""A `vmap` that keeps the batch axis last, so that a CPU's vector units run over the batch.

`jax.vmap` puts the batch axis first: the innermost loop of every array then runs over the 3 or 4 numbers of a vector
or quaternion. `lanes_last` traces a function of ONE item and evaluates its equations on arrays whose LAST axis counts
items ("lanes"), in every intermediate. Values that do not depend on a lane stay unbatched. What it has no rule for goes
through `jax.vmap` of that one equation, so any function that can be vmapped can be mapped this way.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from ldpol.types import Array, PyTree

UNROLLED = 8
"""Sums of up to so many terms are written out. As a `reduce`, XLA's CPU compiler hands them to a library kernel above
some number of lanes, which cannot be fused and costs more than twice the time of a whole physics step."""


class Lanes(NamedTuple):
    """A value that differs between lanes; its last axis counts them."""

    array: Array


Value = Any
"""`Lanes`, or an array that all lanes share."""
Rule = Callable[[core.JaxprEqn, Sequence[Value], int], list[Value]]


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
        results = _evaluate(program, values, lanes)
        return jax.tree.unflatten(jax.tree.structure(shapes), [_lift(value, lanes) for value in results])

    return mapped


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
    counts = {shape[-1] if shape else None for shape in shapes}
    if len(counts) != 1 or None in counts:
        raise ValueError(
            "lanes_last: all mapped arguments need a last axis of the same size, one entry per lane; found shapes "
            f"{shapes[:8]}{' ...' if len(shapes) > 8 else ''}"
        )
    return counts.pop()


def _item(leaf: Any) -> jax.ShapeDtypeStruct:
    """Return the shape of one lane's share of a leaf."""
    aval = jax.typeof(jnp.asarray(leaf) if not hasattr(leaf, "dtype") else leaf)
    return jax.ShapeDtypeStruct(aval.shape[:-1], aval.dtype, weak_type=getattr(aval, "weak_type", False))


def _lift(value: Value, lanes: int) -> Array:
    """Return a value with a lane axis, whether it had one or not."""
    if isinstance(value, Lanes):
        return value.array
    array = value if hasattr(value, "dtype") else jnp.asarray(value)
    return lax.broadcast_in_dim(array, (*array.shape, lanes), tuple(range(array.ndim)))


def _evaluate(program: core.ClosedJaxpr, values: Sequence[Value], lanes: int) -> list[Value]:
    """Run a traced function of one item on values of all lanes."""
    jaxpr = program.jaxpr
    found: dict[core.Var, Value] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    found.update(zip(jaxpr.invars, values, strict=True))

    def read(atom: core.Var | core.Literal) -> Value:
        return jnp.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else found[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars], lanes)
        found.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    if not any(isinstance(value, Lanes) for value in values):
        return list(_alone(equation)(*values))
    name = equation.primitive.name
    if name in ELEMENTWISE:
        return _elementwise(equation, values, lanes)
    if name in SAME_PARAMETERS:
        return _bind(equation, [_lift(value, lanes) for value in values], **equation.params)
    rule = RULES.get(name)
    return (rule or _fallback)(equation, values, lanes)


def _bind(equation: core.JaxprEqn, arrays: Sequence[Array], **parameters: Any) -> list[Value]:
    results = equation.primitive.bind(*arrays, **parameters)
    return [Lanes(one) for one in results] if equation.primitive.multiple_results else [Lanes(results)]


def _alone(equation: core.JaxprEqn) -> Callable[..., Sequence[Array]]:
    """Return one equation as a function of all its operands."""
    operands = [core.Var(atom.aval) for atom in equation.invars]
    body = core.Jaxpr(
        constvars=[],
        invars=operands,
        outvars=equation.outvars,
        eqns=[equation.replace(invars=operands)],
        effects=equation.effects,
        debug_info=core.DebugInfo("lanes_last", equation.primitive.name, ("",) * len(operands), None),
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(body, []))


def _fallback(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    """Apply one equation through `jax.vmap`, which knows every primitive."""
    axes = tuple(-1 if isinstance(value, Lanes) else None for value in values)
    arrays = [value.array if isinstance(value, Lanes) else value for value in values]
    return [Lanes(one) for one in jax.vmap(_alone(equation), axes, -1)(*arrays)]


# Rules: what an equation of one item becomes on lanes. At least one operand has lanes.

ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos
    cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt imag integer_pow is_finite le le_to lgamma log
    log1p logistic lt lt_to max min mul ne neg nextafter not or population_count pow real reduce_precision rem round
    rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan
    tanh xor""".split()
)
SAME_PARAMETERS = frozenset(
    """argmax argmin cumlogsumexp cummax cummin cumprod cumsum optimization_barrier reduce_and reduce_max reduce_min
    reduce_or reduce_prod reduce_xor rev sort split squeeze""".split()
)
"""Primitives whose parameters name axes counted from the front: a further last axis changes none of them."""


def _elementwise(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    shape = equation.outvars[0].aval.shape

    def fit(value: Value) -> Array:
        """Spread an operand, which may be a scalar or have axes of size 1, over the result's shape."""
        array = value.array if isinstance(value, Lanes) else value
        if array.shape == (*shape, lanes) and isinstance(value, Lanes):
            return array
        axes = tuple(range(array.ndim))
        if isinstance(value, Lanes):
            axes = (*(axes[:-1] if array.ndim > 1 else ()), len(shape))
        return lax.broadcast_in_dim(array, (*shape, lanes), axes)

    return _bind(equation, [fit(value) for value in values], **equation.params)


def _reduce_sum(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    array, axes = values[0].array, equation.params["axes"]
    terms = math.prod(array.shape[axis] for axis in axes)
    if not 0 < terms <= UNROLLED:
        return _bind(equation, [array], **equation.params)
    for axis in sorted(axes, reverse=True):
        array = sum(lax.index_in_dim(array, i, axis, keepdims=False) for i in range(array.shape[axis]))
    return [Lanes(array)]


def _dot_general(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    """Write short products out; a shared matrix times a vector per lane is one matrix product."""
    parameters = equation.params
    (left_sum, right_sum), (left_batch, right_batch) = parameters["dimension_numbers"]
    left, right = values
    if not isinstance(left, Lanes):  # the lanes are the last free axis of the right operand: so they come out last
        return _bind(equation, [left, right.array], **parameters)
    if not isinstance(right, Lanes):
        return [Lanes(_product_with_shared(left.array, right, equation))]
    shape = left.array.shape
    terms = math.prod(shape[axis] for axis in left_sum)
    if not 0 < terms <= UNROLLED:
        return _fallback(equation, values, lanes)
    dtype = equation.outvars[0].aval.dtype

    def arrange(array: Array, batch: Sequence[int], summed: Sequence[int], before: bool, others: int) -> Array:
        """Order axes as [batch, free, summed, lanes], with room for the other operand's free axes."""
        rank = array.ndim - 1
        free = [axis for axis in range(rank) if axis not in batch and axis not in summed]
        array = lax.transpose(array, (*batch, *free, *summed, rank))
        sizes = array.shape
        cut = len(batch) + len(free) if before else len(batch)
        return lax.reshape(array, (*sizes[:cut], *(1,) * others, *sizes[cut:])).astype(dtype)

    fixed = len(left_batch) + len(left_sum)
    left_free, right_free = left.array.ndim - 1 - fixed, right.array.ndim - 1 - fixed
    one = arrange(left.array, left_batch, left_sum, True, right_free)
    other = arrange(right.array, right_batch, right_sum, False, left_free)
    total = one.ndim - 1 - len(left_sum)  # axes of the result
    summed = [()]
    for axis in left_sum:
        summed = [(*index, i) for index in summed for i in range(shape[axis])]
    place = (slice(None),) * total
    return [Lanes(sum(one[(*place, *index)] * other[(*place, *index)] for index in summed))]


def _product_with_shared(left: Array, right: Array, equation: core.JaxprEqn) -> Array:
    """Multiply lanes by a matrix that they share: with swapped operands the lanes come out last."""
    parameters = equation.params
    (left_sum, right_sum), (left_batch, right_batch) = parameters["dimension_numbers"]
    precision = parameters["precision"]
    product = lax.dot_general(
        right,
        left,
        ((right_sum, left_sum), (right_batch, left_batch)),
        precision=precision[::-1] if isinstance(precision, tuple) else precision,
        preferred_element_type=parameters["preferred_element_type"],
    )
    batch, fixed = len(left_batch), len(left_batch) + len(left_sum)
    first, second = right.ndim - fixed, left.ndim - 1 - fixed  # free axes, in the order of the product
    order = [*range(batch), *range(batch + first, batch + first + second), *range(batch, batch + first)]
    return lax.transpose(product, (*order, product.ndim - 1))


def _slice(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    array, parameters = values[0].array, equation.params
    strides = parameters["strides"]
    return [
        Lanes(
            lax.slice(
                array,
                (*parameters["start_indices"], 0),
                (*parameters["limit_indices"], lanes),
                None if strides is None else (*strides, 1),
            )
        )
    ]


def _dynamic_slice(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, *starts = values
    if any(isinstance(start, Lanes) for start in starts):
        return _fallback(equation, values, lanes)
    return [Lanes(lax.dynamic_slice(operand.array, (*starts, 0), (*equation.params["slice_sizes"], lanes)))]


def _dynamic_update_slice(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, update, *starts = values
    if any(isinstance(start, Lanes) for start in starts):
        return _fallback(equation, values, lanes)
    return [Lanes(lax.dynamic_update_slice(_lift(operand, lanes), _lift(update, lanes), (*starts, 0)))]


def _reshape(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    if equation.params["dimensions"] is not None:
        return _fallback(equation, values, lanes)
    return [Lanes(lax.reshape(values[0].array, (*equation.params["new_sizes"], lanes)))]


def _broadcast_in_dim(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    shape = equation.params["shape"]
    axes = (*equation.params["broadcast_dimensions"], len(shape))
    return [Lanes(lax.broadcast_in_dim(values[0].array, (*shape, lanes), axes))]


def _concatenate(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    return [Lanes(lax.concatenate([_lift(value, lanes) for value in values], equation.params["dimension"]))]


def _transpose(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    order = equation.params["permutation"]
    return [Lanes(lax.transpose(values[0].array, (*order, len(order))))]


def _pad(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, filling = values
    if isinstance(filling, Lanes):
        return _fallback(equation, values, lanes)
    return [Lanes(lax.pad(operand.array, filling, (*equation.params["padding_config"], (0, 0, 0))))]


def _gather(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, indices = values
    if isinstance(indices, Lanes):
        return _fallback(equation, values, lanes)
    numbers = equation.params["dimension_numbers"]
    changed = numbers._replace(offset_dims=(*numbers.offset_dims, len(equation.outvars[0].aval.shape)))
    sizes = (*equation.params["slice_sizes"], lanes)
    return _bind(
        equation,
        [operand.array, indices],
        **equation.params | {"dimension_numbers": changed, "slice_sizes": sizes},
    )


def _scatter(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, indices, updates = values
    if isinstance(indices, Lanes):
        return _fallback(equation, values, lanes)
    numbers = equation.params["dimension_numbers"]
    rank = len(equation.invars[2].aval.shape)
    changed = numbers._replace(update_window_dims=(*numbers.update_window_dims, rank))
    arrays = [_lift(operand, lanes), indices, _lift(updates, lanes)]
    return _bind(equation, arrays, **equation.params | {"dimension_numbers": changed})


# Calls and loops.


def _closed(program: Any) -> core.ClosedJaxpr:
    return program if hasattr(program, "consts") else core.ClosedJaxpr(program, [])


def _call(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    parameters = equation.params
    return _evaluate(_closed(parameters.get("jaxpr", parameters.get("call_jaxpr"))), values, lanes)


def _on_arrays(
    program: core.ClosedJaxpr, values: Sequence[Value], lanes: int
) -> tuple[Callable[..., list[Array]], list[Array]]:
    """Return a call as a function of arrays that gives every result a lane axis, and the arrays."""
    mapped = [isinstance(value, Lanes) for value in values]

    def run(*arrays: Array) -> list[Array]:
        given = [Lanes(array) if has else array for array, has in zip(arrays, mapped, strict=True)]
        return [_lift(value, lanes) for value in _evaluate(program, given, lanes)]

    return run, [value.array if isinstance(value, Lanes) else value for value in values]


def _remat(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    run, arrays = _on_arrays(_closed(equation.params["jaxpr"]), values, lanes)
    options = {name: equation.params[name] for name in ("policy", "prevent_cse")}
    return [Lanes(one) for one in jax.checkpoint(run, **options)(*arrays)]


def _vmapped(equation: core.JaxprEqn, values: Sequence[Value]) -> Callable[..., Sequence[Array]]:
    axes = tuple(-1 if isinstance(value, Lanes) else None for value in values)
    return jax.vmap(_alone(equation), axes, -1)


def _custom_jvp(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    """Compute with lanes last; differentiate by the function's own rule."""
    run, arrays = _on_arrays(_closed(equation.params["call_jaxpr"]), values, lanes)
    original = _vmapped(equation, values)
    call = jax.custom_jvp(run)
    call.defjvp(lambda primals, tangents: jax.jvp(lambda *a: list(original(*a)), primals, tangents))
    return [Lanes(one) for one in call(*arrays)]


def _custom_vjp(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    run, arrays = _on_arrays(_closed(equation.params["call_jaxpr"]), values, lanes)
    original = _vmapped(equation, values)
    call = jax.custom_vjp(run)
    call.defvjp(
        lambda *arguments: jax.vjp(lambda *a: list(original(*a)), *arguments), lambda pull, cotangents: pull(cotangents)
    )
    return [Lanes(one) for one in call(*arrays)]


def _depends(jaxpr: core.Jaxpr, mapped: Sequence[bool]) -> list[bool]:
    """Tell which results of a traced function differ between lanes, if these arguments do."""
    differs = dict(zip(jaxpr.invars, mapped, strict=True))

    def read(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and differs.get(atom, False)

    for equation in jaxpr.eqns:
        flags = [read(atom) for atom in equation.invars]
        name, parameters = equation.primitive.name, equation.params
        if not any(flags):
            found = [False] * len(equation.outvars)
        elif RULES.get(name) is _call:
            found = _depends(_closed(parameters.get("jaxpr", parameters.get("call_jaxpr"))).jaxpr, flags)
        elif name == "scan":
            shared, carried = parameters["num_consts"], parameters["num_carry"]
            body = parameters["jaxpr"].jaxpr
            flags = [*flags[:shared], *_fixed_point(body, flags, shared, carried), *flags[shared + carried :]]
            found = _depends(body, flags)
        else:
            found = [True] * len(equation.outvars)
        differs.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _fixed_point(body: core.Jaxpr, mapped: Sequence[bool], shared: int, carried: int) -> list[bool]:
    """Tell which parts of a loop's carry differ between lanes after any number of steps."""
    first, last = list(mapped[:shared]), list(mapped[shared + carried :])
    carry = list(mapped[shared : shared + carried])
    while True:
        after = _depends(body, [*first, *carry, *last])[:carried]
        grown = [old or new for old, new in zip(carry, after, strict=True)]
        if grown == carry:
            return carry
        carry = grown


def _wrap(arrays: Sequence[Array], mapped: Sequence[bool]) -> list[Value]:
    return [Lanes(array) if has else array for array, has in zip(arrays, mapped, strict=True)]


def _unwrap(values: Sequence[Value], mapped: Sequence[bool], lanes: int) -> list[Array]:
    """Return plain arrays, those marked with a lane axis."""
    return [_lift(value, lanes) if has else value for value, has in zip(values, mapped, strict=True)]


def _scan(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    parameters, program = equation.params, equation.params["jaxpr"]
    shared, carried = parameters["num_consts"], parameters["num_carry"]
    mapped = [isinstance(value, Lanes) for value in values]
    carry_mapped = _fixed_point(program.jaxpr, mapped, shared, carried)
    # `scan` slices its first axis, so a lane axis stays last.
    after = _depends(program.jaxpr, [*mapped[:shared], *carry_mapped, *mapped[shared + carried :]])
    out_mapped = [*carry_mapped, *after[carried:]]
    constants, start = values[:shared], _unwrap(values[shared : shared + carried], carry_mapped, lanes)
    rows = [value.array if isinstance(value, Lanes) else value for value in values[shared + carried :]]

    def body(carry: list[Array], row: list[Array]) -> tuple[list[Array], list[Array]]:
        given = [*constants, *_wrap(carry, carry_mapped), *_wrap(row, mapped[shared + carried :])]
        results = _unwrap(_evaluate(program, given, lanes), out_mapped, lanes)
        return results[:carried], results[carried:]

    carry, stacked = lax.scan(
        body,
        start,
        rows,
        length=parameters["length"],
        reverse=parameters["reverse"],
        unroll=parameters["unroll"],
    )
    return _wrap([*carry, *stacked], out_mapped)


def _while(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    parameters = equation.params
    test, body = parameters["cond_jaxpr"], parameters["body_jaxpr"]
    for_test, for_body = parameters["cond_nconsts"], parameters["body_nconsts"]
    test_constants, rest = list(values[:for_test]), values[for_test:]
    body_constants, start = list(rest[:for_body]), rest[for_body:]
    flags = [isinstance(value, Lanes) for value in [*body_constants, *start]]
    mapped = _fixed_point(body.jaxpr, flags, for_body, len(start))
    (differs,) = _depends(test.jaxpr, [*(isinstance(value, Lanes) for value in test_constants), *mapped])
    if not differs:

        def go_on(carry: list[Array]) -> Array:
            return _evaluate(test, [*test_constants, *_wrap(carry, mapped)], lanes)[0]

        def step(carry: list[Array]) -> list[Array]:
            return _unwrap(_evaluate(body, [*body_constants, *_wrap(carry, mapped)], lanes), mapped, lanes)

        return _wrap(lax.while_loop(go_on, step, _unwrap(start, mapped, lanes)), mapped)

    # Lanes that are done keep what they have until the last one is.
    def running(carry: list[Array]) -> Array:
        return _lift(_evaluate(test, [*test_constants, *map(Lanes, carry)], lanes)[0], lanes)

    def step_running(both: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        runs, carry = both
        after = [_lift(value, lanes) for value in _evaluate(body, [*body_constants, *map(Lanes, carry)], lanes)]
        carry = [_choose(runs, new, old) for new, old in zip(after, carry, strict=True)]
        return running(carry), carry

    lifted = [_lift(value, lanes) for value in start]
    _, carry = lax.while_loop(lambda both: both[0].any(), step_running, (running(lifted), lifted))
    return [Lanes(one) for one in carry]


def _choose(predicate: Array, yes: Array, no: Array) -> Array:
    """Take from one array in the lanes where a predicate holds, from the other elsewhere."""
    return lax.select(lax.broadcast_in_dim(predicate, yes.shape, (yes.ndim - 1,)), yes, no)


def _cond(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    index, *operands = values
    branches = equation.params["branches"]
    if not isinstance(index, Lanes):
        runs = [_on_arrays(branch, operands, lanes)[0] for branch in branches]
        arrays = [value.array if isinstance(value, Lanes) else value for value in operands]
        return [Lanes(one) for one in lax.switch(index, runs, *arrays)]
    results = [[_lift(value, lanes) for value in _evaluate(branch, operands, lanes)] for branch in branches]
    chosen = []
    for cases in zip(*results, strict=True):
        which = lax.broadcast_in_dim(index.array, cases[0].shape, (cases[0].ndim - 1,))
        chosen.append(Lanes(lax.select_n(which, *cases)))
    return chosen


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "checkpoint": _remat,
    "closed_call": _call,
    "concatenate": _concatenate,
    "cond": _cond,
    "core_call": _call,
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "jit": _call,
    "pad": _pad,
    "pjit": _call,
    "reduce_sum": _reduce_sum,
    "reshape": _reshape,
    "scan": _scan,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "slice": _slice,
    "transpose": _transpose,
    "while": _while,
}
