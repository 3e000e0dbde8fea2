"""Principal components of the parameters, and a Gaussian of their coefficients given the measures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.archive import Tessellation
from ldpol.baselines import conditional
from ldpol.baselines.conditional import ConditionalGaussian
from ldpol.distillation.autoencoder import principal_directions
from ldpol.errors import UserError
from ldpol.networks import Network
from ldpol.precision import expand
from ldpol.types import Array, Key, Params


@struct.dataclass
class PrincipalGaussian:
    """Parameters = mean + coefficients @ basis.

    Attributes:
      mean: `[P]`.
      basis: `[K, P]` principal directions times their standard deviations.
      coefficients: their distribution given the measures.
      shape: architecture of the policies.
      grid: bounds of the measures.
      temperature: of the draws; 0 gives the mean policy for the measures.
    """

    mean: Array
    basis: Array
    coefficients: ConditionalGaussian
    shape: Network = struct.field(pytree_node=False)
    grid: Tessellation = struct.field(pytree_node=False)
    temperature: float = struct.field(pytree_node=False, default=1.0)


def fit(
    grid: Tessellation,
    shape: Network,
    policies: Params,
    measures: Array,
    weights: Array,
    *,
    components: int,
    octaves: int,
    directions: int,
    ridge: float,
    temperature: float = 1.0,
) -> PrincipalGaussian:
    """Fit both in closed form; runs on the host, once.

    Args:
      grid: of the archive.
      shape: architecture of the policies.
      policies: N policies, leading axis on every leaf.
      measures: `[N, M]` what they do, in task units.
      weights: `[N]` how much each counts for the coefficients.
      components: K, fewer than N.
      octaves, directions, ridge: of the regression, see `conditional.fit`.
      temperature: of the draws.

    Raises:
      ValueError: if there are not enough policies for the components.
    """
    vectors = np.asarray(jax.vmap(shape.flatten)(policies))
    if not 1 <= components < vectors.shape[0]:
        raise UserError(f"{vectors.shape[0]} policies have fewer than {components} principal components")
    mean = vectors.mean(0)
    directions_, scales = principal_directions(vectors - mean, components)
    values = (vectors - mean) @ directions_.T / np.maximum(scales, 1e-12)
    coefficients = conditional.fit(
        jnp.asarray(values), grid.scaled(measures), weights, octaves=octaves, directions=directions, ridge=ridge
    )
    basis = jnp.asarray(directions_ * scales[:, None])
    return PrincipalGaussian(jnp.asarray(mean), basis, coefficients, shape, grid, temperature)


def truncate(model: PrincipalGaussian, components: int) -> PrincipalGaussian:
    """Return what `fit` would have found with fewer components: the leading blocks of everything."""
    parts = model.coefficients
    kept = dataclasses.replace(
        parts, weights=parts.weights[:, :components], factor=parts.factor[:components, :components]
    )
    return dataclasses.replace(model, basis=model.basis[:components], coefficients=kept)


def generate(model: PrincipalGaussian, key: Key, measures: Array) -> Params:
    """Draw one policy for measures `[M]` in task units."""
    model = expand(model)
    drawn = conditional.draw(model.coefficients, key, model.grid.scaled(measures), model.temperature)
    return model.shape.unflatten(model.mean + drawn @ model.basis)
