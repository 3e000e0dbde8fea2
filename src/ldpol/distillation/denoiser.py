"""Training of the denoiser on the latents of all elites."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldpol.distillation.config import DenoiserTraining, DiffusionLoss
from ldpol.distillation.targets import LatentDataset, Spread, posterior_mean
from ldpol.hooks import Hooks
from ldpol.model.condition import Condition, drop, make_condition, null_condition
from ldpol.model.denoiser import make_network
from ldpol.model.diffusion import Schedule, add_noise, diffusion_loss, make_schedule, precondition
from ldpol.model.sampler import noise_levels
from ldpol.rollout import copied_to
from ldpol.train_loop import TrainState, advance, start_state
from ldpol.types import Array, Key, PyTree


def request(loss: DiffusionLoss, dataset: LatentDataset, key: Key, row: Array) -> tuple[Condition, Array | None]:
    """Ask for one elite as a user might: roughly its measures, roughly its rank, one of its captions, or some of these.

    Args:
      loss: noise on what is asked for, and how often it is left free.
      dataset: all elites.
      key: decides both.
      row: `[]` the elite.

    Returns:
      The condition, and the claims `[L]` that its text makes (None for a model without language).
    """
    label_key, rank_key, caption_key, drop_key = jax.random.split(key, 4)
    measures = dataset.measures[row] + loss.noise * jax.random.normal(label_key, dataset.measures.shape[1:])
    quality = dataset.quality[row] + loss.quality_noise * jax.random.normal(rank_key)
    text, claims = None, None
    if dataset.captions is not None:
        place = jax.random.randint(caption_key, (), 0, dataset.captions.texts.shape[1])
        text = dataset.captions.texts[row, place]
        claims = dataset.captions.claims[row, place]
    return drop(drop_key, make_condition(measures, quality, text), loss.drop), claims


def draw_levels(key: Key, schedule: Schedule, batch: int, visited: float, steps: int) -> Array:
    """Draw noise levels `[batch]`: a share at those that a sampler of so many steps visits, the rest spread evenly."""
    which_key, level_key, choice_key = jax.random.split(key, 3)
    spread = jax.random.uniform(level_key, (batch,), minval=1e-3, maxval=schedule.end)
    chosen = jax.random.choice(which_key, noise_levels(schedule, steps)[:-1], (batch,))
    return jnp.where(jax.random.uniform(choice_key, (batch,)) < visited, chosen, spread)


def diffusion_step(
    network: nn.Module,
    training: DenoiserTraining,
    steps: int,
    mesh: Mesh,
    state: TrainState,
    key: Key,
    dataset: LatentDataset,
) -> tuple[TrainState, dict[str, Array]]:
    """Take one gradient step of the denoiser.

    Args:
      network: the denoising network.
      training: settings.
      steps: of the sampler, see `DiffusionLoss.visited`.
      mesh: devices that share the batch.
      state: the state.
      key: decides batch, noise and dropout.
      dataset: the latents of all elites.
    """
    loss = training.loss
    row_key, posterior_key, request_key, level_key, noise_key = jax.random.split(key, 5)
    schedule = make_schedule(loss.schedule)
    chances = dataset.weights / dataset.weights.sum()
    rows = jax.random.choice(row_key, dataset.mean.shape[0], (loss.batch,), p=chances)
    rows = jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec("policies")))
    shape = (loss.batch, *dataset.mean.shape[1:])
    clean = dataset.mean[rows] + dataset.deviation[None] * jax.random.normal(posterior_key, shape)
    conditions, claims = jax.vmap(partial(request, loss, dataset))(jax.random.split(request_key, loss.batch), rows)
    levels = draw_levels(level_key, schedule, loss.batch, loss.visited, steps)
    noisy = jax.vmap(partial(add_noise, schedule))(clean, levels, jax.random.normal(noise_key, shape))
    target = clean
    if loss.target == "posterior":
        spread = Spread(loss.noise, loss.quality_noise)
        target = jax.vmap(partial(posterior_mean, schedule, dataset, spread))(noisy, levels, conditions, claims)

    def batch_loss(params: PyTree) -> Array:
        denoise = precondition(partial(network.apply, {"params": params}), schedule, loss.parametrisation)  # type: ignore[arg-type]
        one = partial(diffusion_loss, denoise, schedule, loss.parametrisation if loss.weighting == "target" else None)
        return jax.vmap(one)(noisy, levels, conditions, target).mean()

    value, gradient = jax.value_and_grad(batch_loss)(state.params)
    return advance(training.optimiser, state, gradient), {"loss": value}


def train_denoiser(
    dataset: LatentDataset, training: DenoiserTraining, *, sampler_steps: int, hooks: Hooks, mesh: Mesh, key: Key
) -> PyTree:
    """Train the denoiser on all latents; returns its averaged parameters.

    Args:
      dataset: the latents.
      training: settings.
      sampler_steps: of the generator, see `DiffusionLoss.visited`.
      hooks: of the caller.
      mesh: devices that train.
      key: initialisation and batches.
    """
    h, w, c = dataset.mean.shape[1:]
    network = make_network(training.architecture, (h, w, c))
    init_key, train_key = jax.random.split(key)
    words = 0 if dataset.captions is None else dataset.captions.texts.shape[-1]
    one = (dataset.mean[0], jnp.zeros(()), null_condition(dataset.measures.shape[1], words=words))
    state = start_state(training.optimiser, jax.jit(network.init)(init_key, *one)["params"])
    step = partial(diffusion_step, network, training, sampler_steps, mesh)
    data = jax.device_put(dataset, copied_to(mesh))
    return hooks.fit("diffusion", step, state, train_key, data, training.optimiser.steps, hooks.log).ema
