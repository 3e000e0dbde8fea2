"""The variational autoencoder of policies: initialised from the archive, trained on actions, with DAgger."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldpol.archive import Archive
from ldpol.distillation.config import AutoencoderTraining
from ldpol.distillation.dagger import fit_with_dagger
from ldpol.distillation.dataset import Dataset, Visit, act, normaliser
from ldpol.distillation.encoder import Encoder, Posterior, TrainedEncoder, draw_around
from ldpol.hooks import Hooks
from ldpol.model.condition import Condition, make_condition
from ldpol.model.decoder import AutoencoderConfig, Decoder, first_layer
from ldpol.networks import Network, unfold_normaliser
from ldpol.rollout import copied_to
from ldpol.train_loop import TrainState, advance, start_state
from ldpol.types import Array, Key, Params, PyTree


def init(
    shape: Network,
    config: AutoencoderConfig,
    measures: int,
    policies: Params,
    normaliser: tuple[Array, Array],
    key: Key,
) -> PyTree:
    """Initialise encoder and decoder, started from the principal components of the archive's policies.

    Args:
      shape: the policies' architecture.
      config: the autoencoder's.
      measures: M.
      policies: N policies, leading axis on every leaf.
      normaliser: mean and standard deviation `[O]` of the observations.
      key: random initialisation.

    Returns:
      `{"encoder": variables, "decoder": params}`; the encoder's variables hold `params` and a fixed `projection`.
    """
    encoder_key, decoder_key = jax.random.split(key)
    one = jax.tree.map(lambda leaf: leaf[0], policies)
    condition = Condition(jnp.zeros(measures), jnp.ones(measures))
    # This runs on the host, once; op by op it would compile for several times as long.
    encoder = jax.jit(Encoder(shape, config).init)(encoder_key, one)
    decoder = jax.jit(Decoder(shape, config).init)(decoder_key, jnp.zeros(config.latent), condition)["params"]
    first = first_layer(shape) if config.normalise else ""
    return warm_start(config, first, policies, normaliser, encoder, decoder)


def warm_start(
    config: AutoencoderConfig,
    first: str,
    policies: Params,
    normaliser: tuple[Array, Array],
    encoder: PyTree,
    decoder: PyTree,
) -> PyTree:
    """Fill means, bases and projections in from the statistics of N policies; runs on the host, once."""
    head_name = "BasisHead_0" if config.head == "basis" else "MatrixHead_0"
    head = dict(decoder[head_name])
    encoder_name = "ProjectionEncoder_0" if config.encoder == "projection" else "ConvolutionEncoder_0"
    projection = dict(encoder["projection"][encoder_name])
    statistics: PyTree = {}
    if config.normalise:
        statistics = {name: jnp.asarray(value) for name, value in zip(("centre", "spread"), normaliser, strict=True)}
        unfold = partial(unfold_normaliser, first=first)
        policies = jax.jit(jax.vmap(unfold, (0, None, None)))(policies, *normaliser)
    for t, leaf in enumerate(jax.tree.leaves(policies)):
        values = np.asarray(leaf).reshape(leaf.shape[0], -1)
        mean, std = values.mean(0), np.maximum(values.std(0), 1e-6)
        directions, scales = principal_directions(values - mean, max(config.rank, config.coordinates))
        head[f"mean_{t}"] = jnp.asarray(mean)
        projection[f"mean_{t}"] = jnp.asarray(mean)
        if config.head == "basis":
            rank = min(config.rank, values.shape[1])
            head[f"basis_{t}"] = jnp.asarray(directions[:rank] * scales[:rank, None])
        else:
            head[f"std_{t}"] = jnp.asarray(std)
        if config.encoder == "projection":
            kept = min(config.coordinates, values.shape[1])
            # Whitened by the leading scale, so that minor coordinates stay minor.
            projection[f"matrix_{t}"] = jnp.asarray(directions[:kept].T / scales[:kept].mean().clip(1e-6))
        else:
            projection[f"std_{t}"] = jnp.asarray(std)
    encoder = {**encoder, "projection": {encoder_name: projection} | statistics}
    return {"encoder": encoder, "decoder": {**decoder, head_name: head} | statistics}


def principal_directions(centred: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading principal directions `[count, P]` and standard deviations `[count]` of rows `[N, P]`.

    Rows beyond the rank of the data are zero.
    """
    n, size = centred.shape
    kept = min(count, n, size)
    directions, scales = np.zeros((count, size), np.float32), np.zeros(count, np.float32)
    if n < size:  # the smaller of the two Gram matrices
        values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        order = np.argsort(values)[::-1][:kept]
        found = vectors[:, order].T @ centred
        norms = np.linalg.norm(found, axis=1, keepdims=True)
        directions[:kept] = np.where(norms > 1e-8, found / np.maximum(norms, 1e-8), 0.0)
    else:
        values, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        order = np.argsort(values)[::-1][:kept]
        directions[:kept] = vectors[:, order].T
    scales[:kept] = np.sqrt(np.maximum(values[order], 0.0) / n)
    return directions, scales


