"""Running mean and variance as a pure value: merged, never mutated."""

import jax.numpy as jnp
from flax import struct

from ldpol.types import Array

_LEAST_VARIANCE = 1e-4


@struct.dataclass
class Moments:
    """Mean and variance of everything seen so far, per feature.

    Attributes:
      mean: `[...]`.
      variance: `[...]` of the population (divided by the count).
      count: `[]` samples; a float, for it outgrows an int32.
    """

    mean: Array
    variance: Array
    count: Array

    @property
    def std(self) -> Array:
        """`[...]` what normalising divides by, at least 0.01.

        A feature that hardly moves is thus not blown up. The floor, unlike clipping what comes out, leaves normalising
        affine, so that `networks.fold_normaliser` is exact.
        """
        return jnp.sqrt(jnp.maximum(self.variance, _LEAST_VARIANCE))

    def normalise(self, x: Array) -> Array:
        """Return a sample `x` `[...]` so that all of them have mean 0 and standard deviation 1 per feature."""
        return (x - self.mean) / self.std

    def denormalise(self, x: Array) -> Array:
        """Return the `x` that `normalise` was given; its inverse."""
        return self.mean + self.std * x


def no_moments(shape: tuple[int, ...]) -> Moments:
    """Return the moments of nothing: normalising with them changes nothing, merging with them neither."""
    return Moments(jnp.zeros(shape), jnp.ones(shape), jnp.zeros(()))


def moments_of(x: Array) -> Moments:
    """Return the moments of samples `[N, ...]` over their first axis."""
    return Moments(x.mean(0), x.var(0), jnp.asarray(x.shape[0], jnp.float32))


def merge(one: Moments, other: Moments) -> Moments:
    """Return the moments of two sets of samples together (Chan, Golub and LeVeque 1983, the pairwise update).

    The order does not matter beyond rounding; the union of two empty sets is empty.
    """
    count = one.count + other.count
    share = other.count / jnp.maximum(count, 1.0)
    apart = other.mean - one.mean
    variance = (1.0 - share) * one.variance + share * other.variance + share * (1.0 - share) * apart**2
    return Moments(one.mean + share * apart, variance, count)


def pooled(moments: Moments) -> Moments:
    """Return the moments `[...]` of D sets of equally many samples together, given those of each `[D, ...]`."""
    mean = moments.mean.mean(0)
    return Moments(mean, (moments.variance + (moments.mean - mean[None]) ** 2).mean(0), moments.count.sum(0))
