"""Record what a policy's body does, step by step, to be drawn."""

import jax
import jax.numpy as jnp
from flax import struct

from ldpol.errors import UserError
from ldpol.rollout import Apply
from ldpol.tasks import Task, TaskState
from ldpol.types import Array, Key, Params, Score


@struct.dataclass
class Film:
    """An episode of T steps as pictures; row t shows the state after step t.

    Attributes:
      ends: `[T, G, 2, 3]` metres, see `Skeleton`; the last picture of an episode that is over stays.
      measures: `[T, M]`; 0 once the episode is over.
      rewards: `[T]`; 0 once the episode is over.
      alive: `[T]` bool, whether the step was lived.
    """

    ends: Array
    measures: Array
    rewards: Array
    alive: Array


def film(task: Task, apply: Apply, params: Params, key: Key) -> tuple[Score, Film]:
    """Play one episode of one policy, as `rollout` does with the same key, and record it.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      params: one policy.
      key: decides the initial state.

    Raises:
      ValueError: if the task does not say how to draw its body.
    """
    start = task.reset(key)
    _, _, shots = film_from(task, apply, params, start, jnp.ones((), bool), steps=task.episode_length)
    length = shots.alive.sum().astype(jnp.float32)
    return Score(shots.rewards.sum(), shots.measures.sum(0) / jnp.maximum(length, 1.0), length), shots


def film_from(
    task: Task, apply: Apply, params: Params, state: TaskState, alive: Array, *, steps: int
) -> tuple[TaskState, Array, Film]:
    """Record some steps of one policy from a given state on.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      params: one policy.
      state: where the episode stands.
      alive: `[]` bool, whether it is not over yet.
      steps: how many to record, T.

    Returns:
      The state after the last step, whether the episode is still not over, and the film.

    Raises:
      ValueError: if the task does not say how to draw its body.
    """
    if task.skeleton is None:
        raise UserError(f"task {task.name!r} cannot be filmed: it does not say how to draw its body")
    draw = task.skeleton.ends

    def body(carry, _):
        state, alive, last = carry
        state = task.step(state, apply(params, state.observation))
        # `where`, not a product: the physics of a finished episode may overflow to NaN.
        ends = jnp.where(alive, draw(state), last)
        measures = jnp.where(alive, task.measure(state), 0.0)
        shot = Film(ends, measures, jnp.where(alive, state.reward, 0.0), alive)
        return (state, alive & (state.done < 0.5), ends), shot

    (state, alive, _), shots = jax.lax.scan(body, (state, alive, draw(state)), None, length=steps)
    return state, alive, shots
