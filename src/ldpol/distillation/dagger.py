"""DAgger (Ross et al. 2011): train, see where the student goes, ask the teachers there, go on."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ldpol.distillation.dataset import Dataset, add_states
from ldpol.hooks import Hooks
from ldpol.rollout import copied_to
from ldpol.train_loop import Step, TrainState
from ldpol.types import Key, PyTree


def fit_with_dagger(
    name: str,
    step: Step,
    state: TrainState,
    data: Dataset,
    constants: PyTree,
    *,
    steps: int,
    rounds: int,
    visited: Callable[[TrainState, int], dict[str, np.ndarray]],
    depends_on: Mapping[str, Any],
    hooks: Hooks,
    mesh: Mesh,
    key: Key,
) -> tuple[TrainState, Dataset]:
    """Train in `rounds + 1` equal parts; between them, add what the teachers do where the student goes.

    Args:
      name: of the phase.
      step: `(state, key, (data, constants)) -> (state, metrics)`.
      state: before the first step.
      data: what the teachers did where, with room for the states of all rounds.
      constants: whatever else `step` needs.
      steps: gradient steps in all.
      rounds: of DAgger.
      visited: `(state, number of the round) -> states and actions`, as `collect` returns them.
      depends_on: what the states of a round depend on beside its number.
      hooks: of the caller.
      mesh: devices that train.
      key: of the whole training.

    Returns:
      The trained state, and the data with all rounds in it.
    """
    for number in range(rounds + 1):
        until = steps * (number + 1) // (rounds + 1)
        log = lambda phase, at, metrics: hooks.log(phase, at, metrics | {"dagger_round": number})  # noqa: B023, E731
        data = jax.device_put(data, copied_to(mesh))
        state = hooks.fit(name, step, state, key, (data, constants), until, log)
        if number < rounds:
            more = hooks.memo(f"dagger-{number}", {**depends_on, "round": number}, partial(visited, state, number))
            data = add_states(data, more["states"], more["actions"])
    return state, data
