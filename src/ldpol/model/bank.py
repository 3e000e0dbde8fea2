"""What the diffusion model is a model of: the elites' latents with their measures painted beside them.

A decoder that sees measures must be told all of them, also where a request leaves some free, or speaks of something
else. So the denoiser makes them up together with the latent: its image has one channel more, in which the measures are
repeated.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.model.autoencoder import AutoencoderConfig
from ldpol.model.condition import Condition
from ldpol.model.diffusion import Schedule
from ldpol.types import Array


def image(latent: Array, measures: Array) -> Array:
    """Paint measures `[M]` beside a latent: `[h, w, c]` to `[h, w, c + 1]`; they take turns in the last channel.

    Raises:
      ValueError: if the latent has fewer places than there are measures.
    """
    h, w, _ = latent.shape
    if measures.shape[0] > h * w:
        raise ValueError(f"a latent of {h} x {w} has no room for {measures.shape[0]} measures; make it larger")
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
    """Return the latent `[h, w, c]` and the measures `[M]` in [0, 1] of an image; asked ones are as they were asked."""
    if not config.octaves:
        return painted, condition.measures
    latent, found = read_image(painted, condition.measures.shape[0])
    return latent, jnp.where(condition.given > 0, condition.measures, jnp.clip(found, 0.0, 1.0))


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
        return self.centre + self.scale * standardised


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
    scale = jnp.sqrt(jnp.mean((mean - centre) ** 2 + spread**2, (0, 1, 2)))
    return (mean - centre) / scale, spread / scale, Scaling(centre, scale)


@struct.dataclass
class CaptionBank:
    """P captions of each of N elites, for a model that takes text; a caption makes some of L claims.

    Attributes:
      texts: `[N, P, L]` what a reader understands of each caption.
      said: `[N, P, L]` 1.0 for the claims that it makes.
      truth: `[N, L]` log-likelihood of each claim for each elite: 0 where it is true.
    """

    texts: Array
    said: Array
    truth: Array


@struct.dataclass
class LatentBank:
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
    captions: CaptionBank | None = None


def build_bank(
    config: AutoencoderConfig,
    mean: Array,
    deviation: Array,
    measures: Array,
    noise: float,
    weights: Array,
    fitness: np.ndarray,
    captions: CaptionBank | None = None,
) -> tuple[LatentBank, Scaling]:
    """Put together what the denoiser is trained on.

    Args:
      config: of the autoencoder, which says whether the decoder sees measures.
      mean: `[N, h, w, c]` of the latents' posteriors.
      deviation: `[N, h, w, c]` their standard deviations.
      measures: `[N, M]` scaled to [0, 1].
      noise: standard deviation of the noise that the decoder bears on them.
      weights: `[N]` how often each elite is drawn.
      fitness: `[N]` re-evaluated.
      captions: of the elites.

    Returns:
      The bank, and the scaling that leads back from its images.
    """
    if config.octaves:
        count = measures.shape[1]
        # So that their mean over all places is as noisy as the decoder bears. Less noise would give away which elite an
        # image is of, and make of the latent a function of measures that no network of this size can follow.
        repeated = noise * math.sqrt(math.prod(config.latent[:2]) / count)
        mean = jax.vmap(image)(mean, measures)
        deviation = jax.vmap(image, (0, None))(deviation, jnp.full(count, repeated))
    mean, deviation, scaling = standardise(mean, deviation)
    quality = (np.argsort(np.argsort(fitness)) + 0.5) / len(fitness)
    return LatentBank(mean, deviation, measures, weights, jnp.asarray(quality, jnp.float32), captions), scaling


class Spread(NamedTuple):
    """Standard deviations of what is asked for around what an elite is.

    Attributes:
      measures: in measure units scaled to [0, 1].
      quality: in quantiles.
    """

    measures: float
    quality: float


def agreement(bank: LatentBank, spread: Spread, condition: Condition, said: Array | None) -> Array:
    """Return how well each elite answers a condition, as log-likelihoods `[N]` up to a constant.

    Asked measures and ranks are an elite's own with Gaussian noise; a caption is as likely for an elite as all of its
    claims are true. What is left free says nothing.

    Args:
      bank: the elites.
      spread: noise of what is asked for.
      condition: what is asked for.
      said: `[L]` the claims that the condition's text makes; None for a model without language.
    """
    away = ((condition.measures - bank.measures) ** 2) @ condition.given / spread.measures**2
    away += condition.quality_given * (condition.quality - bank.quality) ** 2 / spread.quality**2
    if said is None or bank.captions is None:
        return -0.5 * away
    return -0.5 * away + condition.text_given * (bank.captions.truth @ said)


def posterior_mean(
    schedule: Schedule,
    bank: LatentBank,
    spread: Spread,
    x: Array,
    t: Array,
    condition: Condition,
    said: Array | None = None,
) -> Array:
    """Return E[x_0 | x_t, condition] over all elites in closed form, `[h, w, C]`: what a perfect denoiser says.

    A clean image is a draw from the mixture of the elites' Gaussians, its condition what `agreement` says of the
    elite; given both, the elites' responsibilities and each one's posterior mean are closed forms. As a
    regression target it has no variance left, where the sample the noise was added to has much (the stable target
    field of Xu et al. 2023, here with the whole data set as its reference batch, and conditional).

    Args:
      schedule: the noise schedule.
      bank: the elites.
      spread: noise of what is asked for.
      x: `[h, w, C]` the noisy image.
      t: `[]` its noise level.
      condition: what is asked for.
      said: `[L]` the claims that the condition's text makes.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    flat, means, own = x.reshape(-1), bank.mean.reshape(bank.mean.shape[0], -1), bank.deviation.reshape(-1) ** 2
    variance = sigma**2 + alpha**2 * own
    # |x - alpha mu|^2 / variance without its constant term, as two products instead of N x L differences.
    fit = means @ (alpha * flat / variance) - 0.5 * (means**2) @ (alpha**2 / variance)
    share = jax.nn.softmax(jnp.log(bank.weights) + fit + agreement(bank, spread, condition, said))
    centre = share @ means
    return (centre + alpha * own / variance * (flat - alpha * centre)).reshape(x.shape)
