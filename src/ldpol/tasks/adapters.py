"""Everybody's own environments as tasks: any reset and step in JAX, QDax's tasks with their descriptors."""

import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ldpol.errors import UserError
from ldpol.lanes import batch_last
from ldpol.tasks.task import Reduction, Task, TaskState, When
from ldpol.types import Array, Key, PyTree

ELSEWHERE = "elsewhere"
"""Backend of a task without an environment in JAX."""
AUTO_RESETS = ("StateDescriptorResetWrapper", "AutoResetWrapper", "EpisodeWrapper")
"""Wrappers that rollouts do without: they stop at `done` and at the episode length by themselves."""


def task_from_env(
    env: Any,
    *,
    name: str,
    measure: Callable[[Any], Array],
    measure_names: tuple[str, ...],
    low: tuple[float, ...],
    high: tuple[float, ...],
    episode_length: int | None = None,
    reduce: str | Reduction = "mean",
    when: When = "after",
    observe: Callable[[Any], Array] | str | None = None,
    action_size: int | None = None,
    clip_actions: bool = True,
    fitness_offset: float = 0.0,
    reset_key: Key | None = None,
) -> Task:
    """Make a task of an environment: Brax, MuJoCo Playground, Kheperax, or any other in JAX.

    Args:
      env: `env.reset(key) -> state`, `env.step(state, action [A]) -> state`, where a state is a pytree with fields
        `obs`, `reward` and `done`; whatever else it holds (keys, counters) is carried along.
      name: what archives and models call the task.
      measure: `state -> [M]` of one step.
      measure_names: M names.
      low, high: M bounds of the measures.
      episode_length: steps after which an episode is cut off; None takes `env.episode_length`.
      reduce: how the steps of an episode become its measures: `mean`, `last`, `max`, `min`, or a `Reduction`.
      when: whether a step is measured by the state `before` or `after` it.
      observe: which observation `[O]` a policy sees, by name where there are several, or `state -> [O]`.
      action_size: A; None takes `env.action_size`.
      clip_actions: clip actions to [-1, 1].
      fitness_offset: added to a fitness in a QD score.
      reset_key: start every episode from the state that this key gives; None: from the episode's own key.

    Raises:
      UserError: if names, bounds and measures disagree, a policy's observation is not one vector, reset and step
        return different pytrees, or the length or action size is not said.
    """
    length = episode_length or _attribute(env, "episode_length")
    actions = action_size or _attribute(env, "action_size")
    for value, what in ((length, "episode_length"), (actions, "action_size")):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name}: say {what}=, the environment has none (found {value!r})")
    if not len(measure_names) == len(low) == len(high):
        raise UserError(f"{name}: {len(measure_names)} measure names, {len(low)} low and {len(high)} high bounds")
    bad = [label for label, least, most in zip(measure_names, low, high, strict=True) if not least < most]
    if bad or not measure_names:
        raise UserError(f"{name}: every measure needs low < high, found none or wrong bounds for {bad}")

    def wrap(state: Any) -> TaskState:
        state = jax.tree.map(_strong, state)
        as_float = lambda value: jnp.asarray(value, jnp.float32)  # noqa: E731
        return TaskState(state, _observation(state, observe), as_float(state.reward), as_float(state.done))

    def reset(key: Key) -> TaskState:
        with jax.numpy_rank_promotion("allow"):  # Brax does, and so may any other
            state = env.reset(key if reset_key is None else reset_key)
        return wrap(state)

    def step(state: TaskState, action: Array) -> TaskState:
        # Wrappers write into the dicts of the state that they are given: give them other dicts.
        before = jax.tree.map(lambda leaf: leaf, state.physics)
        with jax.numpy_rank_promotion("allow"):  # Brax does, and so may any other
            after = env.step(before, jnp.clip(action, -1.0, 1.0) if clip_actions else action)
        return wrap(after)

    task = Task(
        name=name,
        reset=batch_last(reset),
        step=batch_last(step),
        measure=batch_last(lambda state: jnp.asarray(measure(state.physics), jnp.float32)),
        observation_size=0,
        action_size=actions,
        measure_names=tuple(measure_names),
        measure_low=tuple(map(float, low)),
        measure_high=tuple(map(float, high)),
        episode_length=length,
        fitness_offset=fitness_offset,
        dt=float(_attribute(env, "dt") or 1.0),
        backend=str(_attribute(env, "backend") or "own"),
        reset_noise=None if reset_key is None else 0.0,
        reduce=reduce,
        when=when,
    )
    return task.replace(observation_size=_check(task))  # type: ignore[attr-defined]


