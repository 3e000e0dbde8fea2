"""The denoising network: a conditional MLP or UNet on the latent."""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldpol.errors import UserError
from ldpol.model.condition import Condition, ConditionEmbedding
from ldpol.settings import check, fail
from ldpol.types import Array


@dataclass(frozen=True)
class DenoiserConfig:
    """Architecture of the denoising network.

    Attributes:
      network: `mlp` or `unet`. What is hard about these latents is which of them belong to which measures, not their
        16 places: by `benchmarks/denoisers.py` an MLP comes nearer to the perfect denoiser in less time.
      channels: of each resolution of the UNet; every further one halves the latent's sides.
      embedding: width of the embedding of noise level and condition.
      octaves: frequencies of the measure features.
      joint: directions in which all measures are seen together.
      hidden: width of the MLP's layers.
      layers: how many of them.
    """

    network: Literal["mlp", "unet"] = "mlp"
    channels: tuple[int, ...] = (16, 32)
    embedding: int = 128
    octaves: int = 7
    joint: int = 256
    hidden: int = 128
    layers: int = 3

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"channels": 1, "embedding": 1, "octaves": 1, "joint": 1, "hidden": 1, "layers": 0})
        if not self.channels:
            fail(self, "channels", "is empty; give at least one resolution")


class Convolution(nn.Module):
    """A 3x3 same-padding convolution on one item `[h, w, c]`, as one matrix product.

    On latents of 4x4 and 2x2 the whole convolution is a small dense matrix between flattened images. On a CPU the
    product trains 20 to 40 times faster than the general convolution, whose weight gradient XLA leaves to a slow path,
    and the UNet as a whole 6 times (`benchmarks/training.py`).

    Attributes:
      channels: output channels.
      zero: start at zero, for the last layer of a residual branch.
    """

    channels: int
    zero: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return `[h, w, channels]`."""
        h, w, c = x.shape
        start = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", start, (3, 3, c, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        matrix = jnp.einsum("kpq,kio->piqo", jnp.asarray(_taps(h, w)), kernel.reshape(9, c, self.channels))
        out = x.reshape(-1) @ matrix.reshape(h * w * c, h * w * self.channels)
        return out.reshape(h, w, self.channels) + bias[None, None]


def _taps(h: int, w: int) -> np.ndarray:
    """Say which input pixel each of the 9 kernel entries carries to which output pixel; `[9, hw, hw]`."""
    taps = np.zeros((9, h * w, h * w), np.float32)
    for di in range(3):
        for dj in range(3):
            for i in range(h):
                for j in range(w):
                    y, x = i + di - 1, j + dj - 1
                    if 0 <= y < h and 0 <= x < w:
                        taps[di * 3 + dj, y * w + x, i * w + j] = 1.0
    return taps


class ResidualBlock(nn.Module):
    """Two convolutions around a feature-wise affine map (FiLM) that the embedding sets."""

    channels: int

    @nn.compact
    def __call__(self, x: Array, embedding: Array) -> Array:
        """Return `[h, w, channels]`."""
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels)(x)  # before the convolutions, whose cost grows with the width they read
        y = Convolution(self.channels)(nn.silu(GroupNorm()(x)))
        scale, shift = jnp.split(nn.Dense(2 * self.channels, kernel_init=nn.initializers.zeros)(embedding), 2)
        y = GroupNorm()(y) * (1.0 + scale)[None, None] + shift[None, None]
        return x + Convolution(self.channels, zero=True)(nn.silu(y))


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) of one item `[h, w, c]`, eight groups of channels at most.

    Sums over a group are products with a constant matrix, which on a CPU XLA does faster than reductions over short
    axes.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return `[h, w, c]` with mean 0 and variance 1 in each group, then scaled and shifted by channel."""
        h, w, c = x.shape
        groups = math.gcd(c, 8)
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        member = jnp.asarray(np.tile(np.repeat(np.eye(groups, dtype=np.float32), c // groups, 0), (h * w, 1)))
        share = member / (h * w * c // groups)
        flat = x.reshape(-1)
        centred = flat - member @ (flat @ share)
        inverse = jax.lax.rsqrt((centred**2) @ share + 1e-6)
        return (centred * (member @ inverse)).reshape(x.shape) * scale[None, None] + bias[None, None]


class UNet(nn.Module):
    """Noisy latent `[h, w, c]`, noise level `[]` and condition to an output `[h, w, c]`."""

    config: DenoiserConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Condition) -> Array:
        """Evaluate the network for one item."""
        embedding = _embed(self.config, t, condition)
        h, w, c = x.shape
        skips = []
        y = Convolution(self.config.channels[0])(x)
        for level, width in enumerate(self.config.channels):
            if level:
                y = y.reshape(y.shape[0] // 2, 2, y.shape[1] // 2, 2, -1).mean((1, 3))
            y = ResidualBlock(width)(y, embedding)
            skips.append(y)
        skips.pop()
        for width in reversed(self.config.channels[:-1]):
            y = jnp.repeat(jnp.repeat(y, 2, 0), 2, 1)
            y = ResidualBlock(width)(jnp.concatenate([y, skips.pop()], -1), embedding)
        # What the condition alone says of the latent need not pass through the normalised feature maps.
        direct = nn.Dense(x.size, kernel_init=nn.initializers.zeros)(embedding).reshape(x.shape)
        return Convolution(c, zero=True)(nn.silu(GroupNorm()(y))) + direct


class MLP(nn.Module):
    """The same map as `UNet` by dense layers around a feature-wise affine map (FiLM) that the embedding sets."""

    config: DenoiserConfig

    @nn.compact
    def __call__(self, x: Array, t: Array, condition: Condition) -> Array:
        """Evaluate the network for one item."""
        embedding = _embed(self.config, t, condition)
        y = nn.Dense(self.config.hidden)(x.reshape(-1))
        for _ in range(self.config.layers):
            z = nn.LayerNorm()(y)
            scale, shift = jnp.split(nn.Dense(2 * self.config.hidden)(embedding), 2)
            y = y + nn.Dense(self.config.hidden)(nn.silu(nn.Dense(self.config.hidden)(z) * (1.0 + scale) + shift))
        return nn.Dense(x.size, kernel_init=nn.initializers.zeros)(nn.silu(y)).reshape(x.shape)


def _embed(config: DenoiserConfig, t: Array, condition: Condition) -> Array:
    """Embed noise level `[]` in [0, 1] and condition into one vector `[embedding]`."""
    angles = t * jnp.pi * 2.0 ** jnp.arange(6)
    level = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), t[None]])
    mixed = ConditionEmbedding(config.embedding, config.octaves, config.joint, True, name="condition")(condition)
    mixed += nn.Dense(config.embedding)(nn.silu(mixed)) + nn.Dense(config.embedding)(level)
    return nn.silu(nn.Dense(config.embedding)(nn.silu(mixed)))


def make_network(config: DenoiserConfig, latent: tuple[int, int, int]) -> nn.Module:
    """Return the network of a config.

    Raises:
      ValueError: if the network is unknown or the latent's sides cannot be halved often enough.
    """
    if config.network not in ("mlp", "unet"):
        raise UserError(f"denoiser.network must be mlp or unet, found {config.network!r}")
    factor = 2 ** (len(config.channels) - 1)
    if config.network == "unet" and (latent[0] % factor or latent[1] % factor):
        raise UserError(
            f"a UNet of {len(config.channels)} resolutions needs latent sides divisible by {factor}, found {latent[:2]}"
        )
    return UNet(config) if config.network == "unet" else MLP(config)
