"""Values of an interpreted function: those that differ between lanes, and those that all lanes share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from ldpol.types import Array


class Lanes(NamedTuple):
    """A value that differs between lanes; its last axis counts them."""

    array: Array


Value = Any
"""`Lanes`, or an array that all lanes share."""
Rule = Callable[[core.JaxprEqn, Sequence[Value], int], list[Value]]
"""`(equation, values of its operands, number of lanes) -> values of its results`; some operand has lanes."""


def lift(value: Value, lanes: int) -> Array:
    """Return a value with a lane axis, whether it had one or not."""
    if isinstance(value, Lanes):
        return value.array
    array = value if hasattr(value, "dtype") else jnp.asarray(value)
    return lax.broadcast_in_dim(array, (*array.shape, lanes), tuple(range(array.ndim)))


def shape_of(atom: Any) -> tuple[int, ...]:
    """Return the shape of an operand or result of an equation of one item."""
    return atom.aval.shape


def dtype_of(atom: Any) -> Any:
    """Return the type of the numbers of an operand or result."""
    return atom.aval.dtype


def bind(equation: core.JaxprEqn, arrays: Sequence[Array], **parameters: Any) -> list[Value]:
    """Apply the primitive of an equation to arrays with a lane axis, with other parameters."""
    results = equation.primitive.bind(*arrays, **parameters)
    return [Lanes(one) for one in results] if equation.primitive.multiple_results else [Lanes(results)]


def alone(equation: core.JaxprEqn) -> Callable[..., Sequence[Array]]:
    """Return one equation as a function of all its operands."""
    operands: list[Any] = [core.Var(atom.aval) for atom in equation.invars]
    body = core.Jaxpr(
        constvars=[],
        invars=operands,
        outvars=equation.outvars,
        eqns=[equation.replace(invars=operands)],
        effects=equation.effects,
        debug_info=core.DebugInfo("lanes_last", equation.primitive.name, ("",) * len(operands), None),
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(body, []))


def vmapped(equation: core.JaxprEqn, values: Sequence[Value]) -> Callable[..., Sequence[Array]]:
    """Return one equation under `jax.vmap`, as a function of the arrays of such values."""
    axes = tuple(-1 if isinstance(value, Lanes) else None for value in values)
    return jax.vmap(alone(equation), axes, -1)


def arrays_of(values: Sequence[Value]) -> list[Array]:
    """Return the arrays of values, with a lane axis where they have one."""
    return [value.array if isinstance(value, Lanes) else value for value in values]


def fallback(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    """Apply one equation through `jax.vmap`, which knows every primitive."""
    return [Lanes(one) for one in vmapped(equation, values)(*arrays_of(values))]
