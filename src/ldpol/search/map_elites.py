"""MAP-Elites with QDax: iso+line variation.

A score is a noisy draw and a cell keeps the luckiest. Two things can be done about it: search under a deterministic
reset (the default), or let candidates that would enter a cell play again and enter with the mean of all their episodes
(`verify`). At equal environment steps (`benchmarks/noise.py`, 3 seeds) archives played again have the same cells and QD
score with and without a deterministic reset; verification makes steadier policies that stay nearer to their cells, but
a fifth fewer of them.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire
from qdax.core.emitters.emitter import Emitter
from qdax.core.emitters.standard_emitters import MixingEmitter

from ldpol.archive import Tessellation
from ldpol.errors import UserError
from ldpol.networks import MLP
from ldpol.rollout import RolloutConfig, rollout_batch
from ldpol.search.config import MapElitesConfig
from ldpol.search.loop import Refined, Search, cells_of, make_search
from ldpol.tasks import Task
from ldpol.types import Key, Params, Score, mean_score


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


class IsoLineEmitter(Emitter):
    """Varies elites by `iso_line`, with QDax's `MixingEmitter`; from an empty repertoire it draws random policies."""

    def __init__(self, config: MapElitesConfig, shape: MLP) -> None:
        variation = jax.vmap(partial(iso_line, config))
        self._config, self._shape = config, shape
        self._mixing = MixingEmitter(
            mutation_fn=lambda x, key: (x, key),
            variation_fn=lambda one, other, key: variation(one, other, jax.random.split(key, config.batch)),
            variation_percentage=1.0,
            batch_size=config.batch,
        )

    @property
    def batch_size(self) -> int:
        """Offspring an iteration."""
        return self._config.batch

    def emit(self, repertoire: Any, emitter_state: Any, key: Key) -> tuple[Params, dict[str, Any]]:
        """Return offspring, and nothing to be remembered."""
        fresh = lambda: jax.vmap(self._shape.init)(jax.random.split(key, self.batch_size))  # noqa: E731
        vary = lambda: self._mixing.emit(repertoire, None, key)[0]  # noqa: E731
        return jax.lax.cond((repertoire.fitnesses > -jnp.inf).any(), vary, fresh), {}


def make_map_elites(
    task: Task,
    shape: MLP,
    grid: Tessellation,
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
            raise UserError(f"map_elites.{name} = {getattr(config, name)} must be a multiple of the {devices} devices")
    replay = partial(
        rollout_batch, verify_task or task, shape.apply, episodes=config.verify_episodes, config=rollouts, mesh=mesh
    )

    def verify(repertoire: MapElitesRepertoire, policies: Params, scores: Score, key: Key) -> Refined:
        """Keep the most promising candidates and average their further episodes in."""
        score = mean_score(scores)
        cells = cells_of(repertoire, score.measures)
        gain = score.fitness - jnp.maximum(repertoire.fitnesses[cells, 0], -1e6)
        gain = jnp.where(gain > 0, gain, -jnp.inf)
        gain, chosen = jax.lax.top_k(gain, config.verify)
        policies, scores = jax.tree.map(lambda leaf: leaf[chosen], (policies, scores))
        again = replay(policies, jax.random.split(key, config.verify))
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), scores, again)
        mean = mean_score(both)
        fitness = jnp.where(jnp.isfinite(gain), mean.fitness, -jnp.inf)
        score = dataclasses.replace(mean, fitness=fitness)
        return Refined(policies, score, config.verify * config.verify_episodes, again.length.sum())

    return make_search(
        task,
        shape,
        grid,
        IsoLineEmitter(config, shape),
        episodes=config.episodes,
        refine=verify if config.verify else None,
        rollouts=rollouts,
        mesh=mesh,
    )
