"""What a policy is asked for: measures, a rank of fitness and text as tokens, each of which may be absent."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.types import Array, Key

RANK_OCTAVES = 3
"""Frequencies at which a rank of fitness is seen: neighbouring eighths apart, for single ranks are noise."""


@struct.dataclass
class Condition:
    """One request.

    Attributes:
      measures: `[M]` in [0, 1] (scaled by the grid's bounds); zero where masked out.
      mask: `[M]` 1.0 where a measure is asked for, 0.0 where it is left free.
      quality: `[]` in [0, 1]: which quantile of the archive's fitness; zero where masked out.
      quality_mask: `[]` 1.0 if it is asked for.
      text: `[L]` what a sentence claims, as `language.understanding` reads it; zeros where masked out, empty in a model
        without language.
      text_mask: `[]` 1.0 if there is a sentence.
    """

    measures: Array
    mask: Array
    quality: Array = struct.field(default_factory=lambda: jnp.zeros(()))
    quality_mask: Array = struct.field(default_factory=lambda: jnp.zeros(()))
    text: Array = struct.field(default_factory=lambda: jnp.zeros(0))
    text_mask: Array = struct.field(default_factory=lambda: jnp.zeros(()))


def make_condition(
    measures: Array, quality: Array | float | None = None, text: Array | None = None, *, words: int = 0
) -> Condition:
    """Make a condition.

    Args:
      measures: `[M]` in [0, 1]; NaN leaves a measure free.
      quality: `[]` quantile of the archive's fitness; None or NaN leaves it free.
      text: `[L]` what a sentence claims; NaN or None leaves it free.
      words: L of the model, for a condition without text that has the form of one with it.
    """
    known = ~jnp.isnan(measures)
    rank = jnp.asarray(jnp.nan if quality is None else quality, jnp.float32)
    ranked = ~jnp.isnan(rank)
    values = jnp.full(words, jnp.nan) if text is None else text
    spoken = ~jnp.isnan(values).any() & (text is not None)
    return Condition(
        jnp.where(known, measures, 0.0),
        known.astype(jnp.float32),
        jnp.where(ranked, rank, 0.0),
        ranked.astype(jnp.float32),
        jnp.where(spoken, values, 0.0),
        spoken.astype(jnp.float32),
    )


def null_condition(measures: int, *, words: int = 0) -> Condition:
    """Return the condition that asks for nothing: the trained unconditional branch."""
    return unconditional(make_condition(jnp.zeros(measures), words=words))


def unconditional(condition: Condition) -> Condition:
    """Return the condition of the same form that asks for nothing."""
    return jax.tree.map(jnp.zeros_like, condition)


def merge_conditions(conditions: Sequence[Condition], scales: Array) -> Condition:
    """Merge conditions into one that asks for each measure that exactly one of them asks for.

    Args:
      conditions: K of them.
      scales: `[K]` their strengths in a composition; negative ones ask for nothing.

    Returns:
      A condition on measures alone, which is what a decoder sees.
    """
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *conditions)
    mask = stack.mask * (scales > 0)[:, None]
    once = (mask.sum(0) == 1).astype(jnp.float32)
    apart = unconditional(conditions[0])
    return dataclasses.replace(apart, measures=(stack.measures * mask).sum(0) * once, mask=once)


class Drop(NamedTuple):
    """How often training leaves parts of a condition free, so that any subset of them can be asked for later.

    Attributes:
      everything: probability of dropping all measures at once.
      each: probability of dropping each measure independently.
      beside: probability of dropping all measures where quality or text is kept, for they are often asked for alone.
      quality: probability of dropping the rank of fitness.
      text: probability of dropping the sentence.
    """

    everything: float = 0.05
    each: float = 0.05
    beside: float = 0.6
    quality: float = 0.8
    text: float = 0.6


def drop(key: Key, condition: Condition, how: Drop) -> Condition:
    """Leave parts of a condition free at random, as training does.

    Args:
      key: decides what is dropped.
      condition: one request.
      how: probabilities.
    """
    all_key, each_key, quality_key, text_key = jax.random.split(key, 4)
    quality_mask = condition.quality_mask * (jax.random.uniform(quality_key) >= how.quality)
    text_mask = condition.text_mask * (jax.random.uniform(text_key) >= how.text)
    everything = jnp.where(quality_mask + text_mask > 0, how.beside, how.everything)
    keep = jax.random.uniform(all_key) >= everything
    keep = keep & (jax.random.uniform(each_key, condition.mask.shape) >= how.each)
    mask = condition.mask * keep
    return Condition(
        condition.measures * mask,
        mask,
        condition.quality * quality_mask,
        quality_mask,
        condition.text * text_mask,
        text_mask,
    )


def fourier_features(values: Array, octaves: int) -> Array:
    """Return sines and cosines `[N, 2 * octaves]` of values `[N]` in [0, 1] at half-periods 1, 1/2, 1/4, ..."""
    angles = jnp.outer(values * jnp.pi, 2.0 ** jnp.arange(octaves))
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

    One token per measure, and one for all measures together where none is free; with `commands`, one for
    the rank of fitness and one for text. Whatever is absent is replaced by a learned null token.

    Attributes:
      width: size of the embedding.
      octaves: frequencies a measure is seen at; the finest resolves 2^-octaves.
      joint: directions in which all measures are seen together.
      commands: whether fitness and text are seen, or measures alone.
    """

    width: int
    octaves: int
    joint: int
    commands: bool = False

    @nn.compact
    def __call__(self, condition: Condition) -> Array:
        """Embed one condition."""
        features = fourier_features(condition.measures, self.octaves)
        count = condition.measures.shape[0]
        kernel = self.param("token", nn.initializers.lecun_normal(), (count, features.shape[-1], self.width))
        tokens = [
            *jnp.einsum("mf,mfw->mw", features, kernel),
            nn.Dense(self.width, name="joint")(joint_features(condition.measures, self.octaves, self.joint)),
        ]
        mask = [*condition.mask, condition.mask.min()]
        if self.commands:
            rank = fourier_features(condition.quality[None], RANK_OCTAVES)[0]
            tokens.append(nn.Dense(self.width, name="quality")(rank))
            mask.append(condition.quality_mask)
            if condition.text.shape[0]:
                tokens.append(nn.Dense(self.width, name="text")(condition.text))
                mask.append(condition.text_mask)
        null = self.param("null", nn.initializers.normal(0.1), (len(tokens), self.width))
        there = jnp.stack(mask)[:, None]
        mixed = jnp.stack(tokens) * there + null * (1.0 - there)
        return nn.Dense(self.width)(nn.silu(mixed.sum(0)))
