"""Experience for PPO: E environments, T steps each, episodes that run on from one rollout to the next."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from ldpol.tasks import Task, TaskState
from ldpol.types import Array, Key


@struct.dataclass
class Environments:
    """E environments in the middle of their episodes.

    Attributes:
      state: where each stands, leading axis E on every leaf.
      age: `[E]` steps lived in the running episode.
      total: `[E]` sum of the task's rewards in the running episode.
    """

    state: TaskState
    age: Array
    total: Array


@struct.dataclass
class Transitions:
    """What happened in T steps of E environments.

    Attributes:
      observation: `[T, E, O]` acted on, raw.
      action: `[T, E, A]` before clipping.
      log_prob: `[T, E]` log density of the action.
      reward: `[T, E]` weighted sum of the task's reward and its measures.
      value: `[T, E]` of the observation acted on.
      next_value: `[T, E]` of the observation that followed, before any reset.
      terminated: `[T, E]` bool, whether the step ended the episode by itself.
      over: `[T, E]` bool, whether it ended, by itself or by the clock.
      total: `[T, E]` sum of the task's own rewards in the episode up to and including this step.
      age: `[T, E]` steps of the episode up to and including this one.
    """

    observation: Array
    action: Array
    log_prob: Array
    reward: Array
    value: Array
    next_value: Array
    terminated: Array
    over: Array
    total: Array
    age: Array


def start_environments(task: Task, count: int, key: Key) -> Environments:
    """Return `count` environments at the start of their first episode."""
    state = jax.vmap(task.reset)(jax.random.split(key, count))
    return Environments(state, jnp.zeros(count, jnp.int32), jnp.zeros(count))


def collect(
    task: Task,
    weights: Array,
    act: Callable[[Array, Array], tuple[Array, Array]],
    value: Callable[[Array], Array],
    environments: Environments,
    key: Key,
    steps: int,
) -> tuple[Environments, Transitions]:
    """Play T steps in each of E environments; one that ends its episode begins another.

    A reset costs much of a step's time, so each environment is given one fresh start for the whole rollout; one that
    ends several episodes in it begins them all there. A step whose reward or observation is not finite ends the
    episode with reward 0: physics that blew up in one environment must not reach the parameters.

    Args:
      task: the task; an episode is cut off after its `episode_length`.
      weights: `[1 + M]` of the task's reward and of each measure of the state that a step leads to.
      act: `(observation [O], standard normal noise [A]) -> (action [A], log density [])`.
      value: `observation [O] -> []`.
      environments: where to go on.
      key: decides actions and fresh starts.
      steps: T.

    Returns:
      The environments afterwards and what happened.
    """
    start_key, noise_key = jax.random.split(key)
    count = environments.age.shape[0]
    starts = start_environments(task, count, start_key)

    def step(now: Environments, start: Environments, noise: Array) -> tuple[Environments, Transitions]:
        observation = now.state.observation
        action, log_prob = act(observation, noise)
        after = task.step(now.state, action)
        # A sum, not a matrix product, which some accelerators round to fewer digits.
        reward = (weights * jnp.concatenate([after.reward[None], task.measure(after)])).sum()
        finite = jnp.isfinite(reward) & jnp.isfinite(after.observation).all()
        terminated = (after.done > 0.5) | ~finite
        age = now.age + 1
        over = terminated | (age >= task.episode_length)
        seen = Transitions(
            observation=observation,
            action=action,
            log_prob=log_prob,
            reward=jnp.where(finite, reward, 0.0),
            value=value(observation),
            next_value=jnp.where(finite, value(after.observation), 0.0),
            terminated=terminated,
            over=over,
            total=now.total + jnp.where(finite, after.reward, 0.0),
            age=age,
        )
        then = Environments(after, age, seen.total)
        return jax.tree.map(lambda fresh, old: jnp.where(over, fresh, old), start, then), seen

    def all_step(now: Environments, noise: Array) -> tuple[Environments, Transitions]:
        return jax.vmap(step)(now, starts, noise)

    noise = jax.random.normal(noise_key, (steps, count, task.action_size))
    return jax.lax.scan(all_step, environments, noise)
