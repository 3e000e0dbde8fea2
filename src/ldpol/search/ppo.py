"""Proximal policy optimisation (Schulman et al. 2017) of one policy on a weighted sum of reward and measures.

Every function is of one copy. `jax.vmap` over weights, states and keys trains many side by side: with the rows of the
identity as weights they climb the reward and each measure (the gradients of PPGA, Batra et al. 2024), with
`[1, 0, ...]` it is plain PPO.
"""

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from ldpol.errors import UserError
from ldpol.networks import MLP, fold_normaliser
from ldpol.search.devices import averaged, gathered
from ldpol.search.normaliser import Moments, merge, moments_of, no_moments, pooled
from ldpol.search.ppo_config import PPOConfig
from ldpol.search.ppo_losses import (
    clipped_policy_loss,
    estimated_kl,
    gae,
    gaussian_entropy,
    gaussian_log_prob,
    value_loss,
)
from ldpol.search.ppo_rollout import Environments, Transitions, collect, start_environments
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params, PyTree

_ADAM = optax.scale_by_adam(eps=1e-5)
_Carry = tuple[PyTree, PyTree, Array]
"""Networks, Adam's moments, and whether the policy has moved too far."""


@struct.dataclass
class PPOState:
    """Everything one copy carries between updates.

    The optimiser's moments are kept apart for policy and critic, so that a policy can go on with another critic.

    Attributes:
      actor: parameters of the policy, which expects normalised observations.
      log_std: `[A]` natural logarithm of the exploration noise, the same in every state.
      critic: parameters of the value function, an MLP of the same kind.
      actor_adam: Adam's moments of `(actor, log_std)`.
      critic_adam: Adam's moments of `critic`.
      observations: moments `[O]` of the observations.
      returns: moments `[]` of the returns.
      environments: E environments in the middle of their episodes.
      step: `[]` updates done.
    """

    actor: Params
    log_std: Array
    critic: Params
    actor_adam: optax.OptState
    critic_adam: optax.OptState
    observations: Moments
    returns: Moments
    environments: Environments
    step: Array


class Batch(NamedTuple):
    """Transitions as the losses need them, N = T * E.

    Attributes:
      observation: `[N, O]` normalised.
      action: `[N, A]` before clipping.
      log_prob: `[N]` log density of the action when it was taken.
      advantage: `[N]` with mean 0 and standard deviation 1.
      target: `[N]` normalised return that the critic should predict.
    """

    observation: Array
    action: Array
    log_prob: Array
    advantage: Array
    target: Array


def check_trainable(task: Task, shape: MLP) -> None:
    """Raise `UserError` unless PPO can train policies of a network on a task, and on each of its measures.

    Gaussian noise is added to what the last layer gives, and the task clips the sum: after another final activation,
    the mean of that noise would be no action of the policy. Measures are rewards, so that an episode's must be a mean.
    """
    if (shape.observation_size, shape.action_size) != (task.observation_size, task.action_size):
        raise UserError(
            f"a policy of {shape.observation_size} observations and {shape.action_size} actions does not fit task "
            f"{task.name!r} of {task.observation_size} and {task.action_size}"
        )
    if (shape.final, shape.low, shape.high) != ("clip", -1.0, 1.0):
        raise UserError(
            f"PPO and PPGA train policies whose actions are clipped to [-1, 1], found {shape} in [{shape.low:g}, "
            f"{shape.high:g}]; search with search='map_elites', which takes any network"
        )
    if not task.is_mean_of_steps:
        raise UserError(
            f"PPO and PPGA climb measures step by step, those of {task.name} are not means over steps; search with "
            "search='map_elites'"
        )


def init(config: PPOConfig, task: Task, shape: MLP, key: Key) -> PPOState:
    """Return one untrained copy with its environments at the start of an episode.

    Layers are orthogonal, scaled by sqrt 2, the policy's last by 0.01 and the critic's by 1 (Andrychowicz et al. 2021:
    actions that at first hardly depend on the state are what matters).

    Args:
      config: settings.
      task: the task.
      shape: architecture of the policy.
      key: decides networks and episodes.

    Raises:
      UserError: if settings are out of range, or as `check_trainable`.
    """
    check_trainable(task, shape)
    actor_key, critic_key, start_key = jax.random.split(key, 3)
    actor = _orthogonal(shape, 0.01, actor_key)
    critic = _orthogonal(_critic_shape(config, shape), 1.0, critic_key)
    log_std = jnp.full(task.action_size, config.initial_log_std, jnp.float32)  # weakly typed, `update` would retrace
    return PPOState(
        actor=actor,
        log_std=log_std,
        critic=critic,
        actor_adam=_ADAM.init((actor, log_std)),
        critic_adam=_ADAM.init(critic),
        observations=no_moments((task.observation_size,)),
        returns=no_moments(()),
        environments=start_environments(task, config.environments, start_key),
        step=jnp.zeros((), jnp.int32),
    )


