"""Run a traced function on lanes: equations by their rules; calls, loops and branches by running what they hold."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from ldpol.lanes import rules
from ldpol.lanes.values import Lanes, Rule, Value, alone, arrays_of, dtype_of, fallback, lift, vmapped
from ldpol.types import Array


def evaluate(program: core.ClosedJaxpr, values: Sequence[Value], lanes: int) -> list[Value]:
    """Run a traced function of one item on values of all lanes."""
    jaxpr = program.jaxpr
    found: dict[core.Var, Value] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    found.update(zip(jaxpr.invars, values, strict=True))

    def read(atom: core.Var | core.Literal) -> Value:
        return jnp.asarray(atom.val, dtype_of(atom)) if isinstance(atom, core.Literal) else found[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars], lanes)
        found.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    if not any(isinstance(value, Lanes) for value in values):
        return list(alone(equation)(*values))
    return RULES.get(equation.primitive.name, fallback)(equation, values, lanes)


def _program(equation: core.JaxprEqn) -> core.ClosedJaxpr:
    """Return what an equation calls."""
    program = next(equation.params[name] for name in ("jaxpr", "call_jaxpr", "call") if name in equation.params)
    return program if hasattr(program, "consts") else core.ClosedJaxpr(program, [])


def _call(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    return evaluate(_program(equation), values, lanes)


def _on_arrays(
    program: core.ClosedJaxpr, values: Sequence[Value], lanes: int
) -> tuple[Callable[..., list[Array]], list[Array]]:
    """Return a call as a function of arrays that gives every result a lane axis, and the arrays."""
    mapped = [isinstance(value, Lanes) for value in values]

    def run(*arrays: Array) -> list[Array]:
        return [lift(value, lanes) for value in evaluate(program, _wrap(arrays, mapped), lanes)]

    return run, arrays_of(values)


def _remat(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    run, arrays = _on_arrays(_program(equation), values, lanes)
    options = {name: equation.params[name] for name in ("policy", "prevent_cse")}
    return [Lanes(one) for one in jax.checkpoint(run, **options)(*arrays)]


def _custom_jvp(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    """Compute with lanes last; differentiate by the function's own rule."""
    run, arrays = _on_arrays(_program(equation), values, lanes)
    original = vmapped(equation, values)
    call = jax.custom_jvp(run)
    call.defjvp(lambda primals, tangents: jax.jvp(lambda *a: list(original(*a)), primals, tangents))
    return [Lanes(one) for one in call(*arrays)]


def _custom_vjp(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    run, arrays = _on_arrays(_program(equation), values, lanes)
    original = vmapped(equation, values)
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
            found = _depends(_program(equation).jaxpr, flags)
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
    return [lift(value, lanes) if has else value for value, has in zip(values, mapped, strict=True)]


def _scan(equation: core.JaxprEqn, values: Sequence[Value], lanes: int) -> list[Value]:
    parameters, program = equation.params, equation.params["jaxpr"]
    shared, carried = parameters["num_consts"], parameters["num_carry"]
    mapped = [isinstance(value, Lanes) for value in values]
    carry_mapped = _fixed_point(program.jaxpr, mapped, shared, carried)
    # `scan` slices its first axis, so a lane axis stays last.
    after = _depends(program.jaxpr, [*mapped[:shared], *carry_mapped, *mapped[shared + carried :]])
    out_mapped = [*carry_mapped, *after[carried:]]
    constants, start = values[:shared], _unwrap(values[shared : shared + carried], carry_mapped, lanes)
    rows = arrays_of(values[shared + carried :])

    def body(carry: list[Array], row: list[Array]) -> tuple[list[Array], list[Array]]:
        given = [*constants, *_wrap(carry, carry_mapped), *_wrap(row, mapped[shared + carried :])]
        results = _unwrap(evaluate(program, given, lanes), out_mapped, lanes)
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
            return evaluate(test, [*test_constants, *_wrap(carry, mapped)], lanes)[0]

        def step(carry: list[Array]) -> list[Array]:
            return _unwrap(evaluate(body, [*body_constants, *_wrap(carry, mapped)], lanes), mapped, lanes)

        return _wrap(lax.while_loop(go_on, step, _unwrap(start, mapped, lanes)), mapped)

    # Lanes that are done keep what they have until the last one is.
    def running(carry: list[Array]) -> Array:
        return lift(evaluate(test, [*test_constants, *map(Lanes, carry)], lanes)[0], lanes)

    def step_running(both: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        runs, carry = both
        after = [lift(value, lanes) for value in evaluate(body, [*body_constants, *map(Lanes, carry)], lanes)]
        carry = [_choose(runs, new, old) for new, old in zip(after, carry, strict=True)]
        return running(carry), carry

    lifted = [lift(value, lanes) for value in start]
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
        return [Lanes(one) for one in lax.switch(index, runs, *arrays_of(operands))]
    results = [[lift(value, lanes) for value in evaluate(branch, operands, lanes)] for branch in branches]
    chosen = []
    for cases in zip(*results, strict=True):
        which = lax.broadcast_in_dim(index.array, cases[0].shape, (cases[0].ndim - 1,))
        chosen.append(Lanes(lax.select_n(which, *cases)))
    return chosen


RULES: dict[str, Rule] = rules.RULES | {
    "checkpoint": _remat,
    "closed_call": _call,
    "cond": _cond,
    "core_call": _call,
    "custom_jvp_call": _custom_jvp,
    "custom_vjp_call": _custom_vjp,
    "custom_vmap_call": _call,
    "jit": _call,
    "pjit": _call,
    "scan": _scan,
    "while": _while,
}
