"""Array aliases and the score of an episode: the words every other module speaks in."""

from typing import Any, TypeAlias

import jax
from flax import struct

from ldpol.errors import UserError

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""A typed key (`jax.random.key`), scalar unless a leading shape is stated."""
Params: TypeAlias = Any
"""Parameters of one policy: a linen params pytree. A batch has a leading axis on every leaf."""
PyTree: TypeAlias = Any


@struct.dataclass
class Score:
    """What an episode, or the mean of several, was worth.

    Attributes:
      fitness: `[]` sum of rewards until the episode ended.
      measures: `[M]` each behaviour measure of the steps lived, as the task reduces them (the mean, for contacts).
      length: `[]` steps lived.
    """

    fitness: Array
    measures: Array
    length: Array


@struct.dataclass
class Behaviour:
    """What a policy is worth and how it moves, means over several episodes.

    Attributes:
      score: the mean score.
      traits: `[C]` the task's traits and then its measures, see `traits.columns`; empty for a task without a torso.
      episodes: `[E]` what each episode scored.
    """

    score: Score
    traits: Array
    episodes: Score


def mean_score(score: Score, axis: int = -1) -> Score:
    """Average the scores `[N, E]` of several episodes into one `Score` `[N]`.

    Args:
      score: fitness and length `[..., E]`, measures `[..., E, M]`.
      axis: the episode axis of `fitness`; counted from the end, it must be negative.
    """
    if axis >= 0:
        raise UserError(f"mean_score: axis must count from the end, found {axis}")
    return Score(
        fitness=score.fitness.mean(axis),
        measures=score.measures.mean(axis - 1),
        length=score.length.mean(axis),
    )
