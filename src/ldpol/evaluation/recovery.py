"""Many searches for policies that work on damaged robots, side by side: what suite `damage` is made of."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ldpol.archive import Archive
from ldpol.evaluation.context import rows_of
from ldpol.generator import PolicyGenerator
from ldpol.keys import key_for
from ldpol.model.answering import row_content
from ldpol.planning.adaptation import (
    AdaptConfig,
    Repertoire,
    Trials,
    best_row,
    next_row,
    no_trials,
    predict,
    repertoire_of,
)
from ldpol.rollout import Apply, RolloutConfig, over_chunks, rollout_batch
from ldpol.tasks import Task, weaken
from ldpol.types import Array, Key, Params, PyTree

Play = Callable[[Params, np.ndarray, Key, np.ndarray], np.ndarray]
"""`(policies [N], strengths [N, A], key, numbers [N]) -> fitness [N]`, an episode each; rows of one number share it."""


class Pool(NamedTuple):
    """Policies to try, on the host.

    Arrays that lie on all devices, as those of a generator may, would have every device of a CPU search, and in batched
    triangular solves they wait for each other's threads, for ever where those are large.

    Attributes:
      policies: R of them, NumPy arrays.
      repertoire: what is known of them, NumPy arrays.
      bytes: that hold them.
      random: tried at random instead.
    """

    policies: Params
    repertoire: Repertoire
    bytes: int
    random: bool = False


def pool_of_archive(archive: Archive, rows: np.ndarray | None = None, *, size: int) -> Pool:
    """Return elites, all or the given rows, as a pool of `size` bytes; their features are their traits.

    Where they have no traits, their measures.
    """
    places = np.asarray(archive.grid.scaled(archive.measures))
    values = places if archive.traits is None or not archive.traits.shape[-1] else np.asarray(archive.traits)
    low, high = values.min(0), values.max(0)
    features, fitness = (values - low) / np.maximum(high - low, 1e-6), np.asarray(archive.fitness)
    rows = np.arange(len(archive)) if rows is None else rows
    return Pool(rows_of(archive.policies, rows), Repertoire(features[rows], fitness[rows]), size)


def pool_of_bank(generator: PolicyGenerator, *, chunk: int) -> Pool:
    """Return the verified draws of a generator as a pool; they are decoded `chunk` at a time."""
    bank = generator.bank
    assert bank is not None
    decode = jax.jit(jax.vmap(lambda generator, row: generator.decode(*row_content(generator.bank, row)), (None, 0)))
    parts = []
    for start in range(0, len(bank), chunk):
        rows = jnp.minimum(jnp.arange(start, start + chunk), len(bank) - 1)
        parts.append(jax.device_get(decode(generator, rows)))
    policies = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(bank)], *parts)
    return Pool(policies, jax.device_get(repertoire_of(bank)), generator.nbytes)


def make_play(task: Task, apply: Apply, *, rollout: RolloutConfig, mesh: Mesh, chunk: int) -> Play:
    """Return what plays episodes on robots with weak actuators: one program, whichever are weak.

    Args:
      task: with the robot's actuators sound.
      apply: `(params, observation [O]) -> action [A]`.
      rollout: lanes of a device.
      mesh: devices.
      chunk: at most so many episodes per call of the program.
    """

    def act(lane: PyTree, observation: Array) -> Array:
        return weaken(lane["strengths"], apply(lane["policy"], observation))

    @jax.jit
    def program(lanes: PyTree, keys: Key) -> Array:
        return rollout_batch(task, act, lanes, keys, config=rollout, mesh=mesh).fitness[:, 0]

    size = -(-chunk // mesh.size) * mesh.size

    def play(policies: Params, strengths: np.ndarray, key: Key, numbers: np.ndarray) -> np.ndarray:
        lanes = {"policy": policies, "strengths": strengths}
        return over_chunks(program, lanes, key, size=size, mesh=mesh, numbers=np.asarray(numbers, np.int32))

    return play


def search(
    pools: Mapping[str, Pool],
    play: Play,
    strengths: np.ndarray,
    key: Key,
    *,
    numbers: np.ndarray,
    trials: int,
    repeats: int,
    config: AdaptConfig,
    done: Callable[[int], Any] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Search every pool under D damages, S times each; a trial is one episode.

    Args:
      pools: by name.
      play: the damaged robots.
      strengths: `[D, A]` of their actuators.
      key: decides the episodes.
      numbers: `[D]` of the damages; searches of one damage and repeat meet the same episodes, whatever the pool.
      trials: T.
      repeats: S.
      config: of the searches.
      done: called after each trial.

    Returns:
      By pool, which policy was the best found after each trial, `[D, S, T]`: that with the highest expectation, or the
      highest outcome of one trial where trials are random.
    """
    runs = len(strengths) * repeats
    weak = np.tile(np.repeat(strengths, repeats, 0), (len(pools), 1))
    number = np.tile((numbers[:, None] * repeats + np.arange(repeats)).reshape(-1), len(pools))
    random = np.random.default_rng(np.asarray(jax.random.key_data(key_for(key, "random trials"))))
    blank: Trials = jax.tree.map(lambda leaf: jnp.stack([leaf] * runs), no_trials(trials))
    history = {name: blank for name in pools}
    best: dict[str, list[np.ndarray]] = {name: [] for name in pools}
    for trial in range(trials):
        rows = {}
        for name, pool in pools.items():
            chosen = random.integers(0, len(pool.repertoire.prior), runs)
            rows[name] = chosen if pool.random else np.asarray(_next_rows(pool.repertoire, history[name], config))
        policies = [rows_of(pool.policies, rows[name]) for name, pool in pools.items()]
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *policies)
        fitness = play(together, weak, key_for(key, f"trial {trial}"), number).reshape(len(pools), runs)
        for (name, pool), achieved in zip(pools.items(), fitness, strict=True):
            history[name] = jax.vmap(Trials.add)(history[name], jnp.asarray(rows[name]), jnp.asarray(achieved))
            best[name].append(np.asarray(_best_rows(pool.repertoire, history[name], config, pool.random)))
        done(1)
    return {name: np.stack(one, 1).reshape(-1, repeats, trials) for name, one in best.items()}