def task_elsewhere(
    name: str,
    *,
    observation_size: int,
    action_size: int,
    measure_names: tuple[str, ...],
    low: tuple[float, ...],
    high: tuple[float, ...],
    episode_length: int = 1000,
    fitness_offset: float = 0.0,
) -> Task:
    """Describe a task without an environment in JAX: Gymnasium, Isaac, a robot. Nothing can be rolled out on it.

    Args:
      name: what archives and models call the task.
      observation_size: O.
      action_size: A.
      measure_names: M names.
      low, high: M bounds of the measures.
      episode_length: steps of an episode, for records.
      fitness_offset: added to a fitness in a QD score.
    """

    def absent(*arguments: Any) -> Any:
        raise UserError(
            f"{name} has no environment in JAX, so that nothing can be rolled out; distil with states=[N, S, O] instead"
        )

    return Task(
        name=name,
        reset=absent,
        step=absent,
        measure=absent,
        observation_size=observation_size,
        action_size=action_size,
        measure_names=tuple(measure_names),
        measure_low=tuple(map(float, low)),
        measure_high=tuple(map(float, high)),
        episode_length=episode_length,
        fitness_offset=fitness_offset,
        dt=1.0,
        backend=ELSEWHERE,
        reset_noise=None,
    )


def task_from_qdax(env: Any, *, name: str | None = None, reset_key: Key | None = None, **changes: Any) -> Task:
    """Make a task of a QDax environment: its descriptor, its limits, its episode, measured as QDax does.

    Contacts are averaged over the states before each step, final positions are those before the last one; resets by
    `reset_key` give the one fixed state of QDax's default scoring function.

    Args:
      env: what `qdax.tasks.brax.v2.create(...)` returns.
      name: None takes the environment's own.
      reset_key: see `task_from_env`.
      changes: other arguments of `task_from_env`.

    Raises:
      UserError: as `task_from_env`, and for an environment without a descriptor.
    """
    inner, length = env, None
    while type(inner).__name__ in AUTO_RESETS and getattr(inner, "action_repeat", 1) == 1:
        length = length or vars(inner).get("episode_length")
        inner = inner.env
    named = _attribute(inner, "state_descriptor_name")
    count = _attribute(inner, "descriptor_length")
    if "measure" not in changes and not count:
        raise UserError(
            "this environment has no descriptor: QDax's ant_uni finds no feet in Brax >= 0.10.4, and plain Brax has "
            "none; use ldpol.make_task('ant') or give measure="
        )
    if "measure" not in changes:
        low, high = ([float(value) for value in bound] for bound in inner.descriptor_limits)
        label = {"feet_contact": "contact", "xy_position": "final position"}.get(str(named), str(named))
        names = _feet(inner, count) if named == "feet_contact" else tuple(f"{label} {'xyz'[i]}" for i in range(count))
        changes = {
            "measure": lambda state: state.info["state_descriptor"],
            "measure_names": names,
            "low": tuple(low),
            "high": tuple(high),
            "reduce": {"feet_contact": "mean", "xy_position": "last"}.get(str(named), "mean"),
        } | changes
    chosen = {
        "episode_length": length,
        "when": "before",
        "clip_actions": False,
        "name": name or f"{_attribute(inner, 'name')}_{'omni' if named == 'xy_position' else 'uni'}",
        "reset_key": reset_key,
    }
    return task_from_env(inner, **(chosen | changes))


