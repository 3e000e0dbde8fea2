"""Gradient steps: the optimiser, what a training carries from step to step, and many steps as one loop."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ldpol.types import Array, Key, PyTree


class OptimiserConfig(NamedTuple):
    """Adam with a cosine decay.

    Attributes:
      steps: gradient steps in all.
      rate: peak learning rate.
      warmup: steps of linear warm-up.
      clip: largest norm of a gradient.
      decay: weight decay.
      ema: decay of the exponential moving average of the parameters, which is what is used afterwards.
    """

    steps: int
    rate: float = 3e-3
    warmup: int = 100
    clip: float = 1.0
    decay: float = 0.0
    ema: float = 0.995


@struct.dataclass
class TrainState:
    """A model in training.

    Attributes:
      params: trained parameters.
      ema: their moving average.
      optimiser: optax state.
      step: `[]` steps done.
    """

    params: PyTree
    ema: PyTree
    optimiser: optax.OptState
    step: Array


def make_optimiser(config: OptimiserConfig) -> optax.GradientTransformation:
    """Return Adam(W) with gradient clipping, linear warm-up and cosine decay to zero.

    Raises:
      ValueError: if a setting is out of range.
    """
    if config.steps < 1 or config.rate <= 0 or not 0 <= config.ema < 1 or config.clip <= 0:
        raise ValueError(f"training needs steps >= 1, rate > 0, clip > 0 and 0 <= ema < 1, found {config}")
    warmup = min(config.warmup, config.steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.rate, warmup, config.steps)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adamw(rate, weight_decay=config.decay))


def start_state(config: OptimiserConfig, params: PyTree) -> TrainState:
    """Return the state before the first step."""
    return TrainState(params, params, make_optimiser(config).init(params), jnp.asarray(0))


def advance(config: OptimiserConfig, state: TrainState, gradient: PyTree) -> TrainState:
    """Apply one gradient and update the moving average; its decay grows from 0 so that it forgets the start."""
    updates, optimiser = make_optimiser(config).update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(config.ema, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params)
    return TrainState(params, ema, optimiser, state.step + 1)


def scan_steps(
    step: Callable[[TrainState, Key], tuple[TrainState, dict[str, Array]]], state: TrainState, key: Key, steps: int
) -> tuple[TrainState, dict[str, Array]]:
    """Run several steps as one loop on the device.

    Args:
      step: `(state, key) -> (state, metrics)`.
      state: where to start; its `step` also decides the keys, so chunks of any size give the same run.
      key: of the whole training, not of this chunk.
      steps: how many.

    Returns:
      The state after them and the mean of each metric over them.
    """

    def body(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
        return step(state, jax.random.fold_in(key, state.step))

    state, metrics = jax.lax.scan(body, state, None, length=steps)
    return state, jax.tree.map(jnp.mean, metrics)
