"""The method from end to end on a task of one's own: no folder, no config, one trace of the player."""

import dataclasses
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import traced_once

import ldpol
from ldpol.distillation.config import AutoencoderTraining, CollectConfig, LanguageConfig, OptimiserConfig
from ldpol.search.config import MapElitesConfig
from ldpol.tasks import TaskState

EXAMPLE = Path(__file__).parents[2] / "examples" / "distil_toy.py"


def test_an_archive_of_ones_own_task_is_distilled_and_evaluated(monkeypatch):
    """The example, with a player that refuses to be traced twice for all its evaluations."""
    make = ldpol.make_player
    monkeypatch.setattr(ldpol, "make_player", lambda *arguments, **settings: traced_once(make(*arguments, **settings)))
    metrics = runpy.run_path(str(EXAMPLE))["main"]()
    json.dumps(metrics, allow_nan=False)
    assert metrics["policies"] > 50 and metrics["held_out_box"]["policies"] > 0
    assert metrics["mem"] < 0.3
    assert 0.5 < metrics["reward_ratio"] < 1.5 and 0.5 < metrics["mem"] / metrics["mem_ceiling"] < 1.5


def make_points(measures):
    """A point in a cube; how far it is along each axis, on average, are its measures."""

    def state_of(place, step, reward):
        return TaskState({"place": place, "step": step}, jnp.append(place, step / 20), reward, jnp.zeros(()))

    def reset(key):
        return state_of(0.1 * jax.random.uniform(key, (measures,), minval=-1.0), jnp.zeros(()), jnp.zeros(()))

    def step(state, action):
        action = jnp.clip(action, -1.0, 1.0)
        place = jnp.clip(state.physics["place"] + 0.2 * action, -1.0, 1.0)
        return state_of(place, state.physics["step"] + 1.0, 1.0 - 0.1 * (action**2).mean())

    return ldpol.Task(
        name="points",
        reset=reset,
        step=step,
        measure=lambda state: state.physics["place"],
        observation_size=measures + 1,
        action_size=measures,
        measure_names=tuple(f"axis {i}" for i in range(measures)),
        measure_low=(-1.0,) * measures,
        measure_high=(1.0,) * measures,
        episode_length=20,
        fitness_offset=0.0,
        dt=1.0,
        backend="none",
        reset_noise=0.1,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("measures", "cells"), [(1, 40), (3, 6), (5, 3)])
def test_any_number_of_measures_is_learnt(measures, cells):
    """Policies generated for the elites' measures come far nearer to them than other elites are."""
    task, keys = make_points(measures), jax.random.split(jax.random.key(0), 4)
    search = ldpol.SearchConfig("map_elites", cells, 15, (8,), map_elites=MapElitesConfig(batch=128))
    archive = ldpol.search_archive(task, search, key=keys[0])
    player = ldpol.make_player(task, archive.network.apply, episodes=2, chunk=64)
    archive = ldpol.reevaluate(archive, task, key=keys[1], player=player)
    default = ldpol.DistillConfig()
    config = dataclasses.replace(
        default,
        collect=CollectConfig(repeats=1, episodes=2, states=8),
        autoencoder=AutoencoderTraining(optimiser=OptimiserConfig(steps=800), dagger_rounds=1),
        denoiser=dataclasses.replace(default.denoiser, optimiser=OptimiserConfig(steps=800)),
        language=LanguageConfig(captions=0),
        episodes=2,
        chunk=64,
    )
    generator = ldpol.distill(archive, task, config, key=keys[2], player=player)
    metrics = ldpol.evaluate(generator, archive, task, key=keys[3], player=player)
    stored = np.asarray(archive.measures)
    others = np.linalg.norm(stored - np.random.default_rng(0).permutation(stored), axis=-1).mean()
    assert len(archive) > 20
    assert metrics["mem"] < 0.5 * others and metrics["blind"]["mem"] < 0.55 * others
    assert metrics["mem"] < 1.5 * metrics["mem_ceiling"]  # what the elites miss themselves when they play again
