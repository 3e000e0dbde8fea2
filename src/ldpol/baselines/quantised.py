"""The archive itself in fewer bits a number, looked up by measures: the nearest elite answers."""

import jax
from flax import struct

from ldpol.measures import nearest
from ldpol.precision import Precision, compress, expand
from ldpol.types import Array, Key, Params, PyTree


@struct.dataclass
class Stored:
    """Policies on a shelf.

    Attributes:
      policies: K policies as `precision.compress` stores them, leading axis on every leaf.
      measures: `[K, M]` what they do.
    """

    policies: PyTree
    measures: Array


def fit(policies: Params, measures: Array, precision: Precision) -> Stored:
    """Store policies.

    Args:
      policies: N policies, leading axis on every leaf.
      measures: `[N, M]` what they do: means of several fresh episodes.
      precision: of the numbers; int8 has scales for every policy.

    Raises:
      ValueError: for an unknown precision.
    """
    return Stored(jax.vmap(lambda one: compress(one, precision))(policies), measures)


def generate(model: Stored, key: Key, measures: Array) -> Params:
    """Return the stored policy whose measures are nearest to `measures` `[M]`; the key decides nothing."""
    del key
    row = nearest(measures, model.measures)[0]
    return expand(jax.tree.map(lambda leaf: leaf[row], model.policies))