def update(
    config: PPOConfig,
    task: Task,
    shape: MLP,
    weights: Array,
    state: PPOState,
    key: Key,
    *,
    axis: str | None = None,
) -> tuple[PPOState, dict[str, Array]]:
    """Play one rollout and learn from it.

    Observations are normalised throughout by what was known before the rollout, so that the first ratio of densities
    is 1; the moments take the rollout in at the end. Those of the returns do so before the critic learns, for the
    first rollout gives its targets their scale.

    Args:
      config: settings.
      task: the task.
      shape: architecture of the policy.
      weights: `[1 + M]`; a step is worth their product with `[reward, measure_1, ..., measure_M]`.
      state: where to go on.
      key: decides episodes, actions and minibatches.
      axis: the mesh axis over which the environments are split, inside a `shard_map`: each device plays and learns from
        its own `config.environments`, and every gradient, statistic and metric is that of all together. `state` and
        `key` are otherwise the same everywhere, and remain so.

    Returns:
      The state afterwards, and scalars: `reward` a step as weighted; `episodes` that ended, their mean `episode_return`
      by the task's own reward and `episode_length` (NaN if none ended); `policy_loss`, `value_loss`, `kl`,
      `clip_fraction` and `gradient_norm` before clipping, as means over the gradient steps taken; `entropy` afterwards;
      `skipped`, the share of gradient steps not taken because of `target_kl`.

    Raises:
      ValueError: if settings are out of range or the weights do not fit the task.
    """
    if weights.shape != (1 + task.measures,):
        raise UserError(f"expected 1 + {task.measures} reward weights, found shape {weights.shape}")
    if state.environments.age.shape != (config.environments,):
        raise UserError(f"ppo.environments = {config.environments}, but the state has {state.environments.age.shape}")
    if axis is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    play_key, shuffle_key = jax.random.split(key)

    def act(observation: Array, noise: Array) -> tuple[Array, Array]:
        mean = _output(shape, state.actor, state.observations.normalise(observation))
        action = mean + jnp.exp(state.log_std) * noise
        return action, gaussian_log_prob(action, mean, state.log_std)

    def value(observation: Array) -> Array:
        normalised = state.observations.normalise(observation)
        return state.returns.denormalise(_output(_critic_shape(config, shape), state.critic, normalised)[..., 0])

    environments, seen = collect(task, weights, act, value, state.environments, play_key, config.steps)
    advantages = gae(
        seen.reward,
        seen.value,
        seen.next_value,
        seen.terminated,
        seen.over,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    seen, advantages, targets = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (seen, advantages, advantages + seen.value)
    )
    everywhere = gathered(
        {
            "targets": moments_of(targets),
            "advantages": moments_of(advantages),
            "observations": moments_of(seen.observation),
            "rewards": moments_of(seen.reward),
            "episodes": _episodes(seen),
        },
        axis,
    )
    episodes = jax.tree.map(lambda leaf: leaf.sum(0), everywhere.pop("episodes"))
    found = {name: pooled(moments) for name, moments in everywhere.items()}
    returns = merge(state.returns, found["targets"]) if config.normalise_returns else state.returns
    batch = Batch(
        observation=jax.vmap(state.observations.normalise)(seen.observation),
        action=seen.action,
        log_prob=seen.log_prob,
        advantage=(advantages - found["advantages"].mean) / (jnp.sqrt(found["advantages"].variance) + 1e-8),
        target=jax.vmap(returns.normalise)(targets),
    )
    keys = jax.random.split(shuffle_key, config.epochs)
    rows = jax.vmap(lambda key: jax.random.permutation(key, targets.shape[0]))(keys)
    state, metrics = learn(config, shape, state, batch, rows.reshape(config.epochs * config.minibatches, -1), axis=axis)
    observations = state.observations
    if config.normalise_observations:
        observations = merge(observations, found["observations"])
    state = dataclasses.replace(
        state, observations=observations, returns=returns, environments=environments, step=state.step + 1
    )
    of_episodes = {f"episode_{name}": episodes[name] / episodes["ended"] for name in ("return", "length")}
    return state, metrics | of_episodes | {"episodes": episodes["ended"], "reward": found["rewards"].mean}


