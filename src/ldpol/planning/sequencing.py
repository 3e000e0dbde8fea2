"""K behaviours in one episode: each is asked for during an equal share of it, while the physics runs on.

How a policy is found for a request is a `Choose` function (`evaluation/choosing.py`); this module plays what is chosen.
An episode, choices included, is one scan over segments, so a whole experiment is one XLA program.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from ldpol.errors import UserError
from ldpol.rollout import Apply
from ldpol.tasks import Task, TaskState
from ldpol.types import Array, Key, Params, PyTree


class Choice(NamedTuple):
    """The policy that is to play the coming segment.

    Attributes:
      policy: parameters of one policy.
      look_ahead: `[]` int32, environment steps spent on finding it.
    """

    policy: Params
    look_ahead: Array


class NextRequest(NamedTuple):
    """What will be asked for after the segment that a policy is chosen for.

    Attributes:
      key: of the next choice.
      request: what is asked for.
      comes: `[]` bool; False in the last segment, where the other two mean nothing.
    """

    key: Key
    request: PyTree
    comes: Array


Choose = Callable[[Key, PyTree, TaskState, NextRequest], Choice]
"""`(key, request, state now, next request) -> Choice`; a request is usually measures `[M]`, but any pytree will do."""


@struct.dataclass
class SegmentScore:
    """What one segment was worth.

    Attributes:
      fitness: `[]` sum of rewards.
      measures: `[M]` mean over the steps lived after settling; NaN if the episode was over by then.
      lived: `[]` int32, steps lived; 0 for a segment that was never reached.
      survived: `[]` bool, whether the segment was reached and no step of it ended the episode.
    """

    fitness: Array
    measures: Array
    lived: Array
    survived: Array


@struct.dataclass
class SequenceScore:
    """What one episode of K segments was worth.

    Attributes:
      fitness: `[]` sum of rewards until the episode ended.
      length: `[]` int32, steps lived.
      segments: `SegmentScore` with a leading axis K.
      look_ahead: `[]` int32, environment steps spent on choices while the episode lasted.
    """

    fitness: Array
    length: Array
    segments: SegmentScore
    look_ahead: Array


class Trace(NamedTuple):
    """What happened at every step of an episode of T steps.

    Attributes:
      measures: `[T, M]` of the state after each step; 0 once the episode is over.
      alive: `[T]` bool, whether the step was lived.
    """

    measures: Array
    alive: Array


def segment_steps(task: Task, segments: int, settle: int = 0) -> int:
    """Return the steps of each of `segments` equal parts of an episode.

    Args:
      task: gives the episode's length T.
      segments: K.
      settle: steps at the start of a segment in which measures do not count yet.

    Raises:
      ValueError: if K does not divide T, or settling leaves nothing to measure.
    """
    if segments < 1 or task.episode_length % segments:
        raise UserError(
            f"an episode of {task.episode_length} steps does not split into {segments} equal segments; choose a number "
            "of conditions that divides the task's episode_length"
        )
    steps = task.episode_length // segments
    if not 0 <= settle < steps:
        raise UserError(
            f"settle must be at least 0 and less than the {steps} steps of a segment ({task.episode_length} steps in "
            f"{segments} segments), found {settle}"
        )
    return steps


def play_segment(
    task: Task, apply: Apply, params: Params, state: TaskState, alive: Array, *, steps: int, window: tuple[int, int]
) -> tuple[SegmentScore, TaskState, Array]:
    """Play one policy from a given state on.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      params: one policy.
      state: where the episode stands.
      alive: `[]` bool, whether it is not over yet.
      steps: how many to play. Time-outs are the caller's.
      window: measures are averaged over steps `window[0] <= t < window[1]`, counted from 0.

    Returns:
      The score, the state after the last step, and whether the episode is still not over.
    """
    score, state, alive, _ = _trace_segment(task, apply, params, state, alive, steps=steps, window=window)
    return score, state, alive


def _trace_segment(
    task: Task, apply: Apply, params: Params, state: TaskState, alive: Array, *, steps: int, window: tuple[int, int]
) -> tuple[SegmentScore, TaskState, Array, Trace]:
    def body(carry, t):
        state, alive, score, measured = carry
        state = task.step(state, apply(params, state.observation))
        counts = alive & (window[0] <= t) & (t < window[1])
        # `where`, not a product: the physics of a finished episode may overflow to NaN.
        now = jnp.where(alive, task.measure(state), 0.0)
        score = SegmentScore(
            fitness=score.fitness + jnp.where(alive, state.reward, 0.0),
            measures=score.measures + jnp.where(counts, now, 0.0),
            lived=score.lived + alive,
            survived=alive & (state.done < 0.5),
        )
        return (state, score.survived, score, measured + counts), Trace(now, alive)

    none = jnp.zeros((), jnp.int32)
    blank = SegmentScore(jnp.zeros(()), jnp.zeros(task.measures), none, alive)
    (state, alive, score, measured), trace = jax.lax.scan(body, (state, alive, blank, none), jnp.arange(steps))
    # Divided by something harmless where nothing was measured, so that no NaN is computed, only chosen.
    mean = jnp.where(measured > 0, score.measures / jnp.maximum(measured, 1), jnp.nan)
    return dataclasses.replace(score, measures=mean), state, alive, trace


def play_sequence(
    task: Task, apply: Apply, choose: Choose, requests: PyTree, key: Key, *, settle: int
) -> SequenceScore:
    """Play one episode whose policy is chosen anew at the start of each of K equal segments.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      choose: finds the policy of a segment.
      requests: K requests: a leading axis K on every leaf, for instance measures `[K, M]`.
      key: decides the initial state (the same for every `choose`) and the choices.
      settle: steps after a switch in which measures do not count yet.

    Raises:
      ValueError: if the episode does not split into K segments, or settling leaves nothing to measure.
    """
    return trace_sequence(task, apply, choose, requests, key, settle=settle)[0]


def trace_sequence(
    task: Task, apply: Apply, choose: Choose, requests: PyTree, key: Key, *, settle: int
) -> tuple[SequenceScore, Trace]:
    """Play as `play_sequence` does, and also return what happened at every step; same arguments, same errors."""
    count = jax.tree.leaves(requests)[0].shape[0]
    steps = segment_steps(task, count, settle)
    reset_key, choice_key = jax.random.split(key)

    def segment(carry: tuple[TaskState, Array], inputs: tuple[Key, PyTree, NextRequest]):
        state, alive = carry
        key, request, next_request = inputs
        choice = choose(key, request, state, next_request)
        spent = jnp.where(alive, choice.look_ahead, 0)
        score, state, alive, trace = _trace_segment(
            task, apply, choice.policy, state, alive, steps=steps, window=(settle, steps)
        )
        return (state, alive), (score, spent, trace)

    start = task.reset(reset_key), jnp.ones((), bool)
    keys, numbers = jax.random.split(choice_key, count), jnp.arange(count)
    after = jnp.minimum(numbers + 1, count - 1)
    following = NextRequest(keys[after], jax.tree.map(lambda leaf: leaf[after], requests), numbers < count - 1)
    _, (segments, spent, trace) = jax.lax.scan(segment, start, (keys, requests, following))
    score = SequenceScore(segments.fitness.sum(), segments.lived.sum(), segments, spent.sum())
    return score, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), trace)


def play_sequences(
    task: Task,
    apply: Apply,
    choose: Choose,
    requests: PyTree,
    keys: Key,
    *,
    episodes: int,
    settle: int,
    lanes: int = 64,
    mesh: Mesh | None = None,
    play: Callable[..., Any] = play_sequence,
) -> Any:
    """Play E episodes of each of S sequences in fixed memory.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      choose: finds the policy of a segment.
      requests: S sequences of K requests: leading axes `[S, K]` on every leaf.
      keys: `[S]`, one per sequence; episode e uses fold_in(key, e), so that methods with the same keys
        start every episode alike and can be compared pair by pair.
      episodes: E.
      settle: steps after a switch in which measures do not count yet.
      lanes: episodes that run side by side on each device. A choice among n candidates plays n times as many.
      mesh: a mesh with one axis, `policies`; None runs on one device. S must be a multiple of its size.
      play: plays one episode: `play_sequence` or `trace_sequence`.

    Returns:
      What `play` returns, with leading axes `[S, E]`: the `SequenceScore`, with traces if asked for.

    Raises:
      ValueError: if S, the keys and the mesh do not fit together, or a number is out of range.
    """
    count = keys.shape[0]
    leading = {leaf.shape[0] for leaf in jax.tree.leaves(requests)}
    if leading != {count}:
        raise UserError(f"{count} keys for sequences with leading axes {sorted(leading)}; give one per sequence")
    if min(episodes, lanes) < 1:
        raise UserError(f"episodes and lanes must be at least 1, found {episodes} and {lanes}")

    def work(requests: PyTree, keys: Key) -> Any:
        sequences = keys.shape[0]
        jobs = sequences * episodes
        width = min(lanes, jobs)
        # Filled up to whole chunks with repeated jobs: a rest of another size would be compiled once more.
        chunks = jnp.minimum(jnp.arange(-(-jobs // width) * width), jobs - 1).reshape(-1, width)

        def one(job: Array) -> Any:
            sequence, episode = job // episodes, job % episodes
            of_sequence = jax.tree.map(lambda leaf: leaf[sequence], requests)
            key = jax.random.fold_in(keys[sequence], episode)
            return play(task, apply, choose, of_sequence, key, settle=settle)

        scores = jax.lax.map(jax.vmap(one), chunks)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:jobs], scores)
        return jax.tree.map(lambda leaf: leaf.reshape(sequences, episodes, *leaf.shape[1:]), flat)

    if mesh is None:
        return work(requests, keys)
    if count % mesh.size:
        raise UserError(f"{count} sequences do not split evenly over {mesh.size} devices; choose a multiple")
    spec = PartitionSpec("policies")
    return partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(work)(requests, keys)


def draw_sequences(key: Key, measures: Array, sequences: int, segments: int) -> Array:
    """Draw random sequences of K different elites' measures.

    Args:
      key: decides the draw.
      measures: `[N, M]` what the elites do.
      sequences: S.
      segments: K, at most N.

    Returns:
      `[S, K, M]`.

    Raises:
      ValueError: if there are fewer elites than segments.
    """
    count = measures.shape[0]
    if not 1 <= segments <= count:
        raise UserError(f"cannot draw sequences of {segments} different conditions from {count} elites")
    draw = lambda key: jax.random.choice(key, count, (segments,), replace=False)  # noqa: E731
    return measures[jax.vmap(draw)(jax.random.split(key, sequences))]
