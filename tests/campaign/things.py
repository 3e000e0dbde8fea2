"""What the fuzz campaign hurts: an archive, a model, a policy, and the folder of a whole run."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ldpol
from campaign.fuzz import Thing
from ldpol import archive, sample, storage
from ldpol.archive import Archive, Grid
from ldpol.model.answering import Kernel
from ldpol.networks import MLP
from ldpol.report import load_run

SHAPE = MLP(3, 2, (6,))
GRID = Grid((4, 4), (0.0, 0.0), (1.0, 1.0))


def make_archive(folder: Path) -> None:
    random = np.random.default_rng(0)
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), 12))
    fitness, measures = (
        jnp.asarray(random.normal(size=12), jnp.float32),
        jnp.asarray(random.random((12, 2)), jnp.float32),
    )
    archive.save(Archive(policies, fitness, measures, network=SHAPE, grid=GRID, task="toy"), folder / "elites")


def read_archive(folder: Path) -> Any:
    return archive.load(folder / "elites")


def make_model(folder: Path) -> None:
    from model.test_verified import make as make_draws
    from test_generator import make_generator

    model = make_generator(SHAPE, GRID)
    _, bank = make_draws(model.autoencoder.latent)
    dataclasses.replace(model, bank=bank, kernel=Kernel(0.05, 0.3)).save(folder / "model", "int8")


def read_model(folder: Path) -> Any:
    return ldpol.load(folder / "model")


def make_policy(folder: Path) -> None:
    about = {"task": "toy", "shape": SHAPE.to_json(), "asked": [0.1, None], "fitness": 3.5, "text": None}
    storage.save(folder / "policy", SHAPE.init(jax.random.key(1)), kind=sample.KIND, about=about)


def read_policy(folder: Path) -> Any:
    params, shape, _ = sample.load_policy(folder / "policy")
    shape.apply(params, jnp.zeros(shape.observation_size))
    return params


def make_run(folder: Path) -> None:
    from report.test_report import add_suites
    from report.test_report import make_run as make

    add_suites(folder, make(folder))
    make_archive(folder / "archive")
    make_model(folder)
    random = np.random.default_rng(1)
    storage.save(folder / "train" / "data", {"states": random.normal(size=(5, 4, 3))}, kind="dataset")
    storage.save_state(folder / "train" / "diffusion", (jnp.arange(3.0), jnp.ones(2)), kind="diffusion", about={"n": 1})


def read_run(folder: Path) -> Any:
    """What the later stages and the report read."""
    run = load_run(folder)
    state, _ = storage.load_state(folder / "train" / "diffusion", (jnp.zeros(3), jnp.zeros(2)), kind="diffusion")
    parts = run.archive, run.archive_history, run.train, run.train_history, run.evaluation, dict(run.arrays)
    numbers = [part for part in jax.tree.leaves((parts, dict(run.traces))) if not isinstance(part, str)]
    data, _ = storage.load(folder / "train" / "data", kind="dataset")
    return [str(number) for number in numbers], read_archive(folder / "archive"), read_model(folder), data, state


THINGS = (
    Thing("archive", make_archive, read_archive, 0.3),
    Thing("model", make_model, read_model, 0.25),
    Thing("policy", make_policy, read_policy, 0.2),
    Thing("run", make_run, read_run, 0.25, forgeable=False),
)