def learn(
    config: PPOConfig, shape: MLP, state: PPOState, batch: Batch, rows: Array, *, axis: str | None = None
) -> tuple[PPOState, dict[str, Array]]:
    """Take a gradient step for each minibatch in turn, until the policy has moved too far.

    Args:
      config: settings.
      shape: architecture of the policy.
      state: networks and optimiser; its other fields pass through.
      batch: the transitions.
      rows: `[S, B]` which of them make up each of S minibatches.
      axis: the mesh axis whose devices each bring a `batch` and `rows`; a minibatch is that of all of them together.

    Returns:
      The state with networks and optimiser changed, and the metrics of `update` that concern learning.
    """
    rate = jnp.asarray(config.learning_rate)
    if config.decay_updates:
        rate *= jnp.maximum(1.0 - state.step / config.decay_updates, 0.0)
    gradient_of = jax.grad(partial(_loss, config, shape), has_aux=True)

    def step(carry: _Carry, chosen: Array) -> tuple[_Carry, dict[str, Array]]:
        networks, adam, stopped = carry
        gradient, info = gradient_of(networks, jax.tree.map(lambda leaf: leaf[chosen], batch))
        gradient, info = averaged((gradient, info), axis)
        norm = jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient)))
        shrink = jnp.minimum(1.0, config.max_gradient_norm / jnp.maximum(norm, 1e-12))
        gradient = jax.tree.map(lambda leaf: shrink * leaf, gradient)
        directions, moments = zip(*map(_ADAM.update, gradient, adam), strict=True)
        (actor, log_std), critic = jax.tree.map(lambda x, direction: x - rate * direction, networks, directions)
        if config.max_log_std is not None:
            log_std = jnp.minimum(log_std, config.max_log_std)
        new = ((actor, log_std), critic), moments
        if config.target_kl is not None:
            stopped |= info["kl"] > config.target_kl
        # A branch would not spare the work: under vmap it is a selection as well.
        networks, adam = jax.tree.map(lambda old, new: jnp.where(stopped, old, new), (networks, adam), new)
        return (networks, adam, stopped), info | {"gradient_norm": norm, "skipped": stopped.astype(jnp.float32)}

    networks = (state.actor, state.log_std), state.critic
    carry = networks, (state.actor_adam, state.critic_adam), jnp.zeros((), bool)
    (networks, adam, _), infos = jax.lax.scan(step, carry, rows)
    skipped = infos.pop("skipped")
    taken = jnp.maximum((1.0 - skipped).sum(), 1.0)
    metrics = {name: (values * (1.0 - skipped)).sum() / taken for name, values in infos.items()}
    (actor, log_std), critic = networks
    state = dataclasses.replace(
        state, actor=actor, log_std=log_std, critic=critic, actor_adam=adam[0], critic_adam=adam[1]
    )
    return state, metrics | {"entropy": gaussian_entropy(log_std), "skipped": skipped.mean()}


def policy_of(state: PPOState) -> Params:
    """Return the policy of one copy without noise, acting on raw observations: its normaliser is folded in."""
    return fold_normaliser(state.actor, state.observations.mean, state.observations.std)


def _loss(
    config: PPOConfig, shape: MLP, networks: tuple[tuple[Params, Array], Params], batch: Batch
) -> tuple[Array, dict[str, Array]]:
    (actor, log_std), critic = networks
    mean = _output(shape, actor, batch.observation)
    log_ratio = gaussian_log_prob(batch.action, mean, log_std[None]) - batch.log_prob
    policy = clipped_policy_loss(log_ratio, batch.advantage, config.clip)
    value = value_loss(_output(_critic_shape(config, shape), critic, batch.observation)[..., 0], batch.target)
    loss = policy + config.value_weight * value - config.entropy_weight * gaussian_entropy(log_std)
    outside = (jnp.abs(jnp.expm1(log_ratio)) > config.clip).mean()
    return loss, {"policy_loss": policy, "value_loss": value, "kl": estimated_kl(log_ratio), "clip_fraction": outside}


def _episodes(seen: Transitions) -> dict[str, Array]:
    """Return how many episodes ended, and the sums of their returns and lengths."""
    over = seen.over.astype(jnp.float32)
    total = lambda values: jnp.where(seen.over, values, 0.0).sum()  # noqa: E731
    return {"ended": over.sum(), "return": total(seen.total), "length": total(seen.age.astype(jnp.float32))}


def _critic_shape(config: PPOConfig, shape: MLP) -> MLP:
    return MLP(shape.observation_size, 1, config.critic)


def _output(shape: MLP, params: Params, observation: Array) -> Array:
    return shape.pre_action(params, observation)


def _orthogonal(shape: MLP, last: float, key: Key) -> Params:
    layers = shape.abstract()["params"]
    scales = [math.sqrt(2.0)] * len(shape.hidden) + [last]
    keys = jax.random.split(key, len(scales))
    made = {}
    for i, (scale, layer_key) in enumerate(zip(scales, keys, strict=True)):
        layer = layers[f"Dense_{i}"]
        draw = partial(nn.initializers.orthogonal(scale), shape=layer["kernel"].shape)
        # One at a time under vmap: jaxlib's batched QR decomposition can hang where there are but two threads.
        kernel = jax.custom_batching.sequential_vmap(draw)(layer_key)
        made[f"Dense_{i}"] = {"kernel": kernel, "bias": jnp.zeros(layer["bias"].shape)}
    return {"params": made}
