"""The decoder with one stored latent an elite: what a perfect denoiser could at most reproduce, as a table."""

import jax.numpy as jnp
from flax import struct

from ldpol.archive import Tessellation
from ldpol.generator import PolicyGenerator
from ldpol.measures import nearest
from ldpol.model.condition import make_condition
from ldpol.model.decoder import AutoencoderConfig, Decoder
from ldpol.networks import Network
from ldpol.precision import expand
from ldpol.types import Array, Key, Params, PyTree


@struct.dataclass
class LatentTable:
    """A decoder and what it is to decode.

    Attributes:
      decoder: parameters of the hypernetwork.
      latents: `[N, h, w, c]`.
      measures: `[N, M]` what the elites do.
      shape: architecture of the policies.
      autoencoder: architecture of the decoder.
      grid: bounds of the measures.
    """

    decoder: PyTree
    latents: Array
    measures: Array
    shape: Network = struct.field(pytree_node=False)
    autoencoder: AutoencoderConfig = struct.field(pytree_node=False)
    grid: Tessellation = struct.field(pytree_node=False)


def fit(generator: PolicyGenerator, mean: Array, measures: Array) -> LatentTable:
    """Keep the decoder of a trained generator and the latents of the elites.

    Args:
      generator: the trained model; its denoiser is left behind.
      mean: `[N, h, w, c]` of the latents' posteriors.
      measures: `[N, M]` what the elites do, in task units.
    """
    return LatentTable(
        generator.decoder, mean, jnp.asarray(measures), generator.shape, generator.autoencoder, generator.grid
    )


def generate(model: LatentTable, key: Key, measures: Array) -> Params:
    """Decode the latent of the elite nearest to `measures` `[M]`, for those measures; the key decides nothing."""
    del key
    model = expand(model)
    row = nearest(measures, model.measures)[0]
    decoder = Decoder(model.shape, model.autoencoder)
    return decoder.apply({"params": model.decoder}, model.latents[row], make_condition(model.grid.scaled(measures)))
