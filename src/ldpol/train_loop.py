"""Gradient steps: the optimiser, what a training carries from step to step, and the one loop that runs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from ldpol.rollout import copied_to, policy_mesh
from ldpol.settings import check, fail
from ldpol.types import Array, Key, PyTree


@dataclass(frozen=True)
class OptimiserConfig:
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

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"steps": 1, "warmup": 0, "decay": 0, "ema": 0}, above={"rate": 0, "clip": 0})
        if not self.ema < 1:
            fail(self, "ema", f"must be less than 1, found {self.ema:g}")


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
    """Return Adam(W) with gradient clipping, linear warm-up and cosine decay to zero."""
    warmup = min(config.warmup, config.steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.rate, warmup, config.steps)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adamw(rate, weight_decay=config.decay))


def start_state(config: OptimiserConfig, params: PyTree) -> TrainState:
    """Return the state before the first step."""
    # One program for all tensors: made one by one, each shape would be compiled by itself.
    # Not a weak type either: `run_steps` would be compiled once for the first state, and again for one that was read.
    return TrainState(params, params, jax.jit(make_optimiser(config).init)(params), jnp.zeros((), jnp.int32))


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


Step = Callable[[TrainState, Key, PyTree], tuple[TrainState, dict[str, Array]]]
"""`(state, key, data) -> (state, metrics)`, one gradient step; pure."""
Log = Callable[[str, int, Mapping[str, Any]], Any]
"""`(phase, step, metrics)`, called now and then."""


@partial(jax.jit, static_argnames=("step", "steps"), donate_argnames="state")
def run_steps(step: Step, state: TrainState, key: Key, data: PyTree, steps: int) -> tuple[TrainState, dict[str, Array]]:
    """Run several gradient steps as one program, compiled once for a `step` and a number of `steps`."""
    return scan_steps(lambda state, key: step(state, key, data), state, key, steps)


def place(state: TrainState, mesh: Mesh | None = None) -> TrainState:
    """Copy a state to the devices that train: its buffers are given to the loop, and the caller may hold the same."""
    return _copies(jax.device_put(state, copied_to(training_mesh() if mesh is None else mesh)))


@jax.jit
def _copies(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)


def fit(
    name: str,
    step: Step,
    state: TrainState,
    key: Key,
    data: PyTree,
    steps: int,
    log: Log = lambda phase, step, metrics: None,
    *,
    steps_per_call: int = 200,
) -> TrainState:
    """Train until `state.step` is `steps`: a plain loop over compiled chunks.

    Args:
      name: of the phase, for the log.
      step: one gradient step, the same object in every call, so that it is compiled once.
      state: where to start; its `step` counts those done before.
      key: of the whole training: chunks of any size give the same run.
      data: what `step` learns from; an argument of the program, not a constant.
      steps: in all.
      log: called after every chunk with the means of its metrics.
      steps_per_call: in a chunk, at most.
    """
    state, done = place(state), int(state.step)
    while done < steps:
        count = min(steps_per_call, steps - done)
        state, metrics = run_steps(step, state, key, data, count)
        done += count
        log(name, done, {name: float(value) for name, value in metrics.items()})
    return state


def training_mesh() -> Mesh:
    """Return the devices that share a training batch: all accelerators, but one CPU device.

    On a CPU one device with XLA's own threads is faster than several in lockstep (`benchmarks/training.py`).
    """
    devices = jax.local_devices()
    return policy_mesh(devices[:1] if devices[0].platform == "cpu" else devices)
