"""Many updates of PPO in a row, of one copy or of several side by side, with the environments spread over devices."""

import dataclasses
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from ldpol.networks import MLP
from ldpol.search import ppo
from ldpol.search.ppo_config import PPOConfig
from ldpol.tasks import Task
from ldpol.types import Array, Key

_Specs = Any
"""A pytree of `PartitionSpec`, like the state it splits."""


def train(
    task: Task,
    shape: MLP,
    config: PPOConfig,
    updates: int,
    mesh: Mesh | None,
    weights: Array,
    state: ppo.PPOState,
    key: Key,
) -> ppo.PPOState:
    """Update one copy, or K of them side by side, `updates` times.

    Args:
      task: the task.
      shape: architecture of the policies.
      config: settings; `environments` are those of one copy on one device.
      updates: how many in a row.
      mesh: the devices over which the environments of every copy are spread; the rest is the same on all of them.
        None is one device.
      weights: `[1 + M]` of reward and measures, or `[K, 1 + M]`.
      state: of one copy, or with a leading axis K on every leaf.
      key: decides episodes, actions and minibatches.
    """
    copies = weights.ndim == 2

    def all_updates(weights: Array, state: ppo.PPOState, key: Key) -> ppo.PPOState:
        one = partial(ppo.update, config, task, shape, axis=None if mesh is None else "policies")

        def update(state: ppo.PPOState, key: Key) -> tuple[ppo.PPOState, None]:
            if not copies:
                return one(weights, state, key)[0], None
            return jax.vmap(one)(weights, state, jax.random.split(key, len(weights)))[0], None

        return jax.lax.scan(update, state, jax.random.split(key, updates))[0]

    if mesh is None:
        return all_updates(weights, state, key)
    everywhere, split = PartitionSpec(), PartitionSpec(None, "policies") if copies else PartitionSpec("policies")
    specs: _Specs = jax.tree.map(lambda leaf: everywhere, state)
    specs = dataclasses.replace(specs, environments=jax.tree.map(lambda leaf: split, state.environments))
    spread = jax.shard_map(
        all_updates, mesh=mesh, in_specs=(everywhere, specs, everywhere), out_specs=specs, check_vma=False
    )
    return spread(weights, state, key)
