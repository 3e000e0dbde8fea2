"""What the denoiser is trained towards: the elites' latents, and the closed form of a perfect denoiser of them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.distillation.encoder import Posterior
from ldpol.model.condition import Condition
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.diffusion import Schedule
from ldpol.model.image import Scaling, image
from ldpol.types import Array


def standardise(mean: Array, deviation: Array) -> tuple[Array, Array, Scaling]:
    """Scale each channel to unit variance over all elites and places together, noise included.

    Args:
      mean: `[N, h, w, C]` of the images.
      deviation: `[N, h, w, C]` their standard deviations.

    Returns:
      Standardised means `[N, h, w, C]`, the root mean square `[h, w, C]` of the standardised deviations, and the
      scaling.
    """
    centre, spread = mean.mean(0), jnp.sqrt(jnp.mean(deviation**2, 0))
    apart = mean - centre[None]
    scale = jnp.sqrt(jnp.mean(apart**2 + spread[None] ** 2, (0, 1, 2)))
    return apart / scale[None, None, None], spread / scale[None, None], Scaling(centre, scale)


@struct.dataclass
class CaptionDataset:
    """P captions of each of N elites, for a model that takes text; a caption makes some of L claims.

    Attributes:
      texts: `[N, P, L]` what a reader understands of each caption.
      claims: `[N, P, L]` 1.0 for the claims that it makes.
      truth: `[N, L]` log-likelihood of each claim for each elite: 0 where it is true.
    """

    texts: Array
    claims: Array
    truth: Array


@struct.dataclass
class LatentDataset:
    """N elites: what the diffusion model is a model of.

    Attributes:
      mean: `[N, h, w, C]` their standardised images, see `image`.
      deviation: `[h, w, C]` noise around them, that of the posteriors and that of the measures.
      measures: `[N, M]` scaled to [0, 1].
      weights: `[N]` how often each is drawn, relative to the others.
      quality: `[N]` quantile of each elite's fitness in the archive.
      captions: of the elites; None for a model without language.
    """

    mean: Array
    deviation: Array
    measures: Array
    weights: Array
    quality: Array
    captions: CaptionDataset | None = None


def latent_dataset(
    config: AutoencoderConfig,
    posterior: Posterior,
    measures: Array,
    *,
    noise: float,
    weights: Array,
    fitness: np.ndarray,
    captions: CaptionDataset | None = None,
) -> tuple[LatentDataset, Scaling]:
    """Put together what the denoiser is trained on.

    Args:
      config: of the autoencoder, which says whether the decoder sees measures.
      posterior: of the elites' latents.
      measures: `[N, M]` scaled to [0, 1].
      noise: standard deviation of the noise added to the measures when the decoder is trained.
      weights: `[N]` how often each elite is drawn.
      fitness: `[N]` re-evaluated.
      captions: of the elites.

    Returns:
      The dataset, and the scaling that leads back from its images.
    """
    mean, deviation = posterior.mean, posterior.deviation
    if config.octaves:
        count = measures.shape[1]
        # So that their mean over all places is as noisy as the decoder bears. Less noise would give away which elite an
        # image is of, and make of the latent a function of measures that no network of this size can follow.
        repeated = noise * math.sqrt(math.prod(config.latent[:2]) / count)
        mean = jax.vmap(image)(mean, measures)
        deviation = jax.vmap(image, (0, None))(deviation, jnp.full(count, repeated))
    mean, deviation, scaling = standardise(mean, deviation)
    quality = (np.argsort(np.argsort(fitness)) + 0.5) / len(fitness)
    return LatentDataset(mean, deviation, measures, weights, jnp.asarray(quality, jnp.float32), captions), scaling


class Spread(NamedTuple):
    """Standard deviations of what is asked for around what an elite is.

    Attributes:
      measures: in measure units scaled to [0, 1].
      quality: in quantiles.
    """

    measures: float
    quality: float


def agreement(dataset: LatentDataset, spread: Spread, condition: Condition, claims: Array | None) -> Array:
    """Return how well each elite answers a condition, as log-likelihoods `[N]` up to a constant.

    Asked measures and ranks are an elite's own with Gaussian noise; a caption is as likely for an elite as all of its
    claims are true. What is left free says nothing.

    Args:
      dataset: the elites.
      spread: noise of what is asked for.
      condition: what is asked for.
      claims: `[L]` the claims that the condition's text makes; None for a model without language.
    """
    squared = ((condition.measures[None] - dataset.measures) ** 2) @ condition.mask / spread.measures**2
    squared += condition.quality_mask * (condition.quality - dataset.quality) ** 2 / spread.quality**2
    if claims is None or dataset.captions is None:
        return -0.5 * squared
    return -0.5 * squared + condition.text_mask * (dataset.captions.truth @ claims)


def posterior_mean(
    schedule: Schedule,
    dataset: LatentDataset,
    spread: Spread,
    x: Array,
    t: Array,
    condition: Condition,
    claims: Array | None = None,
) -> Array:
    """Return E[x_0 | x_t, condition] over all elites in closed form, `[h, w, C]`: what a perfect denoiser says.

    A clean image is a draw from the mixture of the elites' Gaussians, its condition what `agreement` says of the
    elite; given both, the elites' responsibilities and each one's posterior mean are closed forms. As a
    regression target it has no variance left, where the sample the noise was added to has much (the stable target
    field of Xu et al. 2023, here with the whole data set as its reference batch, and conditional).

    Args:
      schedule: the noise schedule.
      dataset: the elites.
      spread: noise of what is asked for.
      x: `[h, w, C]` the noisy image.
      t: `[]` its noise level.
      condition: what is asked for.
      claims: `[L]` the claims that the condition's text makes.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    flat, means, own = (
        x.reshape(-1),
        dataset.mean.reshape(dataset.mean.shape[0], -1),
        dataset.deviation.reshape(-1) ** 2,
    )
    variance = sigma**2 + alpha**2 * own
    # |x - alpha mu|^2 / variance without its constant term, as two products instead of N x L differences.
    fit = means @ (alpha * flat / variance) - 0.5 * (means**2) @ (alpha**2 / variance)
    share = jax.nn.softmax(jnp.log(dataset.weights) + fit + agreement(dataset, spread, condition, claims))
    centre = share @ means
    return (centre + alpha * own / variance * (flat - alpha * centre)).reshape(x.shape)
