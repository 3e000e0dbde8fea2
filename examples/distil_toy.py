"""Distil an archive of your own task in memory: no files, no config. Under a minute on two cores.

python examples/distil_toy.py
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

import ldpol
from ldpol.distillation.config import AutoencoderTraining, CollectConfig, LanguageConfig, OptimiserConfig
from ldpol.evaluation.tables import as_text
from ldpol.search.config import MapElitesConfig
from ldpol.tasks import Task, TaskState


def make_task() -> Task:
    """A point that an action moves; it is paid for height, its measures are how long it is far right, and high up."""

    def state_of(place, step, reward):
        return TaskState({"place": place, "step": step}, jnp.append(place, step), reward, jnp.zeros(()))

    def reset(key):
        return state_of(0.2 * jax.random.uniform(key, (2,), minval=-1.0), jnp.zeros(()), jnp.zeros(()))

    def step(state, action):
        place = jnp.clip(state.physics["place"] + 0.25 * jnp.clip(action, -1.0, 1.0), -1.0, 1.0)
        return state_of(place, state.physics["step"] + 1.0, place[1])

    return Task(
        name="point",
        reset=reset,
        step=step,
        measure=lambda state: (state.physics["place"] > 0.5).astype(jnp.float32),
        observation_size=3,
        action_size=2,
        measure_names=("right", "up"),
        measure_low=(0.0, 0.0),
        measure_high=(1.0, 1.0),
        episode_length=20,
        fitness_offset=20.0,
        dt=1.0,
        backend="none",
        reset_noise=0.2,
    )


def main(steps: int = 200) -> dict:
    """Search, evaluate again, split, distil, evaluate."""
    task, keys = make_task(), jax.random.split(jax.random.key(0), 4)
    search = ldpol.SearchConfig("map_elites", 10, 10, (8,), map_elites=MapElitesConfig(batch=128))
    archive = ldpol.search_archive(task, search, key=keys[0])
    player = ldpol.make_player(task, archive.network.apply, episodes=4, chunk=64)
    archive = ldpol.reevaluate(archive, task, key=keys[1], player=player)
    split = ldpol.split(archive, fraction=0.1, box=((0.4, 0.4), (0.6, 0.6)))
    training = ldpol.DistillConfig()
    config = ldpol.DistillConfig(
        collect=CollectConfig(repeats=1, states=8),
        autoencoder=AutoencoderTraining(optimiser=OptimiserConfig(steps=steps), dagger_rounds=1),
        denoiser=replace(training.denoiser, optimiser=OptimiserConfig(steps=steps)),
        language=LanguageConfig(captions=0),
        chunk=64,
    )
    generator = ldpol.distill(split.trained, task, config, key=keys[2], player=player)
    policy = generator.sample(jax.random.key(1), jnp.array([0.3, 0.8]))
    print("one policy acts:", generator.apply(policy, jnp.zeros(3)))
    metrics = ldpol.evaluate(generator, archive, task, key=keys[3], split=split, player=player)
    print(as_text(ldpol.evaluation.suites.Reconstruction.tables(metrics)[0]))
    return metrics


if __name__ == "__main__":
    main()
