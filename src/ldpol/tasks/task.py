"""What a control task is: resets, steps, and behaviour measures of an episode."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
from flax import struct

from ldpol.errors import UserError
from ldpol.types import Array, Key, PyTree


@struct.dataclass
class TaskState:
    """Where an episode stands after a step.

    Attributes:
      physics: the state of the physics pipeline, opaque.
      observation: `[O]`.
      reward: `[]` of the last step.
      done: `[]` 1.0 when the last step ended the episode (a fall), else 0.0. Time-outs are the caller's.
    """

    physics: Any
    observation: Array
    reward: Array
    done: Array


class Torso(NamedTuple):
    """Where the torso is.

    Attributes:
      position: `[3]` of its origin, metres; the ground is z = 0 and the reward is for moving along x.
      pitch: `[]` radians in (-pi, pi]: how far the vertical is turned in the torso's own sagittal plane, whatever way
        it faces. 0 at rest, positive when it leans forward.
    """

    position: Array
    pitch: Array


class Skeleton(NamedTuple):
    """The body as capsules, for drawing.

    Attributes:
      radii: of the G capsules, metres.
      ends: `TaskState -> [G, 2, 3]` where the two ends of each capsule's axis are, metres; a sphere's are one point.
      sides: of the G capsules: 0 or 1 for a limb of the task's first or second side, -1 for the middle; empty where
        nothing has a side.
    """

    radii: tuple[float, ...]
    ends: Callable[[TaskState], Array]
    sides: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()


class Reduction(NamedTuple):
    """How the steps of an episode become its measures, in fixed memory; static: a fresh lambda compiles anew.

    Attributes:
      init: `() -> record`, a pytree of arrays.
      update: `(record, state before the step, action [A], state after it) -> record`, called once a step lived.
      finish: `(record, steps lived []) -> [M]`.
    """

    init: Callable[[], PyTree]
    update: Callable[[PyTree, "TaskState", Array, "TaskState"], PyTree]
    finish: Callable[[PyTree, Array], Array]


REDUCTIONS = ("mean", "last", "max", "min")
When: TypeAlias = Literal["before", "after"]


def reduction(measure: Callable[["TaskState"], Array], measures: int, reduce: str | Reduction, when: When) -> Reduction:
    """Return the `Reduction` of one measure a step to one an episode.

    Args:
      measure: `TaskState -> [M]` of one step.
      measures: M.
      reduce: `mean`, `last`, `max` or `min` over the steps lived; a `Reduction` is returned as it is.
      when: whether a step counts by the state before it (as QDax does) or after it.

    Raises:
      UserError: if it is neither.
    """
    if isinstance(reduce, Reduction):
        return reduce
    if reduce not in REDUCTIONS or when not in ("before", "after"):
        raise UserError(
            f"measures are reduced by {', '.join(REDUCTIONS)} or a Reduction, before or after a step; "
            f"found {reduce!r} and {when!r}"
        )
    start = {"mean": 0.0, "last": 0.0, "max": -jnp.inf, "min": jnp.inf}[reduce]
    join: Callable[[Array, Array], Array] = {
        "mean": jnp.add,
        "last": lambda old, new: new,
        "max": jnp.maximum,
        "min": jnp.minimum,
    }[reduce]

    def update(record: PyTree, before: TaskState, action: Array, after: TaskState) -> PyTree:
        return join(record, measure(before if when == "before" else after))

    def finish(record: PyTree, length: Array) -> Array:
        return record / jnp.maximum(length, 1.0) if reduce == "mean" else record

    return Reduction(lambda: jnp.full(measures, start), update, finish)


@struct.dataclass
class Task:
    """A control task with behaviour measures; all fields are static.

    Attributes:
      reset: `key -> TaskState`, one episode.
      step: `(TaskState, action [A]) -> TaskState`; it clips actions to their bounds.
      measure: `TaskState -> [M]` of one step; for the robots 1.0 for each foot that touches the ground now, else 0.0.
      reduce: how steps become the measures of an episode: `mean`, `last`, `max`, `min`, or a `Reduction`.
      when: whether a step is measured `before` or `after` it.
      fitness_offset: added to a fitness in a QD score.
      dt: seconds of physics a step.
      reset_noise: half-width of the noise on the initial state; None: unknown.
      torso: `TaskState -> Torso`; None for a task without a torso, which then has no traits.
      sides: see `TaskSpec.sides`.
      skeleton: how to draw the body; None for a task without one.
      with_physics: `(gravity, friction) -> Task`, the task with both multiplied by these; None where it cannot be done.
    """

    name: str = struct.field(pytree_node=False)
    reset: Callable[[Key], TaskState] = struct.field(pytree_node=False)
    step: Callable[[TaskState, Array], TaskState] = struct.field(pytree_node=False)
    measure: Callable[[TaskState], Array] = struct.field(pytree_node=False)
    observation_size: int = struct.field(pytree_node=False)
    action_size: int = struct.field(pytree_node=False)
    measure_names: tuple[str, ...] = struct.field(pytree_node=False)
    measure_low: tuple[float, ...] = struct.field(pytree_node=False)
    measure_high: tuple[float, ...] = struct.field(pytree_node=False)
    episode_length: int = struct.field(pytree_node=False)
    fitness_offset: float = struct.field(pytree_node=False)
    dt: float = struct.field(pytree_node=False)
    backend: str = struct.field(pytree_node=False)
    reset_noise: float | None = struct.field(pytree_node=False)
    reduce: str | Reduction = struct.field(pytree_node=False, default="mean")
    when: When = struct.field(pytree_node=False, default="after")
    torso: Callable[[TaskState], Torso] | None = struct.field(pytree_node=False, default=None)
    sides: tuple[tuple[str, tuple[int, ...]], ...] = struct.field(pytree_node=False, default=())
    skeleton: Skeleton | None = struct.field(pytree_node=False, default=None)
    with_physics: Callable[[float, float], "Task"] | None = struct.field(pytree_node=False, default=None)

    @property
    def measures(self) -> int:
        """How many measures, M."""
        return len(self.measure_names)

    @property
    def reduction(self) -> Reduction:
        """How the steps of an episode become its measures."""
        return reduction(self.measure, self.measures, self.reduce, self.when)

    @property
    def is_mean_of_steps(self) -> bool:
        """Whether an episode's measures are the means over its steps, so that those of a part of it are comparable."""
        return self.reduce == "mean"

    @property
    def settings(self) -> tuple[tuple[str, Any], ...]:
        """What the task was made with, for records."""
        made = {"backend": self.backend, "episode_length": self.episode_length, "reset_noise": self.reset_noise}
        return tuple(made.items())
