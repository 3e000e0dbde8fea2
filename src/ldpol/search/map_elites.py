"""MAP-Elites with QDax: iso+line variation, one jitted program an iteration.

A score is a noisy draw and a cell keeps the luckiest. Two things can be done about it: search under a deterministic
reset (the default), or let candidates that would enter a cell play again and enter with the mean of all their episodes
(`verify`). At equal environment steps (`benchmarks/noise.py`, 3 seeds) archives played again have the same cells and QD
score with and without a deterministic reset; verification makes steadier policies that stay nearer to their cells, but
a fifth fewer of them.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire, get_cells_indices
from qdax.core.emitters.standard_emitters import MixingEmitter
from qdax.core.map_elites import MAPElites

from ldpol.archive import Grid, grid_metrics
from ldpol.policy import PolicyShape
from ldpol.rollout import RolloutConfig, evaluate
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params, mean_score


class MapElitesConfig(NamedTuple):
    """Settings of the search.

    Attributes:
      batch: offspring an iteration, B; the first iteration's are random policies.
      iso_low, iso_high: the isotropic mutation's standard deviation is log-uniform between them.
      line: standard deviation of the step along the line between two parents, relative to their distance.
      episodes: episodes an offspring plays at first.
      verify: candidates an iteration that play again; 0 switches verification off.
      verify_episodes: further episodes a candidate plays; it enters with the mean over all.
    """

    batch: int = 1024
    iso_low: float = 0.003
    iso_high: float = 0.03
    line: float = 0.05
    episodes: int = 1
    verify: int = 0
    verify_episodes: int = 0


@struct.dataclass
class SearchState:
    """Everything a search carries between iterations.

    Attributes:
      repertoire: the QDax repertoire, leading axis C on every leaf.
      iteration: `[]` iterations done.
      evaluations: `[]` episodes played.
      env_steps: `[]` environment steps lived.
    """

    repertoire: MapElitesRepertoire
    iteration: Array
    evaluations: Array
    env_steps: Array


class Search(NamedTuple):
    """A search as a pair of pure functions; neither is jitted.

    Attributes:
      init: `() -> state`, an empty repertoire; nothing is played yet.
      step: `(state, key) -> (state, metrics)`.
    """

    init: Callable[[], SearchState]
    step: Callable[[SearchState, Key], tuple[SearchState, dict[str, Array]]]


def iso_line(config: MapElitesConfig, one: Params, other: Params, key: Key) -> Params:
    """Vary one policy towards or away from another (Vassiliades and Mouret 2018, eq. 3).

    Args:
      config: gives the step sizes.
      one: parent that is varied.
      other: parent that gives the direction.
      key: decides the steps.
    """
    iso_key, line_key, size_key = jax.random.split(key, 3)
    log_low, log_high = jnp.log(config.iso_low), jnp.log(config.iso_high)
    iso = jnp.exp(jax.random.uniform(size_key, minval=log_low, maxval=log_high))
    along = config.line * jax.random.normal(line_key)
    leaves, structure = jax.tree.flatten(one)
    keys = jax.tree.unflatten(structure, list(jax.random.split(iso_key, len(leaves))))
    return jax.tree.map(lambda x, y, k: x + iso * jax.random.normal(k, x.shape) + along * (y - x), one, other, keys)


def make_map_elites(
    task: Task,
    shape: PolicyShape,
    grid: Grid,
    config: MapElitesConfig,
    *,
    verify_task: Task | None = None,
    rollouts: RolloutConfig = RolloutConfig(),
    mesh: Mesh | None = None,
) -> Search:
    """Build the search.

    Args:
      task: what offspring play at first (often with a deterministic reset).
      shape: architecture of the policies.
      grid: the measure grid.
      config: settings.
      verify_task: what candidates play again, with the noise they will be judged under; default `task`.
      rollouts: lanes and block length.
      mesh: devices that share the rollouts.

    Raises:
      ValueError: if batch sizes do not fit the devices or settings are out of range.
    """
    devices = 1 if mesh is None else mesh.size
    for name in ("batch", "verify"):
        if getattr(config, name) % devices:
            raise ValueError(f"map_elites.{name} = {getattr(config, name)} must be a multiple of the {devices} devices")
    if config.batch < 1 or config.episodes < 1 or not 0 < config.iso_low <= config.iso_high or config.line < 0:
        raise ValueError(f"batch and episodes must be positive, 0 < iso_low <= iso_high, line >= 0; found {config}")
    if config.verify > config.batch or (config.verify > 0) != (config.verify_episodes > 0):
        raise ValueError(f"verify must be <= batch, and verify_episodes positive exactly when it is; found {config}")

    play = partial(evaluate, task, shape.apply, episodes=config.episodes, config=rollouts, mesh=mesh)
    replay = partial(
        evaluate, verify_task or task, shape.apply, episodes=config.verify_episodes, config=rollouts, mesh=mesh
    )
    variation = jax.vmap(partial(iso_line, config))
    emitter = MixingEmitter(
        mutation_fn=lambda x, key: (x, key),
        variation_fn=lambda one, other, key: variation(one, other, jax.random.split(key, config.batch)),
        variation_percentage=1.0,
        batch_size=config.batch,
    )
    algorithm = MAPElites(None, emitter, lambda repertoire: {})

    def metrics(state: SearchState) -> dict[str, Array]:
        repertoire = state.repertoire
        best = jnp.where(jnp.isfinite(repertoire.fitnesses[:, 0]), repertoire.fitnesses[:, 0], -jnp.inf)
        counts = {"iteration": state.iteration, "evaluations": state.evaluations, "env_steps": state.env_steps}
        return counts | grid_metrics(best, task.fitness_offset)

    def init() -> SearchState:
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape.abstract())
        repertoire = MapElitesRepertoire.init_default(blank, grid.centroids())
        return SearchState(repertoire, jnp.asarray(0), jnp.asarray(0), jnp.asarray(0.0))

    def emit(state: SearchState, key: Key) -> Params:
        # Random policies come from the same program as offspring: it holds the physics, and compiles slowly.
        fresh = lambda: jax.vmap(shape.init)(jax.random.split(key, config.batch))  # noqa: E731
        return jax.lax.cond(state.iteration == 0, fresh, lambda: algorithm.ask(state.repertoire, None, key)[0])

    def verify(repertoire: MapElitesRepertoire, policies: Params, scores, key: Key):
        """Keep the most promising candidates and average their further episodes in."""
        score = mean_score(scores)
        cells = get_cells_indices(score.measures, repertoire.centroids)
        gain = score.fitness - jnp.maximum(repertoire.fitnesses[cells, 0], -1e6)
        gain = jnp.where(gain > 0, gain, -jnp.inf)
        gain, chosen = jax.lax.top_k(gain, config.verify)
        policies, scores = jax.tree.map(lambda leaf: leaf[chosen], (policies, scores))
        again = replay(policies, jax.random.split(key, config.verify))
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), scores, again)
        mean = mean_score(both)
        fitness = jnp.where(jnp.isfinite(gain), mean.fitness, -jnp.inf)
        return policies, dataclasses.replace(mean, fitness=fitness), again.length.sum()

    def step(state: SearchState, key: Key) -> tuple[SearchState, dict[str, Array]]:
        ask_key, play_key, verify_key = jax.random.split(key, 3)
        policies = emit(state, ask_key)
        scores = play(policies, jax.random.split(play_key, config.batch))
        steps = scores.length.sum()
        score = mean_score(scores)
        if config.verify:
            policies, score, more = verify(state.repertoire, policies, scores, verify_key)
            steps += more
        repertoire, _, _ = algorithm.tell(policies, score.fitness, score.measures, state.repertoire, None)
        played = config.batch * config.episodes + config.verify * config.verify_episodes
        state = SearchState(repertoire, state.iteration + 1, state.evaluations + played, state.env_steps + steps)
        return state, metrics(state)

    return Search(init, step)
