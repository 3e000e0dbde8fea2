"""What is computed for the page, as a few programs of fixed shapes; all that depends on how the library is laid out.

Nothing here jits: `Engine` does.
"""

from functools import partial
from typing import Any, NamedTuple

import jax

from ldpol.film import Film, film, film_from
from ldpol.generator import PolicyGenerator
from ldpol.model.answering import Source
from ldpol.planning.choosing import around, from_generator, look_ahead
from ldpol.planning.sequencing import NextRequest
from ldpol.rollout import Apply, RolloutConfig, rollout_batch
from ldpol.tasks import Task, TaskState
from ldpol.traits import behaviour_recorder, summarise_behaviour
from ldpol.types import Array, Key, Params, Score

EPISODES = 10
"""Episodes that the numbers on the page are means of."""
SEGMENT = 1.0
"""Seconds, about, that each wish of a sequence lasts."""
SETTLE, HORIZON = 0.2, 2.0
"""Of a segment, the part in which measures do not count yet; and how many segments a look-ahead plays."""
CANDIDATES = 8
SPREAD, QUALITY = 0.4, 0.5
"""How far from the wish candidates may ask, and the least rank of fitness they ask for, as in the suite's defaults."""


class Asked(NamedTuple):
    """A wish as arrays; NaN leaves free.

    Attributes:
      measures: `[M]` in task units.
      quality: `[]` rank of fitness.
      text: `[L]` what `read` made of a sentence.
      guidance: `[]`.
    """

    measures: Array
    quality: Array
    text: Array
    guidance: Array


def draw(
    model: PolicyGenerator, key: Key, asked: Asked, *, count: int, steps: int | None, verified: bool
) -> tuple[Params, Source]:
    """Draw policies that do one thing in different ways, as `model.sample_set` does.

    Args:
      model: the generator.
      key: one key, one set.
      asked: one wish.
      count: how many.
      steps: integration steps; None: the model's own.
      verified: whether verified draws may answer, if the model has any.

    Returns:
      The policies, and `[count]` where each comes from.
    """
    how = {"guidance": asked.guidance, "steps": steps, "verified": None if verified else False}
    text = _spoken(model, asked.text)
    return model.sample_set(key, count, asked.measures, quality=asked.quality, text=text, **how)


def shoot(task: Task, apply: Apply, policies: Params, key: Key) -> tuple[Score, Film]:
    """Film one episode of each of N policies from the same start."""
    return jax.vmap(lambda params: film(task, apply, params, key))(policies)


def judge(task: Task, apply: Apply, policy: Params, key: Key) -> tuple[Score, Array]:
    """Roll out one policy as `rollout.rollout_batch` does with `key[None]`.

    Returns:
      The `Score` `[E]` of its episodes, and its traits and measures `[C]`, means of them.
    """
    one = jax.tree.map(lambda leaf: leaf[None], policy)
    lanes = RolloutConfig(lanes=EPISODES)
    scores, records = rollout_batch(
        task, apply, one, key[None], episodes=EPISODES, config=lanes, recorder=behaviour_recorder(task)
    )
    score, record = jax.tree.map(lambda leaf: leaf[0], (scores, records))
    return score, summarise_behaviour(task, score, record).traits


def segment_length(task: Task) -> int:
    """Return the steps of a segment."""
    return max(2, min(task.episode_length, round(SEGMENT / task.dt)))


def segment(task: Task, apply: Apply, policies: Params, states: TaskState, alive: Array) -> tuple[Any, Array, Film]:
    """Film the next segment of R episodes, each from where it stands; returns states, whether alive, and films."""
    steps = segment_length(task)
    return jax.vmap(partial(film_from, task, apply, steps=steps))(policies, states, alive)


def choose(
    task: Task, model: PolicyGenerator, key: Key, asked: Asked, state: TaskState, after: tuple[Key, Asked, Array]
) -> Params:
    """Choose the policy of a segment: the best of several samples, played ahead from where the episode stands.

    Args:
      task: the task.
      model: the generator.
      key: decides the candidates.
      asked: the wish.
      state: where the episode stands.
      after: key and wish of the next segment, and whether there is one.
    """
    steps = segment_length(task)

    def sample(asked: Asked, key: Key, measures: Array, quality: Array) -> Params:
        text = _spoken(model, asked.text)
        return model.sample(key, measures, quality=quality, text=text, guidance=asked.guidance, impute=False)

    def candidates(key: Key, asked: Asked) -> Params:
        low, high = model.grid.low, model.grid.high
        return around(partial(sample, asked), CANDIDATES, SPREAD, QUALITY, low, high)(key, asked.measures)

    chosen = look_ahead(
        task,
        model.apply,
        candidates,
        steps=steps,
        settle=round(SETTLE * steps),
        horizon=round(HORIZON * steps),
        follow=from_generator(lambda key, asked: sample(asked, key, asked.measures, asked.quality), 1),
        target=lambda asked: asked.measures,
    )
    return chosen(key, asked, state, NextRequest(*after)).policy


def _spoken(model: PolicyGenerator, text: Array) -> Array | None:
    """A model without language takes no text, not even an empty one."""
    return text if model.words else None
