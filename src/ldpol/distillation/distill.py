"""The method on one page: states, autoencoder with DAgger, latents, reliability, denoiser, generator.

Archives to one latent diffusion model of policies after Hegde et al., "Generating behaviorally diverse policies with
latent diffusion models" (NeurIPS 2023); `presets.published` is their method, the defaults are ours.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import archive as archives
from ldpol import storage
from ldpol.archive import Archive
from ldpol.distillation.autoencoder import make_decode, train_autoencoder
from ldpol.distillation.bank import choose_draws, keep_draws
from ldpol.distillation.config import DistillConfig, for_cells, for_memory, without_normalising, without_rollouts
from ldpol.distillation.dataset import Dataset, act, collect, make_dataset, make_visit
from ldpol.distillation.denoiser import train_denoiser
from ldpol.distillation.encoder import TrainedEncoder
from ldpol.distillation.reader import learns_to_read, train_reader
from ldpol.distillation.reliability import reliability_weights, verify_again, verify_draws
from ldpol.distillation.targets import latent_dataset
from ldpol.errors import UserError
from ldpol.generator import PolicyGenerator
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.player import Player, make_player
from ldpol.precision import compress, expand
from ldpol.rollout import copied_to, policy_mesh
from ldpol.tasks import ELSEWHERE, Task
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
    task: Task | None,
    config: DistillConfig = DistillConfig(),
    *,
    key: Key,
    states: np.ndarray | None = None,
    check: bool = True,
    player: Player | None = None,
    hooks: Hooks = Hooks(),
) -> PolicyGenerator:
    """Make one generative model of an archive's policies; arguments as in `train`."""
    how: dict[str, Any] = {"states": states, "check": check, "player": player, "hooks": hooks}
    return train(archive, task, config, key=key, **how).generator


