"""Losses and training steps of autoencoder and denoiser: pure functions; the batch is split over the devices."""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldpol.model.autoencoder import AutoencoderConfig, Decoder, Encoder, draw_around, kl_divergence
from ldpol.model.bank import LatentBank, Spread, posterior_mean
from ldpol.model.condition import Condition, Drop, ask, drop
from ldpol.model.dataset import Dataset
from ldpol.model.diffusion import (
    Parametrisation,
    Schedule,
    add_noise,
    diffusion_loss,
    make_schedule,
    precondition,
)
from ldpol.model.optimiser import OptimiserConfig, TrainState, advance
from ldpol.model.sampler import noise_levels
from ldpol.policy import Policy, PolicyShape
from ldpol.types import Array, Key, Params, PyTree


class AutoencoderLoss(NamedTuple):
    """What the autoencoder is trained for.

    Attributes:
      kind: `behaviour` (match the teacher's actions) or `parameters` (match standardised parameters, as published).
      weight: of the mean squared error of actions.
      kl: weight of the KL divergence of the latent.
      policies: policies a step.
      states: states a policy and step.
      noise: standard deviation of noise on the measures the decoder sees, scaled to [0, 1]. Labels are means over a few
        episodes, and what is asked for later is never exactly a label.
    """

    kind: Literal["behaviour", "parameters"] = "behaviour"
    weight: float = 10.0
    kl: float = 5e-3
    policies: int = 96
    states: int = 16
    noise: float = 0.0075


class DiffusionLoss(NamedTuple):
    """What the denoiser is trained for.

    Attributes:
      schedule: `linear`, `cosine` or `flow`.
      parametrisation: `eps`, `v` or `flow`.
      batch: latents a step.
      visited: share of a batch at the few noise levels that the sampler visits by default; the rest is spread over all
        levels. In few steps, it is there alone that the denoiser must be right.
      weighting: whose squared error counts: that of the network's `target`, as published, which makes small noise count
        most; or that of the `clean` latent, on which the next step depends, at all levels alike.
      drop_all, drop_each: probabilities of leaving all measures, or each, free.
      drop_beside, drop_quality, drop_text: probabilities of leaving all measures free where fitness or text is asked
        for, and of leaving these free.
      noise: standard deviation of noise on the measures, in measure units scaled to [0, 1].
      quality_noise: likewise on the rank of fitness, in quantiles.
      target: what the network's estimate of the clean latent is compared with: the `sample` the noisy one was made
        from, or the `posterior` mean over all elites, which is what that sample is on average, without its variance.
    """

    schedule: str = "flow"
    parametrisation: Parametrisation = "v"
    batch: int = 256
    visited: float = 0.5
    weighting: Literal["target", "clean"] = "clean"
    drop_all: float = 0.05
    drop_each: float = 0.05
    drop_beside: float = 0.6
    drop_quality: float = 0.8
    drop_text: float = 0.6
    noise: float = 0.0075
    quality_noise: float = 0.05
    target: Literal["sample", "posterior"] = "posterior"


def action_error(mean: Array, target: Array) -> Array:
    """Return the error of unclipped student means against clipped teacher actions, `[A]`.

    Where the teacher saturates, going further the same way is the same behaviour and costs nothing; everywhere else
    the error is the plain difference, so that a saturated student still has a gradient.
    """
    error = mean - target
    error = jnp.where(target >= 1.0, jnp.minimum(error, 0.0), error)
    return jnp.where(target <= -1.0, jnp.maximum(error, 0.0), error)


