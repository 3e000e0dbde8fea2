"""Damaged robots: the same task with weaker actuators, other gravity or less friction."""

from dataclasses import dataclass

import jax.numpy as jnp

from ldpol.errors import UserError
from ldpol.settings import check
from ldpol.tasks.task import Task, TaskState
from ldpol.types import Array


@dataclass(frozen=True)
class Damage:
    """What is wrong with a robot.

    Attributes:
      name: in words.
      strengths: what is left of each actuator, A factors: 0 for a dead one, 1 for a sound one; empty: all are sound.
      gravity, friction: factors.
    """

    name: str
    strengths: tuple[float, ...] = ()
    gravity: float = 1.0
    friction: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"strengths": 0, "gravity": 0, "friction": 0})


def weaken(strengths: Array, action: Array) -> Array:
    """Return what actuators of these strengths `[A]` make of an action `[A]`; a sound one does as it is told.

    An action is clipped to [-1, 1] first, as the robots do: a command beyond it must not make up for the damage.
    """
    return jnp.where(strengths == 1.0, action, strengths * jnp.clip(action, -1.0, 1.0))


def damaged(task: Task, damage: Damage) -> Task:
    """Return the task with a damaged robot; it has a name of its own.

    Args:
      task: the healthy one.
      damage: what is wrong.

    Raises:
      UserError: if there is not one strength per actuator, or the task cannot change gravity and friction.
    """
    if len(damage.strengths) not in (0, task.action_size):
        raise UserError(
            f"{task.name} has {task.action_size} actuators, the damage {damage.name!r} gives {len(damage.strengths)} "
            "strengths"
        )
    changed = task
    if (damage.gravity, damage.friction) != (1.0, 1.0):
        if task.with_physics is None:
            raise UserError(
                f"gravity and friction of {task.name} cannot be changed: it is none of the robots of ldpol.make_task; "
                "make the damaged environment yourself and pass it to ldpol.task_from_env"
            )
        changed = task.with_physics(damage.gravity, damage.friction)
    name = f"{task.name}, {damage.name}"
    if not damage.strengths:
        return changed.replace(name=name)  # type: ignore[attr-defined]
    healthy, strengths = changed.step, jnp.asarray(damage.strengths)

    def step(state: TaskState, action: Array) -> TaskState:
        return healthy(state, weaken(strengths, action))

    return changed.replace(name=name, step=step)  # type: ignore[attr-defined]
