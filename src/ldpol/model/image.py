"""What the denoiser makes: a latent with its measures painted beside it.

A decoder that sees measures needs all of them, also where a request leaves some free, or speaks of something
else. So the denoiser makes them up together with the latent: its image has one channel more, in which the measures are
repeated.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.errors import UserError
from ldpol.model.condition import Condition
from ldpol.model.decoder import AutoencoderConfig
from ldpol.types import Array


def image(latent: Array, measures: Array) -> Array:
    """Paint measures `[M]` beside a latent: `[h, w, c]` to `[h, w, c + 1]`; they take turns in the last channel.

    Raises:
      ValueError: if the latent has fewer places than there are measures.
    """
    h, w, _ = latent.shape
    if measures.shape[0] > h * w:
        raise UserError(f"a latent of {h} x {w} has no room for {measures.shape[0]} measures; make it larger")
    return jnp.concatenate([latent, jnp.resize(measures, (h, w, 1))], -1)


def read_image(painted: Array, measures: int) -> tuple[Array, Array]:
    """Return the latent `[h, w, c]` and the measures `[M]` of an image, each the mean over its places."""
    places = math.prod(painted.shape[:2])
    member = np.eye(measures, dtype=np.float32)[np.arange(places) % measures]
    return painted[..., :-1], painted[..., -1].reshape(-1) @ (member / member.sum(0))


def image_shape(config: AutoencoderConfig) -> tuple[int, int, int]:
    """Return the shape of an image: the latent's, and a channel for the measures if the decoder sees them."""
    h, w, c = config.latent
    return (h, w, c + 1) if config.octaves else config.latent


def split_image(config: AutoencoderConfig, painted: Array, condition: Condition) -> tuple[Array, Array]:
    """Return the latent `[h, w, c]` and the measures `[M]` in [0, 1] of an image; those of the condition are kept."""
    if not config.octaves:
        return painted, condition.measures
    latent, found = read_image(painted, condition.measures.shape[0])
    return latent, jnp.where(condition.mask > 0, condition.measures, jnp.clip(found, 0.0, 1.0))


@struct.dataclass
class Scaling:
    """The affine map between images and what the denoiser sees: image = centre + scale * standardised.

    Attributes:
      centre: `[h, w, C]`.
      scale: `[C]`.
    """

    centre: Array
    scale: Array

    def apply(self, standardised: Array) -> Array:
        """Return the image of a standardised one."""
        return self.centre + self.scale[None, None] * standardised