def autoencoder_loss(
    shape: PolicyShape,
    config: AutoencoderConfig,
    loss: AutoencoderLoss,
    projection: PyTree,
    params: PyTree,
    policy: Params,
    measures: Array,
    states: Array,
    actions: Array,
    key: Key,
) -> tuple[Array, dict[str, Array]]:
    """Return the loss of one policy, and its parts.

    Args:
      shape: the policy's architecture.
      config: the autoencoder's.
      loss: weights.
      projection: the encoder's fixed variables.
      params: `{"encoder", "decoder"}`, trained.
      policy: the teacher's parameters.
      measures: `[M]` what it does.
      states: `[B, O]`.
      actions: `[B, A]` the teacher's.
      key: noise of latent and measures.

    Raises:
      ValueError: for an unknown kind of loss, or one that the head does not support.
    """
    if loss.kind not in ("behaviour", "parameters") or (loss.kind == "parameters" and config.head != "matrix"):
        raise ValueError(
            "the autoencoder's loss must be behaviour, or parameters with head matrix; "
            f"found {loss.kind!r} with head {config.head!r}"
        )
    noise_key, label_key = jax.random.split(key)
    variables = {"params": params["encoder"], "projection": projection}
    moments: Any = Encoder(shape, config).apply(variables, policy)
    mean, log_variance = moments
    posterior = (mean, jnp.exp(0.5 * log_variance))
    latent, seen = draw_around(posterior, measures, loss.noise, noise_key, label_key)
    decoder = params["decoder"]
    if loss.kind == "parameters":
        # The mean and std that standardise are statistics, not weights.
        decoder = {**decoder, "MatrixHead_0": _freeze_statistics(decoder["MatrixHead_0"])}
    student: Any = Decoder(shape, config).apply({"params": decoder}, latent, ask(seen))
    kl = kl_divergence(mean, log_variance)
    means = shape.module().apply(student, states, method=Policy.mean)
    action_mse = jnp.mean(action_error(means, actions) ** 2)  # type: ignore[arg-type]
    if loss.kind == "behaviour":
        return loss.weight * action_mse + loss.kl * kl, {"action_mse": action_mse, "kl": kl}
    head = decoder["MatrixHead_0"]
    parts = [
        jnp.mean(((new - old).reshape(-1) / head[f"std_{t}"]) ** 2)
        for t, (new, old) in enumerate(zip(jax.tree.leaves(student), jax.tree.leaves(policy), strict=True))
    ]
    parameter_mse = jnp.stack(parts).sum()
    metrics = {"parameter_mse": parameter_mse, "action_mse": action_mse, "kl": kl}
    return parameter_mse + loss.kl * kl, metrics


def _freeze_statistics(head: PyTree) -> PyTree:
    return {k: jax.lax.stop_gradient(v) if k.startswith(("mean_", "std_")) else v for k, v in head.items()}


