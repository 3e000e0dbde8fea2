"""Your own environment in JAX, with final positions as measures: search, distil, ask for a place. Two minutes.

python examples/own_environment.py
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import ldpol
from ldpol.distillation.config import AutoencoderTraining, CollectConfig, LanguageConfig, OptimiserConfig
from ldpol.search.config import MapElitesConfig


@struct.dataclass
class State:
    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    place: jax.Array
    steps: jax.Array


class Field:
    """A point on a field that pushes it aside; whoever gets far with little effort is fit."""

    action_size, episode_length = 2, 25

    def reset(self, key):
        place = 0.02 * jax.random.normal(key, (2,))
        return State(self.see(place, 0.0), jnp.zeros(()), jnp.zeros(()), place, jnp.zeros(()))

    def see(self, place, steps):
        return jnp.append(place, steps / self.episode_length)

    def step(self, state, action):
        wind = 0.02 * jnp.stack([jnp.sin(3 * state.place[1]), jnp.cos(3 * state.place[0])])
        place = jnp.clip(state.place + 0.05 * action + wind, -1.0, 1.0)
        steps = state.steps + 1
        return State(self.see(place, steps), -0.1 * (action**2).sum(), jnp.zeros(()), place, steps)


def make_task() -> ldpol.Task:
    return ldpol.task_from_env(
        Field(),
        name="field",
        measure=lambda state: state.place,
        measure_names=("final x", "final y"),
        low=(-1.0, -1.0),
        high=(1.0, 1.0),
        reduce="last",
        fitness_offset=5.0,
    )


def small(steps: int) -> ldpol.DistillConfig:
    """Settings for a small archive: seconds instead of minutes."""
    default = ldpol.DistillConfig()
    return replace(
        default,
        collect=CollectConfig(repeats=1, episodes=2, states=16),
        autoencoder=AutoencoderTraining(optimiser=OptimiserConfig(steps=steps), dagger_rounds=1),
        denoiser=replace(default.denoiser, optimiser=OptimiserConfig(steps=steps)),
        language=LanguageConfig(captions=0),
        episodes=2,
        chunk=64,
    )


def ask(generator, task, targets, key) -> float:
    """Sample a policy per target `[N, M]`, roll it out, and return the median of its error in cells."""
    keys = jax.random.split(key, len(targets))
    policies = jax.jit(jax.vmap(generator.sample))(keys, targets)
    player = ldpol.make_player(task, generator.apply, episodes=2, chunk=64)
    reached = player(policies, key).score.measures
    apart = np.linalg.norm((generator.grid.scaled(reached) - generator.grid.scaled(np.asarray(targets))), axis=-1)
    return float(np.median(apart)) / float(np.mean(generator.grid.sides))


def main(steps: int = 2000, iterations: int = 60) -> dict:
    task, keys = make_task(), jax.random.split(jax.random.key(0), 5)
    search = ldpol.SearchConfig("map_elites", 12, iterations, (16,), map_elites=MapElitesConfig(batch=128))
    archive = ldpol.search_archive(task, search, key=keys[0])
    archive = ldpol.reevaluate(archive, task, key=keys[1], episodes=2)
    generator = ldpol.distill(archive, task, small(steps), key=keys[2])
    rows = np.asarray(jax.random.choice(keys[3], len(archive), (min(50, len(archive)),), replace=False))
    error = ask(generator, task, archive.measures[rows], keys[4])
    print(f"{len(archive)} elites; policies generated for {len(rows)} of their places end {error:.2f} cells away")
    return {"elites": len(archive), "error_cells": error}


if __name__ == "__main__":
    main()
