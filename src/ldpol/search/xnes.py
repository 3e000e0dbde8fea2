"""Exponential natural evolution strategy: search with a full Gaussian, which it adapts in its own coordinates.

xNES is of Glasmachers, Schaul, Sun, Wierstra and Schmidhuber, "Exponential natural evolution strategies", GECCO 2010;
defaults and utilities as in Wierstra et al., "Natural evolution strategies", JMLR 2014. A round is ask, evaluate, tell.
"""

import math
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike

from ldpol.errors import UserError
from ldpol.settings import check, fail
from ldpol.types import Array, Key


@dataclass(frozen=True)
class XNESConfig:
    """Settings of the search; D is its dimension.

    Attributes:
      sigma: standard deviation in every direction at the start.
      population: samples a round, N; None for the published 4 + floor(3 ln D).
      mean_rate: learning rate of the mean.
      sigma_rate: learning rate of the overall scale; None for the published (9 + 3 ln D) / (5 D^(3/2)).
      shape_rate: learning rate of the scale matrix apart from its determinant; None as above.
      min_scale: converged when every standard deviation is below; float32 still tells samples of order 10 apart.
      max_condition: converged when the longest axis is this many times the shortest; float32 resolves a little more.
    """

    sigma: float = 1.0
    population: int | None = None
    mean_rate: float = 1.0
    sigma_rate: float | None = None
    shape_rate: float | None = None
    min_scale: float = 1e-5
    max_condition: float = 1e5

    def __post_init__(self) -> None:
        """Check the settings."""
        rates = dict.fromkeys(("mean_rate", "sigma_rate", "shape_rate", "min_scale"), 0)
        check(self, least={"population": 2, **rates}, above={"sigma": 0, "max_condition": 1})
        if self.min_scale >= self.sigma:
            fail(self, "min_scale", f"must be less than sigma = {self.sigma:g}, found {self.min_scale:g}")


@struct.dataclass
class XNESState:
    """The search distribution N(mean, scale scale^T).

    Attributes:
      mean: `[D]`.
      scale: `[D, D]` the paper's A = sigma B; in general not symmetric.
    """

    mean: Array
    scale: Array


def population_size(config: XNESConfig, dimension: int) -> int:
    """Return the samples a round, N."""
    return 4 + int(3 * math.log(dimension)) if config.population is None else config.population


def init(config: XNESConfig, mean: ArrayLike) -> XNESState:
    """Return the isotropic distribution around `mean` `[D]`.

    Raises:
      ValueError: if `mean` is not a vector.
    """
    mean = jnp.asarray(mean, float)
    if mean.ndim != 1 or mean.size == 0:
        raise UserError(f"xNES starts from a vector with at least one entry, found shape {mean.shape}")
    return XNESState(mean=mean, scale=config.sigma * jnp.eye(mean.size, dtype=mean.dtype))


def ask(config: XNESConfig, state: XNESState, key: Key) -> tuple[Array, Array]:
    """Draw samples x = mean + A z `[N, D]` to evaluate, and their standard-normal z `[N, D]` for `tell`."""
    dimension = state.mean.size
    draws = jax.random.normal(key, (population_size(config, dimension), dimension), state.mean.dtype)
    with jax.default_matmul_precision("highest"):  # or a GPU rounds to TF32, and values belong to other points than z
        return state.mean[None] + draws @ state.scale.T, draws


def utilities(values: Array) -> Array:
    """Return what each of `[N]` values weighs, given by ranks alone and summing to zero (JMLR 2014, section 3.1).

    The k-th highest weighs max(0, ln(N/2 + 1) - ln k), normalised, less 1/N. Equal values, infinite ones too, get the
    mean over the ranks they occupy: order decides nothing, a population of equals moves nothing. NaN counts as -inf.
    """
    rank = np.arange(values.size)
    raw = np.maximum(0.0, np.log(values.size / 2 + 1) - np.log(rank + 1))
    values = jnp.where(jnp.isnan(values), -jnp.inf, values)
    better = (values[None, :] > values[:, None]).sum(1, keepdims=True)
    equal = (values[None, :] == values[:, None]).sum(1, keepdims=True)
    occupied = (better <= rank[None]) & (rank[None] < better + equal)
    weights = raw / raw.sum() - 1 / values.size
    return jnp.where(occupied, weights[None], 0.0).sum(1) / equal[:, 0]


def tell(config: XNESConfig, state: XNESState, draws: Array, values: Array) -> XNESState:
    """Follow the natural gradient for one step (GECCO 2010, algorithm 1).

    Args:
      config: settings.
      state: the distribution that was asked.
      draws: `[N, D]` z as `ask` gave them: exact where solving for them through an ill-conditioned A is not.
      values: `[N]` what the samples were worth, higher is better; `utilities` says what ties and non-finite ones do.
    """
    dimension = state.mean.size
    size = population_size(config, dimension)
    chex.assert_shape([state.scale, draws, values], [(dimension, dimension), (size, dimension), (size,)])
    published = (9 + 3 * math.log(dimension)) / (5 * dimension**1.5)
    sigma_rate = published if config.sigma_rate is None else config.sigma_rate
    shape_rate = published if config.shape_rate is None else config.shape_rate
    weights = utilities(values).astype(draws.dtype)
    with jax.default_matmul_precision("highest"):
        # The paper's sum of u_k (z_k z_k^T - I): utilities sum to zero, so that the identity drops out.
        gradient = (weights[:, None] * draws).T @ draws
        growth = jnp.trace(gradient) / dimension * jnp.eye(dimension, dtype=draws.dtype)
        # The step is symmetric, and its exponential no more than that of its eigenvalues.
        stretch, axes = jnp.linalg.eigh((sigma_rate * growth + shape_rate * (gradient - growth)) / 2)
        mean = state.mean + config.mean_rate * (state.scale @ (weights @ draws))
        scale = state.scale @ ((axes * jnp.exp(stretch)[None]) @ axes.T)
    return XNESState(mean=mean, scale=scale)


def converged(config: XNESConfig, state: XNESState) -> Array:
    """Return `[]` whether to restart: the distribution is a point, a needle or disc too thin, or not finite."""
    lengths = jnp.linalg.svd(state.scale, compute_uv=False)  # of the axes, longest first
    alive = (lengths[0] > config.min_scale) & (lengths[0] < config.max_condition * lengths[-1])
    return ~(alive & jnp.isfinite(state.mean).all())  # every comparison with NaN is false, and so it ends here as well