def autoencoder_step(
    shape: PolicyShape,
    config: AutoencoderConfig,
    loss: AutoencoderLoss,
    optimiser: OptimiserConfig,
    mesh: Mesh,
    data: Dataset,
    projection: PyTree,
    state: TrainState,
    key: Key,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one gradient step on a random batch of policies and states, split over `mesh`."""
    policy_key, state_key, loss_key = jax.random.split(key, 3)
    count = data.measures.shape[0]
    rows = jax.random.choice(policy_key, count, (loss.policies,), p=data.weights / data.weights.sum())
    rows = jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec("policies")))
    columns = jax.random.randint(state_key, (loss.policies, loss.states), 0, data.filled)
    policies, measures = jax.tree.map(lambda leaf: leaf[rows], (data.policies, data.measures))
    states, actions = data.states[rows[:, None], columns], data.actions[rows[:, None], columns]

    def batch_loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
        one = partial(autoencoder_loss, shape, config, loss, projection, params)
        total, parts = jax.vmap(one)(policies, measures, states, actions, jax.random.split(loss_key, loss.policies))
        return total.mean(), jax.tree.map(jnp.mean, parts)

    (value, parts), gradient = jax.value_and_grad(batch_loss, has_aux=True)(state.params)
    return advance(optimiser, state, gradient), {"loss": value} | parts


def request(loss: DiffusionLoss, bank: LatentBank, key: Key, row: Array) -> tuple[Condition, Array | None]:
    """Ask for one elite as a user might: roughly its measures, roughly its rank, one of its captions, or some of these.

    Args:
      loss: noise on what is asked for, and how often it is left free.
      bank: all elites.
      key: decides both.
      row: `[]` the elite.

    Returns:
      The condition, and the claims `[L]` that its text makes (None for a model without language).
    """
    label_key, rank_key, caption_key, drop_key = jax.random.split(key, 4)
    measures = bank.measures[row] + loss.noise * jax.random.normal(label_key, bank.measures.shape[1:])
    quality = bank.quality[row] + loss.quality_noise * jax.random.normal(rank_key)
    text, said = None, None
    if bank.captions is not None:
        place = jax.random.randint(caption_key, (), 0, bank.captions.texts.shape[1])
        text = bank.captions.texts[row, place]
        said = bank.captions.said[row, place]
    how = Drop(loss.drop_all, loss.drop_each, loss.drop_beside, loss.drop_quality, loss.drop_text)
    return drop(drop_key, ask(measures, quality, text), how), said


def draw_levels(key: Key, schedule: Schedule, batch: int, visited: float, steps: int) -> Array:
    """Draw noise levels `[batch]`: a share at those that a sampler of so many steps visits, the rest spread evenly."""
    which_key, level_key, choice_key = jax.random.split(key, 3)
    spread = jax.random.uniform(level_key, (batch,), minval=1e-3, maxval=schedule.end)
    chosen = jax.random.choice(which_key, noise_levels(schedule, steps)[:-1], (batch,))
    return jnp.where(jax.random.uniform(choice_key, (batch,)) < visited, chosen, spread)


def diffusion_step(
    network: nn.Module,
    loss: DiffusionLoss,
    steps: int,
    optimiser: OptimiserConfig,
    mesh: Mesh,
    bank: LatentBank,
    state: TrainState,
    key: Key,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one gradient step of the denoiser.

    Args:
      network: the denoising network.
      loss: what to train for.
      steps: of the sampler, see `DiffusionLoss.visited`.
      optimiser: its settings.
      mesh: devices that share the batch.
      bank: the latents of all elites.
      state: the state.
      key: decides batch, noise and dropout.

    Raises:
      ValueError: for an unknown target or weighting, or posterior targets without noise on the measures.
    """
    if loss.weighting not in ("target", "clean"):
        raise ValueError(f"the denoiser's weighting must be target or clean, found {loss.weighting!r}")
    if loss.target not in ("sample", "posterior") or (loss.target == "posterior" and loss.noise <= 0):
        raise ValueError(
            "the denoiser's target must be sample, or posterior with noise > 0 on the measures; "
            f"found {loss.target!r} with noise {loss.noise:g}"
        )
    row_key, posterior_key, request_key, level_key, noise_key = jax.random.split(key, 5)
    schedule = make_schedule(loss.schedule)
    chances = bank.weights / bank.weights.sum()
    rows = jax.random.choice(row_key, bank.mean.shape[0], (loss.batch,), p=chances)
    rows = jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec("policies")))
    shape = (loss.batch, *bank.mean.shape[1:])
    clean = bank.mean[rows] + bank.deviation * jax.random.normal(posterior_key, shape)
    conditions, said = jax.vmap(partial(request, loss, bank))(jax.random.split(request_key, loss.batch), rows)
    levels = draw_levels(level_key, schedule, loss.batch, loss.visited, steps)
    noisy = jax.vmap(partial(add_noise, schedule))(clean, levels, jax.random.normal(noise_key, shape))
    target = clean
    if loss.target == "posterior":
        spread = Spread(loss.noise, loss.quality_noise)
        target = jax.vmap(partial(posterior_mean, schedule, bank, spread))(noisy, levels, conditions, said)

    def batch_loss(params: PyTree) -> Array:
        denoise = precondition(partial(network.apply, {"params": params}), schedule, loss.parametrisation)  # type: ignore[arg-type]
        one = partial(diffusion_loss, denoise, schedule, loss.parametrisation if loss.weighting == "target" else None)
        return jax.vmap(one)(noisy, levels, conditions, target).mean()

    value, gradient = jax.value_and_grad(batch_loss)(state.params)
    return advance(optimiser, state, gradient), {"loss": value}
