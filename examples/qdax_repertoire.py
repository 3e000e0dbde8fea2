"""A repertoire of QDax, of relu policies on CVT cells: import, check, distil, ask. Ten minutes on two cores.

python examples/qdax_repertoire.py
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from own_environment import ask, small
from qdax.core.containers.mapelites_repertoire import compute_cvt_centroids
from qdax.core.emitters.mutation_operators import isoline_variation
from qdax.core.emitters.standard_emitters import MixingEmitter
from qdax.core.map_elites import MAPElites
from qdax.tasks.brax.v2.env_creators import create_default_brax_task_components

import ldpol


def search(name: str, iterations: int, batch: int, cells: int, length: int, seed: int = 7):
    """MAP-Elites as in QDax's tutorials; returns repertoire, environment, policy network and the key of its reset."""
    key = jax.random.key(seed)
    env, policy, scoring = create_default_brax_task_components(name, key, episode_length=length)
    starts, places, key = jax.random.split(key, 3)
    batch_of = jax.vmap(policy.init)(jax.random.split(starts, batch), jnp.zeros((batch, env.observation_size)))
    centroids = compute_cvt_centroids(env.descriptor_length, 5000, cells, 0.0, 1.0, places)
    vary = functools.partial(isoline_variation, iso_sigma=0.005, line_sigma=0.05)
    search = MAPElites(
        scoring_function=lambda genotypes, key: (*scoring(genotypes, key)[:2], {}),
        emitter=MixingEmitter(lambda x, y: (x, y), vary, 1.0, batch),
        metrics_function=lambda repertoire: {},
    )
    repertoire, state, _ = jax.jit(search.init)(batch_of, centroids, key)
    update = jax.jit(search.update)
    for i in range(iterations):
        repertoire, state, _ = update(repertoire, state, jax.random.fold_in(key, i))
    return repertoire, env, policy, jax.random.split(jax.random.key(seed))[1]


def main(
    name: str = "walker2d_uni", iterations: int = 40, length: int = 250, steps: int = 6000, cells: int = 1024
) -> dict:
    repertoire, env, policy, reset_key = search(name, iterations, 128, cells, length)

    network = ldpol.network(policy, observation_size=env.observation_size)  # relu inside, tanh outside
    task = ldpol.task_from_qdax(env, reset_key=reset_key)
    archive = ldpol.from_qdax(repertoire, network, task)
    print(f"{len(archive)} elites of {network}")
    print(ldpol.replay(archive, task, jax.random.key(1)))

    archive = ldpol.reevaluate(archive, task, key=jax.random.key(2), episodes=1)
    generator = ldpol.distill(archive, task, small(steps), key=jax.random.key(3))
    rows = np.random.default_rng(0).permutation(len(archive))[:50]
    error = ask(generator, task, archive.measures[rows], jax.random.key(4))
    ratio = archive.nbytes / generator.nbytes
    print(f"policies generated for {len(rows)} elites' measures miss by {error:.2f} cells; {ratio:.0f} times smaller")
    return {"elites": len(archive), "error_cells": error, "compression": ratio}


if __name__ == "__main__":
    main()
