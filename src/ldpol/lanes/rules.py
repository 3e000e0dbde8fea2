"""What one equation of one item becomes on arrays whose last axis counts lanes."""

import math
from collections.abc import Sequence
from functools import reduce

from jax import lax
from jax.extend import core

from ldpol.lanes.values import Lanes, Rule, Value, bind, dtype_of, fallback, lift, shape_of
from ldpol.types import Array

UNROLLED = 8
"""Sums of up to so many terms are written out. As a `reduce`, XLA's CPU compiler hands them to a library kernel above
some number of lanes, which cannot be fused and costs more than twice the time of a whole physics step."""


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
    shape = shape_of(equation.outvars[0])

    def fit(value: Value) -> Array:
        """Spread an operand, which may be a scalar or have axes of size 1, over the result's shape."""
        array = value.array if isinstance(value, Lanes) else value
        if array.shape == (*shape, lanes) and isinstance(value, Lanes):
            return array
        axes = tuple(range(array.ndim))
        if isinstance(value, Lanes):
            axes = (*(axes[:-1] if array.ndim > 1 else ()), len(shape))
        return lax.broadcast_in_dim(array, (*shape, lanes), axes)

    return bind(equation, [fit(value) for value in values], **equation.params)


def _same_parameters(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    return bind(equation, [lift(value, lanes) for value in values], **equation.params)


def _reduce_sum(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    array, axes = values[0].array, equation.params["axes"]
    terms = math.prod(array.shape[axis] for axis in axes)
    if not 0 < terms <= UNROLLED:
        return bind(equation, [array], **equation.params)
    for axis in sorted(axes, reverse=True):
        array = reduce(lax.add, [lax.index_in_dim(array, i, axis, keepdims=False) for i in range(array.shape[axis])])
    return [Lanes(array)]


def _dot_general(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    """Write short products out; a shared matrix times a vector per lane is one matrix product."""
    parameters = equation.params
    (left_sum, right_sum), (left_batch, right_batch) = parameters["dimension_numbers"]
    left, right = values
    if not isinstance(left, Lanes):  # the lanes are the last free axis of the right operand: so they come out last
        return bind(equation, [left, right.array], **parameters)
    if not isinstance(right, Lanes):
        return [Lanes(_product_with_shared(left.array, right, equation))]
    shape = left.array.shape
    terms = math.prod(shape[axis] for axis in left_sum)
    if not 0 < terms <= UNROLLED:
        return fallback(equation, values, lanes)
    dtype = dtype_of(equation.outvars[0])

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
    return [Lanes(reduce(lax.add, [one[(*place, *index)] * other[(*place, *index)] for index in summed]))]


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
        return fallback(equation, values, lanes)
    return [Lanes(lax.dynamic_slice(operand.array, (*starts, 0), (*equation.params["slice_sizes"], lanes)))]


def _dynamic_update_slice(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, update, *starts = values
    if any(isinstance(start, Lanes) for start in starts):
        return fallback(equation, values, lanes)
    return [Lanes(lax.dynamic_update_slice(lift(operand, lanes), lift(update, lanes), (*starts, 0)))]


def _reshape(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    if equation.params["dimensions"] is not None:
        return fallback(equation, values, lanes)
    return [Lanes(lax.reshape(values[0].array, (*equation.params["new_sizes"], lanes)))]


def _broadcast_in_dim(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    shape = equation.params["shape"]
    axes = (*equation.params["broadcast_dimensions"], len(shape))
    return [Lanes(lax.broadcast_in_dim(values[0].array, (*shape, lanes), axes))]


def _concatenate(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    return [Lanes(lax.concatenate([lift(value, lanes) for value in values], equation.params["dimension"]))]


def _transpose(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    order = equation.params["permutation"]
    return [Lanes(lax.transpose(values[0].array, (*order, len(order))))]


def _pad(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, filling = values
    if isinstance(filling, Lanes):
        return fallback(equation, values, lanes)
    return [Lanes(lax.pad(operand.array, filling, (*equation.params["padding_config"], (0, 0, 0))))]


def _gather(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, indices = values
    if isinstance(indices, Lanes):
        return fallback(equation, values, lanes)
    numbers = equation.params["dimension_numbers"]
    changed = numbers._replace(offset_dims=(*numbers.offset_dims, len(shape_of(equation.outvars[0]))))
    sizes = (*equation.params["slice_sizes"], lanes)
    return bind(
        equation,
        [operand.array, indices],
        **equation.params | {"dimension_numbers": changed, "slice_sizes": sizes},
    )


def _scatter(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    operand, indices, updates = values
    if isinstance(indices, Lanes):
        return fallback(equation, values, lanes)
    numbers = equation.params["dimension_numbers"]
    rank = len(shape_of(equation.invars[2]))
    changed = numbers._replace(update_window_dims=(*numbers.update_window_dims, rank))
    arrays = [lift(operand, lanes), indices, lift(updates, lanes)]
    return bind(equation, arrays, **equation.params | {"dimension_numbers": changed})


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "pad": _pad,
    "reduce_sum": _reduce_sum,
    "reshape": _reshape,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "slice": _slice,
    "transpose": _transpose,
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(SAME_PARAMETERS, _same_parameters),
}
