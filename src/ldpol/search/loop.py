"""The search loop: any QDax emitter asks, rollouts score, the repertoire and the emitter are told.

One iteration is one pure function, compiled as one program; which emitter it is (`map_elites`, `ppga`) changes nothing
else: not the checkpoint, not the metrics, not the stage that runs it.
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
from qdax.core.emitters.emitter import Emitter
from qdax.core.map_elites import MAPElites

from ldpol.archive import Tessellation, grid_metrics
from ldpol.errors import UserError
from ldpol.networks import MLP
from ldpol.rollout import RolloutConfig, rollout_batch
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params, PyTree, Score, mean_score


def cells_of(repertoire: MapElitesRepertoire, measures: Array) -> Array:
    """Return the cells `[N]` of a repertoire that measures `[N, M]` fall into."""
    with jax.numpy_rank_promotion("allow"):  # QDax does
        return get_cells_indices(measures, repertoire.centroids)


@struct.dataclass
class SearchState:
    """Everything a search carries between iterations; saved and loaded, it goes on as if nothing had happened.

    Attributes:
      repertoire: the QDax repertoire, leading axis C on every leaf.
      emitter: what the emitter remembers.
      iteration: `[]` iterations done.
      evaluations: `[]` episodes played to score policies.
      env_steps: `[]` environment steps lived, those an emitter trains with included.
    """

    repertoire: MapElitesRepertoire
    emitter: PyTree
    iteration: Array
    evaluations: Array
    env_steps: Array


class Search(NamedTuple):
    """A search as a pair of pure functions; neither is jitted.

    Attributes:
      init: `key -> state`, an empty repertoire; nothing has been scored yet.
      step: `(state, key) -> (state, metrics)`.
    """

    init: Callable[[Key], SearchState]
    step: Callable[[SearchState, Key], tuple[SearchState, dict[str, Array]]]


class Refined(NamedTuple):
    """What remains of a batch after a second look at it.

    Attributes:
      policies: leading axis V.
      score: `[V]`; fitness -inf keeps a policy out.
      episodes: episodes played for it.
      env_steps: `[]` steps lived in them.
    """

    policies: Params
    score: Score
    episodes: int
    env_steps: Array


Refine = Callable[[MapElitesRepertoire, Params, Score, Key], Refined]


def make_search(
    task: Task,
    shape: MLP,
    grid: Tessellation,
    emitter: Emitter,
    *,
    episodes: int = 1,
    trained: Callable[[PyTree], Array] = lambda state: jnp.zeros(()),
    refine: Refine | None = None,
    rollouts: RolloutConfig = RolloutConfig(),
    mesh: Mesh | None = None,
) -> Search:
    """Build the loop around an emitter.

    Args:
      task: what policies are scored on.
      shape: architecture of the policies.
      grid: the measure grid.
      emitter: proposes `emitter.batch_size` policies an iteration, also for an empty repertoire.
      episodes: episodes per policy; it enters with their mean.
      trained: environment steps the emitter has lived by itself, read off its state.
      refine: takes the scores `[B, E]` of a batch and looks again, before anything enters; None takes their means.
      rollouts: lanes and block length.
      mesh: devices that share the rollouts.

    Raises:
      ValueError: if the batch does not fit the devices or there are no episodes.
    """
    batch, devices = emitter.batch_size, 1 if mesh is None else mesh.size
    if batch < 1 or batch % devices:
        raise UserError(f"{batch} policies an iteration must be a positive multiple of the {devices} devices")
    if episodes < 1:
        raise UserError(f"a policy must play at least 1 episode, found {episodes}")
    algorithm = MAPElites(None, emitter, lambda repertoire: {})
    play = partial(rollout_batch, task, shape.apply, episodes=episodes, config=rollouts, mesh=mesh)

    def init(key: Key) -> SearchState:
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shape.abstract())
        repertoire = MapElitesRepertoire.init_default(blank, grid.centroids())
        state = emitter.init(key, repertoire, blank, jnp.zeros(0), jnp.zeros((0, task.measures)), {})
        none = jnp.zeros((), jnp.int32)
        return SearchState(repertoire, state, none, none, jnp.zeros(()))

    def step(state: SearchState, key: Key) -> tuple[SearchState, dict[str, Array]]:
        ask_key, play_key, refine_key = jax.random.split(key, 3)
        policies, info = algorithm.ask(state.repertoire, state.emitter, ask_key)
        scores = play(policies, jax.random.split(play_key, batch))
        played, steps = batch * episodes, scores.length.sum()
        if refine is None:
            score = mean_score(scores)
        else:
            policies, score, more, further = refine(state.repertoire, policies, scores, refine_key)
            played, steps = played + more, steps + further
        with jax.numpy_rank_promotion("allow"):  # QDax does
            repertoire, emitter_state, _ = algorithm.tell(
                policies, score.fitness, score.measures, state.repertoire, state.emitter, extra_info=info
            )
        steps += trained(emitter_state) - trained(state.emitter)
        state = SearchState(
            repertoire, emitter_state, state.iteration + 1, state.evaluations + played, state.env_steps + steps
        )
        return state, _metrics(state, task.fitness_offset)

    return Search(init, step)


def in_turn(first: Search, second: Search, iterations: int) -> Search:
    """Let one search fill the repertoire for `iterations`, and another go on from there.

    Both live in one program, so that a switch costs no compilation and a checkpoint is of one kind.

    Raises:
      ValueError: if the first has no iterations.
    """
    if iterations < 1:
        raise UserError(f"the first of two searches needs at least 1 iteration, found {iterations}")

    def init(key: Key) -> SearchState:
        one, other = first.init(key), second.init(key)
        return dataclasses.replace(one, emitter=(one.emitter, other.emitter))

    def turn(search: Search, place: int) -> Callable[[SearchState, Key], tuple[SearchState, dict[str, Array]]]:
        def step(state: SearchState, key: Key) -> tuple[SearchState, dict[str, Array]]:
            emitters = state.emitter
            state, metrics = search.step(dataclasses.replace(state, emitter=emitters[place]), key)
            emitters = tuple(state.emitter if i == place else old for i, old in enumerate(emitters))
            return dataclasses.replace(state, emitter=emitters), metrics

        return step

    def step(state: SearchState, key: Key) -> tuple[SearchState, dict[str, Array]]:
        return jax.lax.cond(state.iteration < iterations, turn(first, 0), turn(second, 1), state, key)

    return Search(init, step)


def _metrics(state: SearchState, offset: float) -> dict[str, Array]:
    best = jnp.where(jnp.isfinite(state.repertoire.fitnesses[:, 0]), state.repertoire.fitnesses[:, 0], -jnp.inf)
    counts = {"iteration": state.iteration, "evaluations": state.evaluations, "env_steps": state.env_steps}
    return counts | grid_metrics(best, offset)
