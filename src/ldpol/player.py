"""Policies to behaviours: one compiled program per task, network and number of episodes, made once and passed down."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from ldpol.errors import UserError
from ldpol.hooks import Progress, silent
from ldpol.rollout import Apply, RolloutConfig, over_chunks, policy_mesh, rollout_batch
from ldpol.tasks import Task
from ldpol.traits import behaviour_recorder, summarise_behaviour
from ldpol.types import Behaviour, Key, Params, PyTree

T = TypeVar("T")


def sample_policies(sample: Callable[[Key, PyTree], Params], requests: PyTree, keys: Key) -> Params:
    """Sample one policy per request, independently of the episodes that `score_policies` rolls out with the same keys.

    Args:
      sample: `(key, request) -> one policy`, such as `PolicyGenerator.sample`.
      requests: leading axis N on every leaf, for instance measures `[N, M]`.
      keys: `[N]`.

    Returns:
      N policies, leading axis on every leaf.
    """
    return jax.vmap(sample)(_split(keys)[0], requests)


def score_policies(
    task: Task,
    apply: Apply,
    policies: Params,
    keys: Key,
    *,
    episodes: int,
    config: RolloutConfig = RolloutConfig(),
    mesh: Mesh | None = None,
) -> Behaviour:
    """Roll out N policies, `episodes` each; mean `Behaviour` `[N]`. Arguments as in `rollout.rollout_batch`."""
    _, episode_keys = _split(keys)
    score, record = rollout_batch(
        task,
        apply,
        policies,
        episode_keys,
        episodes=episodes,
        config=config,
        mesh=mesh,
        recorder=behaviour_recorder(task),
    )
    return jax.vmap(partial(summarise_behaviour, task))(score, record)


def _split(keys: Key) -> tuple[Key, Key]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


@dataclass(frozen=True)
class Player:
    """Evaluates policies of one network on one task.

    Attributes:
      play: `(policies [B], keys [B]) -> Behaviour [B]`, compiled; means over `episodes`.
      episodes: per policy.
      chunk: B, a multiple of the devices.
      mesh: the devices.
    """

    play: Callable[[Params, Key], Behaviour]
    episodes: int
    chunk: int
    mesh: Mesh

    def __call__(
        self, policies: Params, key: Key, *, title: str = "rollouts", progress: Progress = silent
    ) -> Behaviour:
        """Evaluate any number N of policies in chunks; mean `Behaviour` `[N]` as NumPy arrays."""
        return self.over(self.play, policies, key, title=title, progress=progress)

    def over(
        self,
        program: Callable[[PyTree, Key], T],
        rows: PyTree,
        key: Key,
        *,
        title: str,
        progress: Progress = silent,
        numbers: np.ndarray | None = None,
    ) -> T:
        """Run a compiled `(rows [B], keys [B]) -> results [B]` over N rows in chunks, see `rollout.over_chunks`."""
        count = jax.tree.leaves(rows)[0].shape[0]
        with progress(title, count) as done:
            return over_chunks(program, rows, key, size=self.chunk, mesh=self.mesh, done=done, numbers=numbers)


def make_player(
    task: Task,
    apply: Apply,
    *,
    episodes: int,
    rollout: RolloutConfig = RolloutConfig(),
    chunk: int = 256,
    mesh: Mesh | None = None,
) -> Player:
    """Return the player of a task and a network.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]` of the network.
      episodes: per policy.
      rollout: lanes and blocks of a device.
      chunk: policies per call of the compiled program.
      mesh: devices; None: all local ones.

    Raises:
      UserError: if the chunk does not split evenly over the devices.
    """
    mesh = policy_mesh() if mesh is None else mesh
    if episodes < 1 or chunk < 1 or chunk % mesh.size:
        raise UserError(
            f"a player needs episodes >= 1 and a chunk that splits over the {mesh.size} devices, found {episodes} and "
            f"{chunk}"
        )
    how = {"episodes": episodes, "config": rollout, "mesh": mesh}
    play = jax.jit(lambda policies, keys: score_policies(task, apply, policies, keys, **how))
    return Player(play, episodes, chunk, mesh)
