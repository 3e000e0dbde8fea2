"""How each method of a study makes its model from the ground, in as many bytes as it is allowed."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ldpol import generator_file as generators
from ldpol import session, storage, train_loop
from ldpol.archive import Archive
from ldpol.baselines import cloned, cvae, gaussian, latents, quantised, subsampled
from ldpol.distillation import autoencoder
from ldpol.distillation.encoder import Posterior, TrainedEncoder
from ldpol.errors import UserError
from ldpol.experiments import configs, train
from ldpol.experiments.configs import Config
from ldpol.experiments.study import cloning
from ldpol.experiments.study.ground import Ground, Model, collected, link
from ldpol.experiments.study.plan import Row
from ldpol.generator import PolicyGenerator
from ldpol.precision import compress, expand, size
from ldpol.storage import nbytes
from ldpol.types import Array, Key, Params, PyTree


def fit(ground: Ground, row: Row, config: Config, budget: int, data_of: str) -> Model:
    """Make the model of a row, training first where its method needs that.

    Args:
      ground: the archive and its scores.
      row: what to make.
      config: of the row's training.
      budget: bytes that models without a size of their own may take; 0 where nothing is to be matched.
      data_of: the training whose collected states a clone learns from.
    """
    trains = row.training and row.method != "cloned"
    if trains:
        folder = ground.folder / row.training
        folder.mkdir(parents=True, exist_ok=True)
        link(folder / "archive", Path("..") / "archive")
        train.run(config, folder)
    timer = session.Timer()
    make: dict[str, Callable[[], Model]] = {
        "ours": lambda: _generator(ground, row),
        "paper": lambda: _generator(ground, row),
        "quantised": lambda: _quantised(ground, row),
        "subsampled": lambda: _subsampled(ground, row, budget),
        "gaussian": lambda: _gaussian(ground, row, budget),
        "cloned": lambda: _cloned(ground, row, data_of),
        "cvae": lambda: _cvae(ground, row, config),
        "latents": lambda: _latents(ground, row, config),
    }
    model = make[row.method]()
    seconds = model.seconds or timer.seconds
    if trains:
        seconds += storage.read_json(ground.folder / row.training / "train" / "metrics.json")["seconds"]
    return Model(model.tree, model.sample, model.bytes, model.size, seconds, model.apply)


def _model(tree: PyTree, sample: Any, apply: Any = None) -> Model:
    return Model(tree, sample, nbytes(tree), size(tree), 0.0, apply)


def _largest(weigh: Callable[[int], int], most: int, budget: int, row: Row) -> int:
    """Return the largest number from 1 to `most` whose model weighs no more than the budget; weights increase."""
    if budget <= 0:
        raise UserError(f"row {row.name!r} ({row.method}) has no size of its own: name a row with settings.match")
    if weigh(1) > budget:
        raise UserError(f"row {row.name!r}: the smallest {row.method} model weighs {weigh(1)} bytes, over {budget}")
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if weigh(middle) <= budget else (low, middle - 1)
    return low


def _most(trained: Archive, count: int, budget: int) -> int:
    """Return how many vectors of parameters a budget could hold at a byte a number, at least 1 and at most `count`."""
    return max(1, min(count, budget // trained.shape.size))


def _generator(ground: Ground, row: Row) -> Model:
    stored = generators.load(ground.folder / row.training / "model")
    steps, method = row.settings["steps"] or stored.steps, row.settings["sampler"] or stored.method
    stored = dataclasses.replace(stored, steps=steps, method=method, guidance=row.settings["guidance"])
    weight = dataclasses.replace(stored, precision=row.precision).nbytes
    stored = compress(stored, row.precision)

    def sample(tree: PolicyGenerator, key: Key, measures: Array) -> Params:
        return expand(tree).sample(key, measures)

    return Model(stored, sample, weight, size(stored), 0.0)


def _quantised(ground: Ground, row: Row) -> Model:
    trained = ground.trained
    return _model(quantised.fit(trained.policies, trained.measures, row.precision), quantised.generate)


def _subsampled(ground: Ground, row: Row, budget: int) -> Model:
    trained, precision = ground.trained, row.precision

    def weigh(count: int) -> int:
        policies = jax.tree.map(lambda leaf: leaf[:count], trained.policies)
        return nbytes(quantised.fit(policies, trained.measures[:count], precision))

    count = _largest(weigh, _most(trained, len(trained), budget), budget, row)
    args = (trained.grid, trained.policies, trained.fitness, trained.measures)
    return _model(subsampled.fit(*args, count=count, precision=precision), subsampled.generate)


def _gaussian(ground: Ground, row: Row, budget: int) -> Model:
    trained = ground.trained
    most = _most(trained, min(len(trained) - 1, trained.shape.size), budget)
    how = {name: value for name, value in row.settings.items() if name != "match"}
    whole = gaussian.fit(
        trained.grid, trained.shape, trained.policies, trained.measures, ground.weights, components=most, **how
    )
    stored = lambda count: compress(gaussian.truncate(whole, count), row.precision)  # noqa: E731
    count = _largest(lambda count: nbytes(stored(count)), most, budget, row)
    return _model(stored(count), gaussian.generate)


def _cloned(ground: Ground, row: Row, data_of: str) -> Model:
    model, seconds = cloning.run(ground, row, collected(ground, data_of))
    made = _model(compress(model, row.precision), cloned.generate, cloned.apply)
    return dataclasses.replace(made, seconds=seconds)


def _cvae(ground: Ground, row: Row, config: Config) -> Model:
    generator, found = _posteriors(ground, row, config)
    trained = ground.trained
    model = cvae.fit(generator, found.mean, found.deviation, trained.measures, ground.weights, **row.settings)
    return _model(compress(model, row.precision), cvae.generate)


def _latents(ground: Ground, row: Row, config: Config) -> Model:
    generator, found = _posteriors(ground, row, config)
    model = latents.fit(generator, found.mean, ground.trained.measures)
    return _model(compress(model, row.precision), latents.generate)


def _posteriors(ground: Ground, row: Row, config: Config) -> tuple[PolicyGenerator, Posterior]:
    """Return a training's generator, and the posterior of the latents of the elites it saw."""
    folder = ground.folder / row.training
    generator = generators.load(folder / "model")
    return generator, encode(config, folder, ground.trained)


def encode(config: Config, folder: Path, trained: Archive) -> Posterior:
    """Encode elites with the encoder that a finished training left in its checkpoint.

    Args:
      config: of the training.
      folder: its work directory.
      trained: the elites it saw: they fix the encoder's projections.
    """
    training = configs.distill_of(config).autoencoder
    built = training.architecture
    start = partial(autoencoder.init, trained.shape, built, trained.measures.shape[1], trained.policies)
    unknown = jnp.zeros(trained.shape.observation_size)
    params = start((unknown, unknown + 1.0), jax.random.key(0))
    blank = {"encoder": params["encoder"]["params"], "decoder": params["decoder"]}
    like = train_loop.start_state(training.optimiser, blank)
    state, _ = storage.load_state(folder / "train" / "autoencoder", like, kind="autoencoder")
    if built.normalise:
        params = start((state.ema["decoder"]["centre"], state.ema["decoder"]["spread"]), jax.random.key(0))
    variables = {"params": state.ema["encoder"], "projection": params["encoder"]["projection"]}
    return TrainedEncoder(variables, trained.shape, built).encode(trained.policies)