def _feet(env: Any, count: int) -> tuple[str, ...]:
    """Return the names of the links whose contacts QDax counts."""
    links, feet = _attribute(env, "sys"), _attribute(env, "_feet_idx")
    if links is None or feet is None:
        return tuple(f"foot {i}" for i in range(count))
    return tuple(str(links.link_names[int(i)]).replace("_", " ") for i in feet)


def _attribute(env: Any, name: str) -> Any:
    """Return an attribute of an environment or of what it wraps; None if there is none."""
    try:
        return getattr(env, name, None)
    except (NotImplementedError, AttributeError, TypeError):
        return None


def _strong(leaf: Any) -> Any:
    """Make a leaf an array of a definite type: Python numbers are weakly typed, which would change a loop's carry."""
    leaf = jnp.asarray(leaf)
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(leaf, leaf.dtype)


def _observation(state: Any, observe: Callable[[Any], Array] | str | None) -> Array:
    if callable(observe):
        return jnp.asarray(observe(state), jnp.float32)
    seen = state.obs
    if isinstance(seen, dict):
        sizes = ", ".join(f"{key} ({value.shape[-1] if value.ndim else 1})" for key, value in seen.items())
        if observe not in seen:
            near = difflib.get_close_matches(str(observe), seen, 1) or [key for key in ("state", *seen) if key in seen]
            found = "" if observe is None else f", found observe={observe!r}"
            raise UserError(f"observations are a dict {sizes}{found}; pass observe={near[0]!r}")
        seen = seen[observe]
    return jnp.asarray(seen, jnp.float32)


def _check(task: Task) -> int:
    """Trace a reset, a step and a measurement; return the size of an observation."""
    try:
        start = jax.eval_shape(task.reset, jax.random.key(0))
        action = jax.ShapeDtypeStruct((task.action_size,), jnp.float32)
        after = jax.eval_shape(task.step, start, action)
        measured = jax.eval_shape(task.measure, start)
    except UserError:
        raise
    except Exception as error:
        raise _explained(task.name, error) from error
    if start.observation.ndim != 1:
        raise UserError(
            f"{task.name}: a policy sees one vector [O], found {list(start.observation.shape)}; pass observe=, "
            "a function of the state that flattens it"
        )
    _same(task.name, start, after)
    if measured.shape != (task.measures,):
        raise UserError(f"{task.name}: measure returned {list(measured.shape)}, {task.measures} names are given")
    return start.observation.shape[0]


def _same(name: str, start: PyTree, after: PyTree) -> None:
    """Raise `UserError` unless reset and step return the same pytree."""
    describe = lambda leaf: f"{leaf.dtype} {list(leaf.shape)}"  # noqa: E731
    one, other = (
        {jax.tree_util.keystr(path): describe(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree.physics)}
        for tree in (start, after)
    )
    for path in [*one, *other]:
        if one.get(path) != other.get(path):
            raise UserError(
                f"{name}: after a step `{path}` is {other.get(path, 'missing')}, at reset {one.get(path, 'missing')}: "
                "reset and step must return the same pytree"
            )


def _explained(name: str, error: Exception) -> Exception:
    """Return what to raise for what an environment raised."""
    text = str(error)
    if isinstance(error, TypeError) and ("a_max" in text or "a_min" in text):
        return UserError(
            f"{name}: {text}: QDax <= 0.5.1 does not run its *_omni tasks on jax 0.10; use task_from_env("
            "brax environment, measure=lambda s: s.pipeline_state.x.pos[0, :2], reduce='last', ...)"
        )
    if "warp" in text:
        return UserError(
            f"{name}: {text}: Playground's default physics needs warp-lang; "
            "registry.load(..., config_overrides={'impl': 'jax'})"
        )
    return error
