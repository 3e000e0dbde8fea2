"""The variational autoencoder of policies: encode to a small latent, decode through the hypernetwork."""

import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldpol.model.condition import Condition
from ldpol.model.encoder import ConvolutionEncoder, ProjectionEncoder
from ldpol.model.hypernet import BasisHead, Context, MatrixHead, NodeNetwork
from ldpol.policy import PolicyShape, fold_normaliser, unfold_normaliser
from ldpol.types import Array, Key, Params, PyTree


class AutoencoderConfig(NamedTuple):
    """Architecture of encoder and decoder.

    Attributes:
      latent: `(h, w, c)`.
      head: `basis` (mean + learned basis) or `matrix` (the published one).
      rank: basis vectors a tensor.
      context: width of what the decoder makes of latent and condition before its nodes.
      layers: residual layers of that.
      hidden: width of a node of the hypernetwork.
      rounds: rounds of message passing.
      octaves: frequencies of the measures the decoder sees; 0: it sees none.
      joint: directions in which it sees all measures together.
      encoder: `projection` or `convolution` (the published one).
      coordinates: principal coordinates a tensor the projection encoder sees.
      encoder_hidden: width of its MLP.
      normalise: whether both see policies as they act on normalised observations. Where one observation is a thousand
        times larger than another, a raw weight says little of what it does.
    """

    latent: tuple[int, int, int] = (4, 4, 1)
    head: Literal["basis", "matrix"] = "basis"
    rank: int = 24
    context: int = 128
    layers: int = 1
    hidden: int = 32
    rounds: int = 1
    octaves: int = 5
    joint: int = 32
    encoder: Literal["projection", "convolution"] = "projection"
    coordinates: int = 32
    encoder_hidden: int = 128
    normalise: bool = True


class Decoder(nn.Module):
    """Latent `[h, w, c]` and condition to the parameters of one policy."""

    shape: PolicyShape
    config: AutoencoderConfig

    @nn.compact
    def __call__(self, latent: Array, condition: Condition) -> Params:
        """Return the policy's parameter pytree."""
        tensors = self.shape.tensors
        flat = latent.reshape(-1)
        config = self.config
        context = Context(config.context, config.layers, config.octaves, config.joint)(flat, condition)
        nodes = NodeNetwork(tensors, config.hidden, config.rounds)(context)
        head = BasisHead(tensors, config.rank) if config.head == "basis" else MatrixHead(tensors)
        policy = jax.tree.unflatten(jax.tree.structure(self.shape.abstract()), head(nodes, context))
        if not config.normalise:
            return policy
        size = self.shape.observation_size
        centre, spread = (
            self.param("centre", nn.initializers.zeros, size),
            self.param("spread", nn.initializers.ones, size),
        )
        return fold_normaliser(policy, *jax.lax.stop_gradient((centre, spread)))  # statistics, not weights


class Encoder(nn.Module):
    """One policy's parameters to mean and log-variance `[h, w, c]` of its latent."""

    shape: PolicyShape
    config: AutoencoderConfig

    @nn.compact
    def __call__(self, policy: Params) -> tuple[Array, Array]:
        """Encode one policy."""
        config, tensors = self.config, self.shape.tensors
        if config.encoder == "projection":
            net = ProjectionEncoder(tensors, config.coordinates, config.encoder_hidden, config.latent)
        else:
            net = ConvolutionEncoder(tensors, (32, 64, 64, 128, 128), config.latent)
        if config.normalise:
            size = self.shape.observation_size
            centre = self.variable("projection", "centre", jnp.zeros, size).value
            spread = self.variable("projection", "spread", jnp.ones, size).value
            policy = unfold_normaliser(policy, centre, spread)
        return net(jax.tree.leaves(policy))


def check_config(config: AutoencoderConfig) -> None:
    """Raise `ValueError` for settings that make no autoencoder."""
    if config.head not in ("basis", "matrix") or config.encoder not in ("projection", "convolution"):
        raise ValueError(
            "head must be basis or matrix and encoder projection or convolution, "
            f"found {config.head!r} and {config.encoder!r}"
        )
    if min(*config.latent, config.rank, config.hidden, config.coordinates, config.encoder_hidden) < 1:
        raise ValueError(f"latent sides, rank, widths and coordinates must be at least 1, found {config}")


def init(
    shape: PolicyShape,
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
    check_config(config)
    encoder_key, decoder_key = jax.random.split(key)
    one = jax.tree.map(lambda leaf: leaf[0], policies)
    condition = Condition(jnp.zeros(measures), jnp.ones(measures))
    # This runs on the host, once; op by op it would compile for several times as long.
    encoder = jax.jit(Encoder(shape, config).init)(encoder_key, one)
    decoder = jax.jit(Decoder(shape, config).init)(decoder_key, jnp.zeros(config.latent), condition)["params"]
    return warm_start(config, policies, normaliser, encoder, decoder)


def warm_start(
    config: AutoencoderConfig, policies: Params, normaliser: tuple[Array, Array], encoder: PyTree, decoder: PyTree
) -> PyTree:
    """Fill means, bases and projections in from the statistics of N policies; runs on the host, once."""
    head_name = "BasisHead_0" if config.head == "basis" else "MatrixHead_0"
    head = dict(decoder[head_name])
    encoder_name = "ProjectionEncoder_0" if config.encoder == "projection" else "ConvolutionEncoder_0"
    projection = dict(encoder["projection"][encoder_name])
    statistics: PyTree = {}
    if config.normalise:
        statistics = {name: jnp.asarray(value) for name, value in zip(("centre", "spread"), normaliser, strict=True)}
        policies = jax.jit(jax.vmap(unfold_normaliser, (0, None, None)))(policies, *normaliser)
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


def draw_around(
    posterior: tuple[Array, Array], measures: Array, noise: float, latent_key: Key, measure_key: Key
) -> tuple[Array, Array]:
    """Draw what a decoder is given for policies: latents from their posteriors, and measures that are not quite theirs.

    Args:
      posterior: mean and standard deviation `[..., h, w, c]` of the latents.
      measures: `[..., M]`.
      noise: standard deviation of the noise on them.
      latent_key, measure_key: decide the two.
    """
    mean, deviation = posterior
    latent = mean + deviation * jax.random.normal(latent_key, mean.shape)
    return latent, measures + noise * jax.random.normal(measure_key, measures.shape)


def kl_divergence(mean: Array, log_variance: Array) -> Array:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)), summed over the latent, in nats."""
    return 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1.0 - log_variance)


def decoder_bytes(decoder: PyTree) -> int:
    """Return the bytes of the decoder's parameters, statistics included."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(decoder))


def latent_size(config: AutoencoderConfig) -> int:
    """Return the numbers in one latent."""
    return math.prod(config.latent)
