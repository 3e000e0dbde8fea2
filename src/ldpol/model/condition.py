"""What a policy is asked for: measures as tokens, each of which may be absent."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.types import Array, Key


@struct.dataclass
class Condition:
    """One request.

    Attributes:
      measures: `[M]` in [0, 1] (scaled by the grid's bounds); zero where not given.
      given: `[M]` 1.0 where a measure is asked for, 0.0 where it is left free.
    """

    measures: Array
    given: Array


def ask(measures: Array) -> Condition:
    """Turn measures `[M]` in [0, 1] into a condition; NaN leaves a measure free."""
    given = ~jnp.isnan(measures)
    return Condition(jnp.where(given, measures, 0.0), given.astype(jnp.float32))


def nothing(measures: int) -> Condition:
    """Return the condition that asks for nothing: the trained unconditional branch."""
    return Condition(jnp.zeros(measures), jnp.zeros(measures))


def joint(conditions: Sequence[Condition], scales: Array) -> Condition:
    """Return the one condition that asks for everything several ask for; negative scales ask for nothing.

    Args:
      conditions: K of them.
      scales: `[K]` their strengths in a composition.

    Raises:
      ValueError: outside of jit, if two ask for the same measure. Inside jit such a measure is left free.
    """
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *conditions)
    given = stack.given * (scales > 0)[:, None]
    count = given.sum(0)
    if not isinstance(count, jax.core.Tracer) and (count > 1).any():
        numbers = [int(i) for i in np.flatnonzero(np.asarray(count) > 1)]
        raise ValueError(
            f"several conditions ask for the same measure (number {', '.join(map(str, numbers))}, counted from 0), so "
            "they have no joint condition; say with decoded_as what the decoder should be told"
        )
    once = (count == 1).astype(jnp.float32)
    return Condition((stack.measures * given).sum(0) * once, once)


def drop(key: Key, condition: Condition, *, everything: float, each: float) -> Condition:
    """Leave measures free at random, as training does.

    Args:
      key: decides what is dropped.
      condition: one request.
      everything: probability of dropping all measures at once.
      each: probability of dropping each measure independently.
    """
    all_key, each_key = jax.random.split(key)
    keep = jax.random.uniform(all_key) >= everything
    keep = keep & (jax.random.uniform(each_key, condition.given.shape) >= each)
    given = condition.given * keep
    return Condition(condition.measures * given, given)


def fourier_features(values: Array, octaves: int) -> Array:
    """Return sines and cosines `[..., 2 * octaves]` of values in [0, 1] at half-periods 1, 1/2, 1/4, ..."""
    angles = values[..., None] * jnp.pi * 2.0 ** jnp.arange(octaves)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


def joint_features(values: Array, octaves: int, count: int) -> Array:
    """Return sines and cosines `[2 * count]` of all measures `[M]` together, along fixed random directions.

    Random Fourier features (Rahimi and Recht 2007; Tancik et al. 2020) let a small network tell neighbouring cells
    apart, which features of single measures do not. Wavelengths run from 2 down to 2^(2 - octaves), log-uniformly.
    """
    random = np.random.default_rng(0)  # a constant of the architecture, not of the run
    directions = random.normal(size=(count, values.shape[-1]))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    cycles = 2.0 ** random.uniform(-1.0, octaves - 2.0, size=(count, 1))
    angles = 2.0 * jnp.pi * (jnp.asarray(directions * cycles, jnp.float32) @ values)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class ConditionEmbedding(nn.Module):
    """Condition to vector `[width]`: tokens summed, then mixed.

    One token a measure, and one for all measures together that is there when none is free; whatever is absent is
    replaced by a learned null token.

    Attributes:
      width: size of the embedding.
      octaves: frequencies a measure is seen at; the finest resolves 2^-octaves.
      joint: directions in which all measures are seen together.
    """

    width: int
    octaves: int
    joint: int

    @nn.compact
    def __call__(self, condition: Condition) -> Array:
        """Embed one condition."""
        features = fourier_features(condition.measures, self.octaves)
        count = condition.measures.shape[0]
        kernel = self.param("token", nn.initializers.lecun_normal(), (count, features.shape[-1], self.width))
        null = self.param("null", nn.initializers.normal(0.1), (count + 1, self.width))
        together = nn.Dense(self.width, name="joint")(joint_features(condition.measures, self.octaves, self.joint))
        tokens = jnp.concatenate([jnp.einsum("mf,mfw->mw", features, kernel), together[None]])
        given = jnp.append(condition.given, condition.given.min())[:, None]
        tokens = tokens * given + null * (1.0 - given)
        return nn.Dense(self.width)(nn.silu(tokens.sum(0)))