def judge(pool: Pool, found: np.ndarray, play: Play, strengths: np.ndarray, key: Key, *, episodes: int) -> np.ndarray:
    """Return what the policies that searches found, rows `[D, S, T]` of a pool, are worth, `[D, S, T]`.

    Means over episodes that are the same for all policies; a policy found several times is played once.
    """
    damage = np.broadcast_to(np.arange(len(found))[:, None, None], found.shape)
    pairs, place = np.unique(np.stack([damage.reshape(-1), found.reshape(-1)]), axis=1, return_inverse=True)
    lanes = np.repeat(pairs, episodes, 1)
    numbers = np.tile(np.arange(episodes), pairs.shape[1])
    fitness = play(rows_of(pool.policies, lanes[1]), strengths[lanes[0]], key, numbers)
    return fitness.reshape(-1, episodes).mean(1)[place.reshape(-1)].reshape(found.shape)


@partial(jax.jit, static_argnames="config")
def _next_rows(repertoire: Repertoire, trials: Trials, config: AdaptConfig) -> Array:
    return jax.vmap(lambda one: next_row(predict(repertoire, one, config), config))(trials)


@partial(jax.jit, static_argnames=("config", "by_outcome"))
def _best_rows(repertoire: Repertoire, trials: Trials, config: AdaptConfig, by_outcome: bool) -> Array:
    def best(one: Trials) -> Array:
        if by_outcome:
            return one.rows[jnp.argmax(jnp.where(one.done, one.achieved, -jnp.inf))]
        return best_row(predict(repertoire, one, config), one)

    return jax.vmap(best)(trials)
