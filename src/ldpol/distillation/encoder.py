"""Encoders: a policy to the mean and log-variance of its latent. Only training needs them."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from ldpol.model.decoder import AutoencoderConfig, first_layer
from ldpol.networks import Network, unfold_normaliser
from ldpol.types import Array, Key, Params, PyTree


class Encoder(nn.Module):
    """One policy's parameters to mean and log-variance `[h, w, c]` of its latent."""

    shape: Network
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
            policy = unfold_normaliser(policy, centre, spread, first_layer(self.shape))
        return net(jax.tree.leaves(policy))


class ProjectionEncoder(nn.Module):
    """Per-layer projections onto principal coordinates, then an MLP.

    `autoencoder.warm_start` sets mean and projections to the archive's whitened principal directions; gradients do
    not touch them.

    Attributes:
      tensors: shapes of the policy's tensors.
      coordinates: principal coordinates kept of each tensor.
      hidden: width of the MLP.
      latent: `(h, w, c)`.
    """

    tensors: tuple[tuple[int, ...], ...]
    coordinates: int
    hidden: int
    latent: tuple[int, int, int]

    @nn.compact
    def __call__(self, leaves: list[Array]) -> tuple[Array, Array]:
        """Return mean and log-variance `[h, w, c]` of one policy given as tensors in pytree order."""
        parts = []
        for t, leaf in enumerate(leaves):
            size = leaf.size
            mean = self.variable("projection", f"mean_{t}", jnp.zeros, (size,)).value
            matrix = self.variable("projection", f"matrix_{t}", jnp.zeros, (size, min(self.coordinates, size))).value
            parts.append((leaf.reshape(-1) - mean) @ matrix)
        x = jnp.concatenate(parts)
        for _ in range(2):
            x = nn.silu(nn.Dense(self.hidden)(x))
        return split_moments(nn.Dense(2 * math.prod(self.latent))(x), self.latent)


class ConvolutionEncoder(nn.Module):
    """The published encoder: a small CNN per weight matrix, an MLP per vector, on standardised parameters.

    `autoencoder.warm_start` sets the mean and std that standardise.

    Attributes:
      tensors: shapes of the policy's tensors.
      channels: of the successive 3x3 convolutions, each followed by 2x2 max-pooling until a side would vanish.
      latent: `(h, w, c)`.
    """

    tensors: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]
    latent: tuple[int, int, int]

    @nn.compact
    def __call__(self, leaves: list[Array]) -> tuple[Array, Array]:
        """Return mean and log-variance `[h, w, c]` of one policy given as tensors in pytree order."""
        parts = []
        for t, leaf in enumerate(leaves):
            mean = self.variable("projection", f"mean_{t}", jnp.zeros, (leaf.size,)).value
            std = self.variable("projection", f"std_{t}", jnp.ones, (leaf.size,)).value
            x = (leaf - mean.reshape(leaf.shape)) / std.reshape(leaf.shape)
            if x.ndim == 1:
                for _ in range(2):
                    x = nn.leaky_relu(nn.Dense(64)(x))
                x = nn.Dense(64)(x)
            else:
                x = x[..., None]
                for width in self.channels:
                    x = nn.leaky_relu(nn.Dense(width)(neighbourhoods(x)))
                    if min(x.shape[:2]) >= 2:
                        x = halve(x)
            parts.append(x.reshape(-1))
        return split_moments(nn.Dense(2 * math.prod(self.latent))(jnp.concatenate(parts)), self.latent)


def neighbourhoods(x: Array) -> Array:
    """Return the 3x3 surroundings `[h, w, 9 c]` of each pixel of `[h, w, c]`, zero beyond the edge.

    A dense layer on them is a convolution. On a CPU it trains many times faster than the general one, whose weight
    gradient XLA leaves to a slow path (`benchmarks/training.py`).
    """
    h, w, _ = x.shape
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], -1)


def halve(x: Array) -> Array:
    """Return the largest of each 2x2 block of `[h, w, c]`; an odd last row or column is left out."""
    h, w, c = x.shape
    return x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c).max((1, 3))


def split_moments(moments: Array, latent: tuple[int, int, int]) -> tuple[Array, Array]:
    """Split a vector `[2 h w c]` into mean and bounded log-variance, each `[h, w, c]`."""
    mean, log_variance = jnp.split(moments, 2)
    return mean.reshape(latent), jnp.clip(log_variance, -12.0, 4.0).reshape(latent)


@struct.dataclass
class Posterior:
    """What an encoder knows of the latents of N policies.

    Attributes:
      mean: `[N, h, w, c]`.
      deviation: `[N, h, w, c]` standard deviations.
    """

    mean: Array
    deviation: Array


@struct.dataclass
class TrainedEncoder:
    """An encoder with its numbers.

    Attributes:
      variables: trained parameters and fixed projections.
      shape: architecture of the policies.
      config: architecture of the encoder.
    """

    variables: PyTree
    shape: Network = struct.field(pytree_node=False)
    config: AutoencoderConfig = struct.field(pytree_node=False)

    def encode(self, policies: Params) -> Posterior:
        """Return the posterior of the latents of N policies; compiles by itself."""
        mean, log_variance = _encode_all(Encoder(self.shape, self.config), self.variables, policies)
        return Posterior(mean, jnp.exp(0.5 * log_variance))


@partial(jax.jit, static_argnums=0)
def _encode_all(encoder: Encoder, variables: PyTree, policies: Params) -> tuple[Array, Array]:
    return jax.lax.map(partial(encoder.apply, variables), policies, batch_size=64)


def draw_around(
    posterior: Posterior, measures: Array, noise: float, latent_key: Key, measure_key: Key
) -> tuple[Array, Array]:
    """Draw what a decoder is given for policies: latents from their posteriors, and measures that are not quite theirs.

    Args:
      posterior: of the latents.
      measures: `[..., M]`.
      noise: standard deviation of the noise on them.
      latent_key, measure_key: decide the two.
    """
    latent = posterior.mean + posterior.deviation * jax.random.normal(latent_key, posterior.mean.shape)
    return latent, measures + noise * jax.random.normal(measure_key, measures.shape)
