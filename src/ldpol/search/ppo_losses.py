"""The arithmetic of PPO: advantages, the Gaussian around the policy's mean, and the two losses."""

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.types import Array

_LOG_TWO_PI = float(np.log(2.0 * np.pi))


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    over: Array,
    *,
    gamma: float,
    gae_lambda: float,
) -> Array:
    """Return generalised advantage estimates `[T, ...]` (Schulman et al. 2016, eq. 16).

    A_t = delta_t + gamma lambda A_{t+1} with delta_t = r_t + gamma V(s_{t+1}) - V(s_t). Nothing follows a termination,
    so V(s_{t+1}) is 0 there. A time-out only interrupts: its value counts, but the sum stops, for the next row belongs
    to another episode.

    Args:
      rewards: `[T, ...]`.
      values: `[T, ...]` of the states acted in.
      next_values: `[T, ...]` of the states that the actions led to, before any reset.
      terminated: `[T, ...]` bool, whether the step ended the episode by itself.
      over: `[T, ...]` bool, whether it ended for whatever reason; true wherever `terminated` is.
      gamma: discount a step.
      gae_lambda: 0 trusts the values, 1 the rewards.
    """
    deltas = rewards + gamma * jnp.where(terminated, 0.0, next_values) - values

    def backward(later: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, over = row
        advantage = delta + gamma * gae_lambda * jnp.where(over, 0.0, later)
        return advantage, advantage

    return jax.lax.scan(backward, jnp.zeros_like(deltas[0]), (deltas, over), reverse=True)[1]


def gaussian_log_prob(action: Array, mean: Array, log_std: Array) -> Array:
    """Return the log density `[...]` of actions `[..., A]` under a diagonal Gaussian.

    The density is that of the action before the task clips it: clipping is part of the task.

    Args:
      action: `[..., A]`.
      mean: `[..., A]`.
      log_std: `[..., A]`, natural logarithm.
    """
    surprise = 0.5 * jnp.square((action - mean) * jnp.exp(-log_std)) + log_std + 0.5 * _LOG_TWO_PI
    return -surprise.sum(-1)


def gaussian_entropy(log_std: Array) -> Array:
    """Return the entropy `[]` in nats of a diagonal Gaussian with `log_std` `[A]`."""
    return (log_std + 0.5 * (_LOG_TWO_PI + 1.0)).sum()


def clipped_policy_loss(log_ratio: Array, advantage: Array, clip: float) -> Array:
    """Return minus the clipped surrogate objective `[]` (Schulman et al. 2017, eq. 7).

    Args:
      log_ratio: `[N]` log of the action's density now over that when it was taken.
      advantage: `[N]`.
      clip: the objective gains nothing from ratios outside [1 - clip, 1 + clip].
    """
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage).mean()


def estimated_kl(log_ratio: Array) -> Array:
    """Estimate KL(old || new) `[]` in nats from actions of the old policy.

    The mean of (ratio - 1) - log ratio: unbiased, never negative and of low variance (Schulman 2020, "Approximating KL
    divergence", k3).

    Args:
      log_ratio: `[N]` as in `clipped_policy_loss`.
    """
    return (jnp.expm1(log_ratio) - log_ratio).mean()


def value_loss(value: Array, target: Array) -> Array:
    """Return half the mean squared error `[]` of values `[N]`.

    Not clipped around the old values: that hurts or does nothing (Andrychowicz et al. 2021, section 3.4), and what it
    allows depends on the scale of the returns.
    """
    return 0.5 * jnp.square(value - target).mean()
