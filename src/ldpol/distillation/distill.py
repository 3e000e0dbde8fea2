"""The method on one page: states, autoencoder with DAgger, latents, reliability, denoiser, generator.

Archives to one latent diffusion model of policies after Hegde et al., "Generating behaviorally diverse policies with
latent diffusion models" (NeurIPS 2023); `config.published` is their method, the defaults are ours.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Archive, check, check_task
from ldpol.distillation.autoencoder import make_decode, train_autoencoder
from ldpol.distillation.config import DistillConfig
from ldpol.distillation.dataset import Dataset, collect, make_dataset, make_visit
from ldpol.distillation.denoiser import train_denoiser
from ldpol.distillation.encoder import TrainedEncoder
from ldpol.distillation.reader import learns_to_read, train_reader
from ldpol.distillation.reliability import keep_draws, reliability_weights, verify_draws
from ldpol.distillation.targets import latent_dataset
from ldpol.generator import PolicyGenerator
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.player import Player, make_player
from ldpol.precision import compress, expand
from ldpol.rollout import copied_to, policy_mesh
from ldpol.tasks import Task
from ldpol.train_loop import training_mesh
from ldpol.types import Key


class Distilled(NamedTuple):
    """What a distillation leaves behind.

    Attributes:
      generator: the model.
      encoder: from policies to latents; the generator does without.
      dataset: what the elites did where, the states of decoded policies included.
      history: metrics as they were logged, each with its `phase` and `step`.
    """

    generator: PolicyGenerator
    encoder: TrainedEncoder
    dataset: Dataset
    history: list[dict[str, Any]]


def distill(
    archive: Archive,
    task: Task,
    config: DistillConfig = DistillConfig(),
    *,
    key: Key,
    player: Player | None = None,
    hooks: Hooks = Hooks(),
) -> PolicyGenerator:
    """Make one generative model of an archive's policies; arguments as in `train`."""
    return train(archive, task, config, key=key, player=player, hooks=hooks).generator


def train(
    archive: Archive,
    task: Task,
    config: DistillConfig = DistillConfig(),
    *,
    key: Key,
    player: Player | None = None,
    hooks: Hooks = Hooks(),
) -> Distilled:
    """Distil an archive and keep what a study needs beside the generator.

    Args:
      archive: the elites to learn from, re-evaluated (`ldpol.reevaluate`): its measures are the labels.
      task: where they act.
      config: settings.
      key: decides everything random.
      player: evaluates policies of this network on this task; None compiles one.
      hooks: the gradient loop, kept results, log and progress.

    Raises:
      UserError: if the archive is unsound, does not fit the task, or lacks what the settings ask for.
    """
    archive = jax.tree.map(jnp.asarray, jax.device_get(check(archive)))  # wherever its arrays lay before
    check_task(archive, task)
    learns_to_read(config.language, archive, task)
    history: list[dict[str, Any]] = []
    hooks = _with_history(hooks, history)
    network, mesh, trainers, training = archive.shape, policy_mesh(), training_mesh(), config.autoencoder
    depends_on = {"settings": dataclasses.asdict(config), "key": np.asarray(jax.random.key_data(key)).tolist()}
    if player is None:
        how = {"episodes": config.episodes, "rollout": config.rollout, "chunk": config.chunk}
        player = make_player(task, network.apply, mesh=mesh, **how)
    how = {"rollout": config.rollout, "chunk": config.chunk, "mesh": mesh, "hooks": hooks}
    visit = make_visit(task, network.apply, config.collect, **how)

    states = hooks.memo("data", depends_on, lambda: collect(archive, visit, config.collect, key_for(key, "states")))
    data = make_dataset(archive, config.weights, states, room=training.dagger_rounds * config.collect.per_rollout)
    encoder, decoder, data = train_autoencoder(
        archive,
        data,
        training,
        visit=visit,
        depends_on=depends_on,
        hooks=hooks,
        mesh=trainers,
        key=key_for(key, "autoencoder"),
        dagger_key=key_for(key, "dagger"),
    )
    language, reader, captions = train_reader(config.language, archive, task, hooks=hooks, key=key_for(key, "reader"))
    posterior = encoder.encode(archive.policies)
    stored = jax.device_put(expand(compress(decoder, config.precision)), copied_to(mesh))
    verified = verify_draws(
        posterior,
        data.measures,
        decode=partial(make_decode(network, training.architecture), stored),
        player=player,
        grid=archive.grid,
        config=config.verify,
        noise=training.loss.noise,
        key=key_for(key, "verify"),
        depends_on=depends_on,
        hooks=hooks,
    )
    weights, bank = data.weights, None
    if verified is not None:
        weights = weights * jnp.asarray(reliability_weights(verified.errors, config.verify.tolerance))
        if config.verify.rows:
            rows = config.verify.rows
            bank = keep_draws(verified, archive, task, data.weights, grid=archive.grid, rows=rows)
    latents, scaling = latent_dataset(
        training.architecture,
        posterior,
        data.measures,
        noise=training.loss.noise,
        weights=weights,
        fitness=np.asarray(archive.fitness),
        captions=captions,
    )
    denoiser = train_denoiser(
        latents,
        config.denoiser,
        sampler_steps=config.sampler.steps,
        hooks=hooks,
        mesh=trainers,
        key=key_for(key, "denoiser"),
    )
    generator = PolicyGenerator(
        decoder=decoder,
        denoiser=denoiser,
        scaling=scaling,
        reader=reader,
        shape=network,
        autoencoder=training.architecture,
        network=config.denoiser.architecture,
        schedule=config.denoiser.loss.schedule,
        parametrisation=config.denoiser.loss.parametrisation,
        grid=archive.grid,
        measure_names=task.measure_names,
        task=task.name,
        settings=archive.settings,
        **dataclasses.asdict(config.sampler),
        language=language,
        precision=config.precision,
        bank=bank,
        kernel=config.verify.kernel * float(np.linalg.norm(1.0 / np.asarray(archive.grid.shape))),
    )
    return Distilled(generator, encoder, data, history)


def _with_history(hooks: Hooks, history: list[dict[str, Any]]) -> Hooks:
    """Return hooks whose log also fills a list."""

    def log(phase: str, step: int, metrics: Any) -> None:
        history.append({"phase": phase, "step": step, **metrics})
        hooks.log(phase, step, metrics)

    return dataclasses.replace(hooks, log=log)
