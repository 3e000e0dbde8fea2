"""What the autoencoder learns from: policies, what they did where, and how often each is drawn."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from ldpol import storage
from ldpol.archive import Archive
from ldpol.distillation.config import CollectConfig, WeightsConfig
from ldpol.hooks import Hooks
from ldpol.keeping import KIND
from ldpol.measures import parts
from ldpol.rollout import Apply, RolloutConfig, copied_to, keep_states, over_chunks, rollout_batch
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params, PyTree


class Visit(Protocol):
    """Rolls policies out and returns the observations `[N, S, O]` that their episodes visited."""

    def __call__(self, policies: Params, key: Key, title: str, shared: PyTree = None) -> np.ndarray:
        """Visit; `shared` is what all policies have in common, see `make_visit`."""
        ...


@struct.dataclass
class Dataset:
    """What N policies did, for action matching.

    Attributes:
      policies: parameters, leading axis N.
      measures: `[N, M]` mean over several episodes, scaled to [0, 1].
      weights: `[N]` how often each policy is drawn, relative to the others; see `elite_weights`.
      states: `[N, S, O]` observations; only the first `filled` of S are used.
      actions: `[N, S, A]` the teacher's actions there.
      filled: `[]` int.
    """

    policies: Params
    measures: Array
    weights: Array
    states: Array
    actions: Array
    filled: Array


def add_states(data: Dataset, states: np.ndarray, actions: np.ndarray) -> Dataset:
    """Fill the next S' of the places for states, on the host.

    Args:
      data: with room for them.
      states: `[N, S', O]` observations.
      actions: `[N, S', A]` what the teachers do there.
    """
    filled = int(data.filled)
    places = slice(filled, filled + states.shape[1])
    seen, acted = np.array(data.states), np.array(data.actions)
    seen[:, places], acted[:, places] = states, actions
    return data.replace(states=seen, actions=acted, filled=np.asarray(places.stop, np.int32))  # type: ignore[attr-defined]


def normaliser(data: Dataset) -> tuple[Array, Array]:
    """Return mean and standard deviation `[O]` of the filled states, the latter at least 0.01."""
    used = (jnp.arange(data.states.shape[1]) < data.filled)[None, :, None]
    count = data.states.shape[0] * data.filled
    centre = (data.states * used).sum((0, 1)) / count
    spread = jnp.sqrt((((data.states - centre[None, None]) ** 2) * used).sum((0, 1)) / count)
    return centre, jnp.maximum(spread, 1e-2)


def elite_weights(
    fitness: np.ndarray, measures: np.ndarray, *, quality: float, balance: float, radius: float
) -> np.ndarray:
    """Say how often training draws each elite: the better of those that behave alike, and rare behaviours, more often.

    Within the noise of an evaluation the elites of a neighbourhood behave alike, yet differ in fitness; an elite's
    weight is exp(quality * z) / density^balance, z its fitness standardised among its neighbours. Where elites are
    many, a model of all of them alike would draw what is asked for at the fringe towards them; balance 1 learns every
    place of the measure space equally well.

    Args:
      fitness: `[N]` re-evaluated.
      measures: `[N, M]` scaled to [0, 1].
      quality: preference for fitness; 0 for none.
      balance: correction for the density of elites; 0 for none, 1 for all of it.
      radius: standard deviation of the Gaussian that makes neighbours, in scaled measures.

    Returns:
      `[N]` float32 weights with mean 1; z is cut off at -2 and 2.
    """
    centre, spread, density = np.zeros((3, len(fitness)))
    for rows in parts(len(fitness)):
        near = np.exp(-0.5 * ((measures[rows, None] - measures[None]) ** 2).sum(-1) / radius**2)
        density[rows] = near.sum(1)
        near /= near.sum(1, keepdims=True)
        centre[rows] = near @ fitness
        spread[rows] = np.sqrt(np.maximum((near * (fitness - centre[rows, None]) ** 2).sum(1), 0.0))
    z = np.clip((fitness - centre) / np.maximum(spread, 1e-6 * np.abs(fitness).max() + 1e-12), -2.0, 2.0)
    weights = np.exp(quality * z) / density**balance
    return (weights / weights.mean()).astype(np.float32)


def make_visit(
    task: Task,
    apply: Callable[..., Array],
    config: CollectConfig,
    *,
    rollout: RolloutConfig,
    chunk: int,
    mesh: Mesh,
    hooks: Hooks,
) -> Visit:
    """Return the function that rolls policies out and keeps some observations of every episode.

    One program serves elites and decoded policies alike: compiling the physics takes longer than running it.
    Where it is called with numbers that all policies share, `apply` is `(shared, policy, observation) -> action`.
    """
    how = {"episodes": config.episodes, "config": rollout, "mesh": mesh, "recorder": keep_states(task, config.states)}

    @jax.jit
    def play(shared: PyTree, policies: Params, keys: Key) -> Any:
        one = apply if shared is None else partial(apply, shared)
        return rollout_batch(task, one, policies, keys, **how)

    def visit(policies: Params, key: Key, title: str, shared: PyTree = None) -> np.ndarray:
        count, shared = jax.tree.leaves(policies)[0].shape[0], jax.device_put(shared, copied_to(mesh))
        with hooks.progress(title, count) as done:
            _, (states, _) = over_chunks(partial(play, shared), policies, key, size=chunk, mesh=mesh, done=done)
        return states.reshape(count, -1, task.observation_size)

    return visit


def act(apply: Apply, policies: Params, states: np.ndarray) -> np.ndarray:
    """Return the actions `[N, S, A]` of N policies at observations `[N, S, O]`."""
    return np.asarray(jax.jit(jax.vmap(apply))(policies, states))


def collect(archive: Archive, visit: Visit, config: CollectConfig, key: Key) -> dict[str, np.ndarray]:
    """Roll the elites out for the states they visit, add noise, and note what the elites do there.

    Returns:
      `states` `[N, S, O]` and `actions` `[N, S, A]`.
    """
    noise_key, *keys = jax.random.split(key, config.repeats + 1)
    titles = [f"rollouts of the archive ({repeat + 1}/{config.repeats})" for repeat in range(config.repeats)]
    seen = np.concatenate([visit(archive.policies, *one) for one in zip(keys, titles, strict=True)], 1)
    seen = seen + config.noise * np.asarray(jax.random.normal(noise_key, seen.shape))
    return {"states": seen, "actions": act(archive.network.apply, archive.policies, seen)}


def make_dataset(archive: Archive, weights: WeightsConfig, first: PyTree, room: int) -> Dataset:
    """Put the dataset together, on the host.

    Args:
      archive: N elites, re-evaluated: its measures are the labels.
      weights: how often each is drawn.
      first: what `collect` returned.
      room: states per elite that DAgger may add.
    """
    measures = archive.grid.scaled(np.asarray(archive.measures)).astype(np.float32)
    drawn = elite_weights(
        np.asarray(archive.fitness), measures, quality=weights.quality, balance=weights.balance, radius=weights.radius
    )
    pad = partial(np.pad, pad_width=((0, 0), (0, room), (0, 0)))
    states, actions = (pad(np.asarray(first[name], np.float32)) for name in ("states", "actions"))
    filled = np.asarray(first["states"].shape[1], np.int32)
    host: tuple[Any, ...] = (measures, drawn, states, actions, filled)
    return Dataset(archive.policies, *host)


def kept_states(folder: Path) -> np.ndarray:
    """Return the observations `[B, O]` that a training with a `Keeper` of this folder learnt from, elite by elite."""
    paths = [folder / "data", *sorted(folder.glob("dagger-*"))]
    states = np.concatenate([storage.load(path, kind=KIND)[0]["states"] for path in paths], 1)
    return states.reshape(-1, states.shape[-1]).astype(np.float32)
