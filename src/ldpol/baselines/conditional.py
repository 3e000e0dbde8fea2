"""A Gaussian whose mean depends on the measures: ridge regression on random Fourier features, and what is left over."""

import jax
import jax.numpy as jnp
from flax import struct

from ldpol.model.condition import joint_features
from ldpol.types import Array, Key


@struct.dataclass
class ConditionalGaussian:
    """p(x | m) = N(features(m) @ weights, factor factor^T).

    Attributes:
      weights: `[F, D]`.
      factor: `[D, D]` Cholesky factor of the covariance.
      octaves, directions: of the features.
    """

    weights: Array
    factor: Array
    octaves: int = struct.field(pytree_node=False)
    directions: int = struct.field(pytree_node=False)


def features(measures: Array, octaves: int, directions: int) -> Array:
    """Return a constant, the measures `[M]` in [0, 1] and their random Fourier features, `[1 + M + 2 directions]`."""
    waves = joint_features(measures, octaves, directions) if directions else jnp.zeros(0)
    return jnp.concatenate([jnp.ones(1), measures, waves])


def fit(
    values: Array,
    measures: Array,
    weights: Array,
    *,
    octaves: int,
    directions: int,
    ridge: float,
    variance: Array | None = None,
) -> ConditionalGaussian:
    """Fit mean and covariance in closed form.

    Args:
      values: `[N, D]`.
      measures: `[N, M]` in [0, 1].
      weights: `[N]` how much each counts, mean 1.
      octaves: frequencies of the features; the shortest wavelength is 2^(2 - octaves).
      directions: number of waves; 0 makes the mean linear.
      ridge: penalty on the waves, relative to what N observations of variance 1/2 say of them. The constant and the
        linear part have none.
      variance: `[D]` of every value itself, added to the covariance.

    Returns:
      The model; its covariance is divided by the degrees of freedom that the mean has left.
    """
    table = jax.vmap(lambda one: features(one, octaves, directions))(measures)
    count, width = table.shape
    free = 1 + measures.shape[1]
    penalty = jnp.where(jnp.arange(width) < free, 1e-6, ridge) * count / 2
    gram = table.T @ (weights[:, None] * table) + jnp.diag(penalty)
    solve = jnp.linalg.solve(gram, table.T * weights[None])
    found = solve @ values
    left = values - table @ found
    freedom = jnp.maximum(count - jnp.trace(solve @ table), 1.0)
    covariance = (weights[:, None] * left).T @ left / freedom
    if variance is not None:
        covariance += jnp.diag(variance)
    # Where values do not vary at all a Cholesky factor needs a little something.
    floor = 1e-6 * jnp.trace(covariance) / values.shape[1] + 1e-12
    factor = jnp.linalg.cholesky(covariance + floor * jnp.eye(values.shape[1]))
    return ConditionalGaussian(found, factor, octaves, directions)


def draw(model: ConditionalGaussian, key: Key, measures: Array, temperature: float = 1.0) -> Array:
    """Draw one value `[D]` for measures `[M]` in [0, 1]; temperature 0 gives the mean."""
    mean = features(measures, model.octaves, model.directions) @ model.weights
    return mean + temperature * model.factor @ jax.random.normal(key, mean.shape)