def kl_divergence(mean: Array, log_variance: Array) -> Array:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)), summed over the latent, in nats."""
    return 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1.0 - log_variance)


class Teaching(NamedTuple):
    """What one elite teaches in one step.

    Attributes:
      policy: its parameters.
      measures: `[M]` its labels, scaled to [0, 1].
      states: `[B, O]`.
      actions: `[B, A]` what it does there.
    """

    policy: Params
    measures: Array
    states: Array
    actions: Array


def autoencoder_loss(
    shape: Network, training: AutoencoderTraining, projection: PyTree, params: PyTree, elite: Teaching, key: Key
) -> tuple[Array, dict[str, Array]]:
    """Return the loss of one policy, and its parts.

    Args:
      shape: the policy's architecture.
      training: settings.
      projection: the encoder's fixed variables.
      params: `{"encoder", "decoder"}`, trained.
      elite: the teacher.
      key: noise of latent and measures.
    """
    config, loss = training.architecture, training.loss
    policy, measures, states, actions = elite
    noise_key, label_key = jax.random.split(key)
    variables = {"params": params["encoder"], "projection": projection}
    moments: Any = Encoder(shape, config).apply(variables, policy)
    mean, log_variance = moments
    latent, seen = draw_around(Posterior(mean, jnp.exp(0.5 * log_variance)), measures, loss.noise, noise_key, label_key)
    decoder = params["decoder"]
    if loss.kind == "parameters":
        # The mean and std that standardise are statistics, not weights.
        decoder = {**decoder, "MatrixHead_0": _freeze_statistics(decoder["MatrixHead_0"])}
    student: Any = Decoder(shape, config).apply({"params": decoder}, latent, make_condition(seen))
    kl = kl_divergence(mean, log_variance)
    action_mse = jnp.mean(shape.action_error(shape.pre_action(student, states), actions) ** 2)
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
    shape: Network,
    training: AutoencoderTraining,
    mesh: Mesh,
    state: TrainState,
    key: Key,
    data: tuple[Dataset, PyTree],
) -> tuple[TrainState, dict[str, Array]]:
    """Take one gradient step on a random batch of policies and states, split over `mesh`.

    Args:
      shape: the policies' architecture.
      training: settings.
      mesh: devices.
      state: parameters `{"encoder", "decoder"}` in training.
      key: decides the batch and its noise.
      data: what the elites did where, and the encoder's fixed variables.
    """
    dataset, projection = data
    loss = training.loss
    policy_key, state_key, loss_key = jax.random.split(key, 3)
    chances = dataset.weights / dataset.weights.sum()
    rows = jax.random.choice(policy_key, dataset.measures.shape[0], (loss.policies,), p=chances)
    rows = jax.lax.with_sharding_constraint(rows, NamedSharding(mesh, PartitionSpec("policies")))
    columns = jax.random.randint(state_key, (loss.policies, loss.states), 0, dataset.filled)
    policies, measures = jax.tree.map(lambda leaf: leaf[rows], (dataset.policies, dataset.measures))
    states, actions = dataset.states[rows[:, None], columns], dataset.actions[rows[:, None], columns]
    batch = Teaching(policies, measures, states, actions)

    def batch_loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
        one = partial(autoencoder_loss, shape, training, projection, params)
        total, parts = jax.vmap(one)(batch, jax.random.split(loss_key, loss.policies))
        return total.mean(), jax.tree.map(jnp.mean, parts)

    (value, parts), gradient = jax.value_and_grad(batch_loss, has_aux=True)(state.params)
    return advance(training.optimiser, state, gradient), {"loss": value} | parts


def make_decode(shape: Network, config: AutoencoderConfig) -> Callable[[PyTree, Array, Array], Params]:
    """Return the compiled `(decoder, latents [N, h, w, c], measures [N, M]) -> policies`."""
    decoder = Decoder(shape, config)
    return jax.jit(jax.vmap(lambda p, latent, m: decoder.apply({"params": p}, latent, make_condition(m)), (None, 0, 0)))


def train_autoencoder(
    archive: Archive,
    data: Dataset,
    training: AutoencoderTraining,
    *,
    visit: Visit | None,
    depends_on: Mapping[str, Any],
    hooks: Hooks,
    mesh: Mesh,
    key: Key,
    dagger_key: Key,
) -> tuple[TrainedEncoder, PyTree, Dataset]:
    """Train encoder and decoder; between rounds, learn from where decoded policies go (DAgger, Ross et al. 2011).

    Args:
      archive: the elites.
      data: what they did where, with room for the states of `training.dagger_rounds` rounds.
      training: settings.
      visit: rolls policies out, for the states they visit; None without rounds.
      depends_on: what the states of a round depend on beside its number.
      hooks: of the caller.
      mesh: devices that train.
      key: initialisation and batches.
      dagger_key: draws and episodes of the rounds.

    Returns:
      The encoder, the decoder's parameters, and the data with all rounds in it.
    """
    shape, config, descent, rounds = archive.network, training.architecture, training.optimiser, training.dagger_rounds
    init_key, train_key = jax.random.split(key)
    with hooks.progress("principal directions of the archive", 1, "step"):
        measures = archive.measures.shape[1]
        params = init(shape, config, measures, archive.policies, normaliser(data), init_key)
    projection = jax.device_put(params["encoder"]["projection"], copied_to(mesh))
    state = start_state(descent, {"encoder": params["encoder"]["params"], "decoder": params["decoder"]})
    step, decode = partial(autoencoder_step, shape, training, mesh), make_decode(shape, config)

    def trained(state: TrainState) -> TrainedEncoder:
        return TrainedEncoder({"params": state.ema["encoder"], "projection": projection}, shape, config)

    def visited(state: TrainState, number: int) -> dict[str, np.ndarray]:
        latent_key, label_key, episode_key = jax.random.split(jax.random.fold_in(dagger_key, number), 3)
        posterior = trained(state).encode(archive.policies)
        drawn = draw_around(posterior, data.measures, training.loss.noise, latent_key, label_key)
        students = decode(state.ema["decoder"], *drawn)
        assert visit is not None, "rounds of DAgger need rollouts"
        states = visit(students, episode_key, f"rollouts of decoded policies (DAgger {number + 1})")
        return {"states": states, "actions": act(shape.apply, archive.policies, states)}

    state, data = fit_with_dagger(
        "autoencoder",
        step,
        state,
        data,
        projection,
        steps=descent.steps,
        rounds=rounds,
        visited=visited,
        depends_on=depends_on,
        hooks=hooks,
        mesh=mesh,
        key=train_key,
    )
    return trained(state), state.ema["decoder"], data
