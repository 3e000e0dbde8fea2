"""Ways to choose the policy of a segment: a blind sample, the nearest elite, or the best of n looked-ahead candidates.

A `Propose` function offers candidates; `first` takes one of them blindly, `look_ahead` plays them all from where the
episode stands. Any proposal goes with any choice: samples of the generator and elites of the archive are judged alike.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from ldpol.errors import UserError
from ldpol.measures import distance, nearest
from ldpol.planning.sequencing import Choice, Choose, NextRequest, SegmentScore, play_segment
from ldpol.rollout import Apply
from ldpol.tasks import Task, TaskState
from ldpol.types import Array, Key, Params, PyTree

Propose = Callable[[Key, PyTree], Params]
"""`(key, request) -> n policies`, a leading axis n on every leaf, the first guess first."""


def from_generator(sample: Callable[[Key, PyTree], Params], count: int) -> Propose:
    """Propose `count` samples of a generative model.

    Candidate i is drawn with key i of a fixed series: the first of eight candidates is the only one of one, so that
    numbers of candidates are compared on common random numbers.

    Args:
      sample: `(key, request) -> one policy`, such as `PolicyGenerator.sample`.
      count: n.
    """
    if count < 1:
        raise UserError(f"a proposal needs at least 1 candidate, found {count}")

    def propose(key: Key, request: PyTree) -> Params:
        policy_key, _ = jax.random.split(key)
        keys = jax.vmap(partial(jax.random.fold_in, policy_key))(jnp.arange(count))
        return jax.vmap(sample, (0, None))(keys, request)

    return propose


def around(
    sample: Callable[[Key, Array, Array], Params],
    count: int,
    spread: float,
    quality: float,
    low: Sequence[float],
    high: Sequence[float],
) -> Propose:
    """Propose a sample for what is asked for, and `count - 1` for measures around it with high fitness.

    Samples for one condition behave alike, so that where one falls in the state an episode is in, often all of them do.
    Some of those that ask for a little more or less go on, and fit ones more often. The first candidate is that of
    `from_generator`.

    Args:
      sample: `(key, measures [M], quality []) -> one policy`; NaN leaves a measure or the fitness free.
      count: n.
      spread: how far away the others ask at most, as a standard deviation in measures scaled to [0, 1]; how far each
        goes is uniform up to that.
      quality: the others ask for a rank of fitness uniform from this to 1.
      low, high: bounds of the measures.

    Raises:
      ValueError: if there is no candidate, the spread is negative, or the quality not in [0, 1].
    """
    if count < 1 or spread < 0 or not 0 <= quality <= 1:
        raise UserError(
            "a proposal needs at least 1 candidate, a spread >= 0 and a quality in [0, 1], found "
            f"{count}, {spread:g} and {quality:g}"
        )
    least, most = jnp.asarray(low), jnp.asarray(high)

    def propose(key: Key, request: Array) -> Params:
        policy_key, request_key = jax.random.split(key)

        def one(i: Array) -> Params:
            size_key, noise_key, rank_key = jax.random.split(jax.random.fold_in(request_key, i), 3)
            far = spread * jax.random.uniform(size_key) * jax.random.normal(noise_key, request.shape) * (most - least)
            rank = jax.random.uniform(rank_key, minval=quality)
            return sample(
                jax.random.fold_in(policy_key, i),
                jnp.where(i > 0, jnp.clip(request + far, least, most), request),
                jnp.where(i > 0, rank, jnp.nan),
            )

        return jax.vmap(one)(jnp.arange(count))

    return propose


def from_archive(policies: Params, measures: Array, count: int = 1) -> Propose:
    """Propose the `count` elites whose measures are nearest to the target, the nearest first.

    Args:
      policies: N policies, leading axis on every leaf.
      measures: `[N, M]` what they do: the means of several fresh episodes, not the lucky draws a search stored.
      count: n, at most N.

    Raises:
      ValueError: if there are fewer than n elites.
    """
    if not 1 <= count <= measures.shape[0]:
        raise UserError(f"cannot propose {count} elites of an archive of {measures.shape[0]}")
    policies = jax.tree.map(jnp.asarray, policies)  # a NumPy array cannot be indexed by what is being traced

    def propose(key: Key, request: PyTree) -> Params:
        rows = nearest(request, measures, count)
        return jax.tree.map(lambda leaf: leaf[rows], policies)

    return propose


def first(propose: Propose) -> Choose:
    """Choose the first candidate without looking at the state: one blind sample, or the nearest elite."""

    def choose(key: Key, request: PyTree, state: TaskState, next_request: NextRequest) -> Choice:
        return Choice(_row(propose(key, request), 0), jnp.zeros((), jnp.int32))

    return choose


def best_candidate(scores: SegmentScore, target: Array, tolerance: float = 0.0) -> Array:
    """Return the index `[]` of the best of n candidates: survival first, then closeness, then reward.

    A candidate that falls is worse the sooner it falls; one that fell before it was measured is infinitely far away. Of
    equals the first wins.

    Args:
      scores: `[n]`.
      target: `[M]` measures; NaN leaves one free.
      tolerance: distances in the same multiple of it count as equally close, so that reward decides; 0: no two do.
    """
    measured = ~jnp.isnan(scores.measures).any(-1)
    error = jnp.where(measured, distance(target[None], scores.measures), jnp.inf)
    if tolerance > 0:
        error = jnp.floor(error / tolerance)
    # `lived` cannot tell a fall in the very last step from survival.
    return jnp.lexsort((-scores.fitness, error, -scores.lived, ~scores.survived))[0]


def check_horizon(steps: int, settle: int, horizon: int | None) -> int:
    """Return the steps to look ahead, `steps` for None.

    Raises:
      UserError: if the horizon ends before anything is measured.
    """
    horizon = steps if horizon is None else horizon
    if not 0 <= settle < min(horizon, steps):
        raise UserError(
            f"a look-ahead of {horizon} steps into a segment of {steps} measures nothing when the first {settle} do "
            "not count; choose horizon and steps above settle"
        )
    return horizon


def look_ahead(
    task: Task,
    apply: Apply,
    propose: Propose,
    *,
    steps: int,
    settle: int,
    horizon: int | None = None,
    follow: Propose | None = None,
    tolerance: float = 0.0,
    target: Callable[[PyTree], Array] = lambda request: request,
) -> Choose:
    """Choose the candidate that does best when played from the current state of the physics.

    The simulator is used as its own model: this is what planning can reach where a perfect model is at hand, and its
    price is in `Choice.look_ahead`, n times `horizon` steps. One candidate needs no look-ahead and costs nothing.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      propose: offers the candidates.
      steps: of a segment; see `segment_steps`.
      settle: steps in which measures do not count yet.
      horizon: steps to look ahead, more than `settle`; None: the whole segment. Steps beyond the segment show whether a
        candidate leaves the body able to go on; measures are compared within the segment only.
      follow: whose first candidate for the next request plays these steps beyond the segment, none after the last
        one; None: the candidate itself plays on. If the next choice offers that first candidate too, and the horizon
        reaches to its end, then what survives here has a way to survive there.
      tolerance: see `best_candidate`.
      target: what measures `[M]` a request asks for; free ones are NaN.

    Raises:
      ValueError: if the horizon ends before anything is measured.
    """
    horizon = check_horizon(steps, settle, horizon)

    def choose(key: Key, request: PyTree, state: TaskState, next_request: NextRequest) -> Choice:
        candidates = propose(key, request)
        count = jax.tree.leaves(candidates)[0].shape[0]
        if count == 1:
            return Choice(_row(candidates, 0), jnp.zeros((), jnp.int32))
        successor = None if follow is None else _row(follow(next_request.key, next_request.request), 0)

        def play(params: Params) -> SegmentScore:
            alive, window = jnp.ones((), bool), (settle, min(horizon, steps))
            if successor is None or horizon <= steps:
                return play_segment(task, apply, params, state, alive, steps=horizon, window=window)[0]
            score, then, alive = play_segment(task, apply, params, state, alive, steps=steps, window=window)
            more, rest = alive & next_request.comes, horizon - steps
            beyond, _, _ = play_segment(task, apply, successor, then, more, steps=rest, window=(0, rest))
            survived = jnp.where(next_request.comes, beyond.survived, score.survived)
            return dataclasses.replace(score, lived=score.lived + beyond.lived, survived=survived)

        best = best_candidate(jax.vmap(play)(candidates), target(request), tolerance)
        return Choice(_row(candidates, best), jnp.asarray(count * horizon, jnp.int32))

    return choose


def _row(policies: Params, index: Array | int) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], policies)
