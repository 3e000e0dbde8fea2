"""The conditional variational autoencoder alone: our decoder, its latent drawn from a prior instead of by diffusion."""

from typing import Literal

import jax
from flax import struct

from ldpol.archive import Tessellation
from ldpol.baselines import conditional
from ldpol.baselines.conditional import ConditionalGaussian
from ldpol.errors import UserError
from ldpol.generator import PolicyGenerator
from ldpol.model.condition import make_condition
from ldpol.model.decoder import AutoencoderConfig, Decoder, latent_size
from ldpol.networks import Network
from ldpol.precision import expand
from ldpol.types import Array, Key, Params, PyTree


@struct.dataclass
class ConditionalDecoder:
    """A decoder and the distribution of its latents.

    Attributes:
      decoder: parameters of the hypernetwork.
      prior: of the flat latent given the measures; None is the standard normal that training pulls the latents to.
      shape: architecture of the policies.
      autoencoder: architecture of the decoder.
      grid: bounds of the measures.
    """

    decoder: PyTree
    prior: ConditionalGaussian | None
    shape: Network = struct.field(pytree_node=False)
    autoencoder: AutoencoderConfig = struct.field(pytree_node=False)
    grid: Tessellation = struct.field(pytree_node=False)


def fit(
    generator: PolicyGenerator,
    mean: Array,
    deviation: Array,
    measures: Array,
    weights: Array,
    *,
    prior: Literal["normal", "fitted"],
    octaves: int,
    directions: int,
    ridge: float,
) -> ConditionalDecoder:
    """Take the decoder of a trained generator and give it a prior.

    Args:
      generator: the trained model; its denoiser is left behind.
      mean: `[N, h, w, c]` of the latents' posteriors.
      deviation: `[N, h, w, c]` their standard deviations.
      measures: `[N, M]` in task units.
      weights: `[N]` how much each counts.
      prior: `normal`, or `fitted`: a Gaussian of the latents given the measures, posterior noise included.
      octaves, directions, ridge: of the fit, see `conditional.fit`.

    Raises:
      ValueError: for another prior.
    """
    if prior not in ("normal", "fitted"):
        raise UserError(f"the prior must be normal or fitted, found {prior!r}")
    fitted = None
    if prior == "fitted":
        count = mean.shape[0]
        own = (deviation.reshape(count, -1) ** 2 * weights[:, None]).mean(0)
        places = generator.grid.scaled(measures)
        flat = mean.reshape(count, -1)
        fitted = conditional.fit(
            flat, places, weights, octaves=octaves, directions=directions, ridge=ridge, variance=own
        )
    return ConditionalDecoder(generator.decoder, fitted, generator.shape, generator.autoencoder, generator.grid)


def generate(model: ConditionalDecoder, key: Key, measures: Array) -> Params:
    """Draw one policy for measures `[M]` in task units."""
    model = expand(model)
    place = model.grid.scaled(measures)
    if model.prior is None:
        latent = jax.random.normal(key, (latent_size(model.autoencoder),))
    else:
        latent = conditional.draw(model.prior, key, place)
    latent = latent.reshape(model.autoencoder.latent)
    return Decoder(model.shape, model.autoencoder).apply({"params": model.decoder}, latent, make_condition(place))
