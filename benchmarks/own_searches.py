"""Archives as others make them, and a maze: what `own_archives.py` imports."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import ldpol
from ldpol.archive import from_vectors, to_vectors
from ldpol.rollout import evaluate
from ldpol.types import Array, Key, Params, mean_score

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from qdax_repertoire import search as example_search


class Search(NamedTuple):
    """What QDax's users hold after a search, and the key of the one reset that they scored from."""

    repertoire: Any
    env: Any
    policy: Any
    reset_key: Key


def qdax_search(name: str, *, iterations: int, length: int, cells: int, seed: int) -> Search:
    """Search with QDax's MAP-Elites as its tutorials do, 128 policies an iteration."""
    return Search(*example_search(name, iterations, 128, cells, length, seed))


def qdax_scorer(name: str, length: int, seed: int) -> Callable[[Params, Key], Any]:
    """Return QDax's own compiled scorer of that search: fitnesses and descriptors of N policies."""
    from qdax.tasks.brax.v2.env_creators import create_default_brax_task_components

    _, _, scoring = create_default_brax_task_components(name, jax.random.key(seed), episode_length=length)
    return jax.jit(lambda policies, key: scoring(policies, key)[:2])


def flat_archive(task: ldpol.Task, network: ldpol.MLP, *, cells: int, batch: int, batches: int, seed: int) -> Any:
    """Search with pyribs: MAP-Elites with isotropic and line mutations of flat policies in torch's order."""
    from ribs.archives import GridArchive

    ranges = list(zip(task.measure_low, task.measure_high, strict=True))
    archive = GridArchive(
        solution_dim=network.size, dims=(cells,) * task.measures, ranges=ranges, dtype=np.float32, seed=seed
    )
    score = jax.jit(lambda p, keys: mean_score(evaluate(task, network.apply, p, keys)))
    first, key = jax.random.split(jax.random.key(seed))
    random = np.random.default_rng(seed)
    solutions = to_vectors(jax.vmap(network.init)(jax.random.split(first, batch)), network, "torch")
    for i in range(batches):
        if i:
            one, other = (archive.sample_elites(batch)["solution"] for _ in range(2))
            noise, step = random.normal(size=one.shape), random.normal(size=(batch, 1))
            solutions = (one + 0.005 * noise + 0.05 * step * (other - one)).astype(np.float32)
        policies = from_vectors(solutions, network, "torch")
        found = score(policies, jax.random.split(jax.random.fold_in(key, i), batch))
        archive.add(np.asarray(solutions), np.asarray(found.fitness), np.asarray(found.measures))
    return archive


@struct.dataclass
class Place:
    """Where the point of the maze is."""

    obs: Array
    reward: Array
    done: Array
    place: Array
    steps: Array


class Maze:
    """A square with two walls, each open at one end; a point starts at the bottom and is paid for little effort."""

    action_size, episode_length = 2, 50
    walls = ((-0.3, -1.0, 0.5), (0.3, -0.5, 1.0))
    """Height, left end and right end."""

    def reset(self, key: Key) -> Place:
        """Start near the bottom left."""
        place = jnp.array([-0.7, -0.7]) + 0.02 * jax.random.normal(key, (2,))
        return Place(self._see(place, jnp.zeros(())), jnp.zeros(()), jnp.zeros(()), place, jnp.zeros(()))

    def _see(self, place: Array, steps: Array) -> Array:
        return jnp.append(place, steps / self.episode_length)

    def step(self, state: Place, action: Array) -> Place:
        """Move by a tenth of the action; a wall stops what would cross it."""
        x, y = jnp.clip(state.place + 0.1 * action, -1.0, 1.0)
        for height, left, right in self.walls:
            crosses = (state.place[1] - height) * (y - height) <= 0
            y = jnp.where(crosses & (left <= x) & (x <= right), state.place[1], y)
        place, steps = jnp.stack([x, y]), state.steps + 1
        return Place(self._see(place, steps), 0.2 - 0.1 * (action**2).sum(), jnp.zeros(()), place, steps)


def make_maze() -> ldpol.Task:
    """Return the maze with final positions as measures."""
    return ldpol.task_from_env(
        Maze(),
        name="maze",
        measure=lambda state: state.place,
        measure_names=("final x", "final y"),
        low=(-1.0, -1.0),
        high=(1.0, 1.0),
        reduce="last",
    )