def train(
    archive: Archive,
    task: Task | None,
    config: DistillConfig = DistillConfig(),
    *,
    key: Key,
    states: np.ndarray | None = None,
    check: bool = True,
    player: Player | None = None,
    hooks: Hooks = Hooks(),
) -> Distilled:
    """Distil an archive and keep what a study needs beside the generator.

    Args:
      archive: the elites to learn from, re-evaluated (`ldpol.reevaluate`): its measures are the labels.
      task: where they act; None, or one of `task_elsewhere`, where there is no environment in JAX.
      config: settings; noise and radii are scaled to the archive's cells, see `config.for_cells`.
      key: decides everything random.
      states: `[N, S, O]` observations of each elite's episodes, for want of an environment: then labels are the stored
        scores, and there is no DAgger, no verification and no language.
      check: refuse an import whose policies do not do what is stored, see `archive.check_import`.
      player: evaluates policies of this network on this task; None compiles one.
      hooks: the gradient loop, kept results, log and progress; those of a `Keeper` make it resumable.

    Raises:
      UserError: if the archive is unsound, does not fit the task, or lacks what the settings ask for.
    """
    archive = jax.tree.map(jnp.asarray, jax.device_get(archives.check(archive)))  # wherever its arrays lay before
    if task is not None:
        archives.check_task(archive, task)
    config = for_memory(for_cells(config, archive.grid, len(archive)), archive.network, len(archive))
    place = task
    if archive.network.first is None:
        config = without_normalising(config)
    seen_elsewhere = np.zeros(0)
    if task is None or task.backend == ELSEWHERE:
        seen_elsewhere, place = _observations(archive, states), None
        archive, config = _with_stored_labels(archive), without_rollouts(config)
    elif check:
        archive = archives.check_import(archive, task, key_for(key, "check"))
    learns_to_read(config.language, archive, place)
    history: list[dict[str, Any]] = []
    hooks = _with_history(hooks, history)
    network, mesh, trainers, training = archive.network, policy_mesh(), training_mesh(), config.autoencoder
    depends_on = {"settings": dataclasses.asdict(config), **archives.depends_on(archive, task, key)}
    how: dict[str, Any] = {"rollout": config.rollout, "chunk": config.chunk, "mesh": mesh}
    visit = None
    if place is not None:
        player = make_player(place, network.apply, episodes=config.episodes, **how) if player is None else player
        visit = make_visit(place, network.apply, config.collect, **how, hooks=hooks)
        depends_on |= {"episodes": player.episodes}
    else:
        depends_on |= {"states": storage.fingerprint_of({"states": seen_elsewhere}, {})}

    def first() -> dict[str, np.ndarray]:
        if visit is None:
            return {"states": seen_elsewhere, "actions": act(network.apply, archive.policies, seen_elsewhere)}
        return collect(archive, visit, config.collect, key_for(key, "states"))

    seen = hooks.memo("data", depends_on, first)
    data = make_dataset(archive, config.weights, seen, room=training.dagger_rounds * config.collect.per_rollout)
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
    language, reader, captions = train_reader(config.language, archive, place, hooks=hooks, key=key_for(key, "reader"))
    posterior = encoder.encode(archive.policies)
    stored = jax.device_put(jax.jit(lambda tree: expand(compress(tree, config.precision)))(decoder), copied_to(mesh))
    evaluation: dict[str, Any] = {
        "decode": partial(make_decode(network, training.architecture), stored),
        "player": player,
        "config": config.verify,
        "key": key_for(key, "verify"),
        "depends_on": depends_on,
        "hooks": hooks,
    }
    noise = training.loss.noise
    verified = verify_draws(posterior, data.measures, data.weights, grid=archive.grid, noise=noise, **evaluation)
    weights, bank = data.weights, None
    if verified is not None:
        weights = weights * jnp.asarray(reliability_weights(verified.errors, config.verify.tolerance))
        if config.verify.rows and place is not None:
            kept = choose_draws(verified, archive, config.verify, config.weights)
            known = verify_again(verified, kept, **evaluation)
            bank = keep_draws(known, kept, archive, place, config.verify, config.weights)
    latents, scaling = latent_dataset(
        training.architecture,
        posterior,
        data.measures,
        noise=noise,
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
        measure_names=_names(archive) if task is None else task.measure_names,
        task=archive.task,
        settings=archive.settings,
        **dataclasses.asdict(config.sampler),
        language=language,
        precision=config.precision,
        bank=bank,
        kernel=config.verify.answers(archive.grid),
    )
    return Distilled(generator, encoder, data, history)


def _observations(archive: Archive, states: Any) -> np.ndarray:
    """Return the observations `[N, S, O]` that stand in for an environment.

    Raises:
      UserError: if there are none, or they do not fit the archive.
    """
    count, size = len(archive), archive.network.observation_size
    seen: np.ndarray = np.zeros(0) if states is None else np.asarray(states, np.float32)
    if seen.ndim != 3 or not seen.size or (seen.shape[0], seen.shape[-1]) != (count, size):
        found = "none" if states is None else list(seen.shape)
        raise UserError(
            f"without an environment pass states=[{count}, S, {size}], observations of each elite's episodes; "
            f"found {found}"
        )
    if not np.isfinite(seen).all():
        raise UserError("the states hold NaN or infinite observations; leave those episodes out")
    return seen


def _with_stored_labels(archive: Archive) -> Archive:
    """Note in the archive that its labels are those that came with it, unchecked; the generator passes it on."""
    archive = archives.checked(archive)
    return dataclasses.replace(archive, settings=(*archive.settings, ("labels", "stored")))


def _names(archive: Archive) -> tuple[str, ...]:
    return tuple(f"measure {i}" for i in range(archive.grid.dimensions))


def _with_history(hooks: Hooks, history: list[dict[str, Any]]) -> Hooks:
    """Return hooks whose log also fills a list."""

    def log(phase: str, step: int, metrics: Any) -> None:
        history.append({"phase": phase, "step": step, **metrics})
        hooks.log(phase, step, metrics)

    return dataclasses.replace(hooks, log=log)
