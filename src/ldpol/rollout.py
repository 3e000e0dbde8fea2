"""Policies to scores: every episode of every policy in one XLA program of fixed memory.

Each device keeps a fixed number of lanes busy. A lane plays one episode; when it ends, the lane takes the
next episode from the queue, so physics is rarely spent on an episode that is over, and a short life costs
little. Only running sums are kept: memory grows neither with the episode length nor with the number of episodes
beyond the scores themselves.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldpol.errors import UserError
from ldpol.lanes import lanes_last
from ldpol.settings import check, fail
from ldpol.tasks import Task, TaskState
from ldpol.types import Array, Key, Params, PyTree, Score

Apply = Callable[[Params, Array], Array]


class Recorder(NamedTuple):
    """What to accumulate of an episode beside its score, in fixed memory.

    Attributes:
      init: `() -> record`, a pytree of arrays.
      update: `(record, state before the step, action, key) -> record`, called once a step lived with a fresh key.
    """

    init: Callable[[], PyTree]
    update: Callable[[PyTree, TaskState, Array, Key], PyTree]


def keep_states(task: Task, count: int) -> Recorder:
    """Record `count` observations drawn uniformly from those the policy saw (reservoir sampling, Vitter 1985).

    The record is `(observations [count, O], steps seen [])`; an episode shorter than `count` steps repeats some.
    """

    def init() -> PyTree:
        return jnp.zeros((count, task.observation_size)), jnp.zeros((), jnp.int32)

    def update(record: PyTree, state: TaskState, action: Array, key: Key) -> PyTree:
        seen, step = record
        # Until the reservoir is full the newest fills all free slots; then it replaces one with the right chance.
        free = (jnp.arange(count) >= step)[:, None]
        slot = jnp.where(step < count, count, jax.random.randint(key, (), 0, step + 1))
        seen = jnp.where(free, state.observation, seen)
        return seen.at[slot].set(state.observation, mode="drop"), step + 1

    return Recorder(init, update)


NO_RECORD = Recorder(lambda: (), lambda record, state, action, key: ())


class Device(NamedTuple):
    """How a kind of device is used best.

    Attributes:
      layout: axis of the lanes in the arrays of the physics: `last` or `first`.
      lanes: episodes it plays side by side.
    """

    layout: str
    lanes: int


DEVICES = {"cpu": Device("last", 128)}
"""Measured (`benchmarks/rollout.py`): a core wants the lanes last, and 128 of them."""
OTHER_DEVICE = Device("first", 4096)
LAYOUTS = ("last", "first")


@dataclass(frozen=True)
class RolloutConfig:
    """How rollouts use a device.

    Attributes:
      lanes: episodes that run side by side on each device; None takes what is best for its kind.
      block: steps between two visits to the queue; longer blocks waste steps on finished episodes.
      layout: axis of the lanes in the arrays of the physics: `last` (see `lanes_last`) or `first` (`jax.vmap`); None
        takes what is best for the kind of device.
    """

    lanes: int | None = None
    block: int = 10
    layout: str | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"lanes": 1, "block": 1})
        if self.layout not in (*LAYOUTS, None):
            fail(self, "layout", f"is unknown; choose one of {', '.join(LAYOUTS)}, or None")

    def on(self, platform: str) -> Device:
        """Return what is used on a platform such as `cpu`."""
        best = DEVICES.get(platform, OTHER_DEVICE)
        return Device(self.layout or best.layout, self.lanes or best.lanes)


@struct.dataclass
class _Sums:
    """Running sums of one episode; `alive` turns 0 with the step after which the episode is over."""

    fitness: Array
    measures: PyTree
    length: Array
    alive: Array
    record: PyTree
    key: Key


def _start(task: Task, recorder: Recorder, key: Key) -> _Sums:
    zero = jnp.zeros(())
    return _Sums(zero, task.reduction.init(), zero.astype(jnp.int32), jnp.ones((), bool), recorder.init(), key)


def _advance(task: Task, recorder: Recorder, action: Array, state: TaskState, sums: _Sums) -> tuple[TaskState, _Sums]:
    """Take one step; a finished episode's sums stay as they are, whatever its physics does."""
    alive = sums.alive
    record = recorder.update(sums.record, state, action, jax.random.fold_in(sums.key, sums.length))
    before, state = state, task.step(state, action)
    measures = task.reduction.update(sums.measures, before, action, state)
    # `where`, not a product: the physics of a finished episode may overflow to NaN.
    keep = partial(jax.tree.map, lambda new, old: jnp.where(alive, new, old))
    length = sums.length + alive
    return state, dataclasses.replace(
        sums,
        record=keep(record, sums.record),
        fitness=sums.fitness + jnp.where(alive, state.reward, 0.0),
        measures=keep(measures, sums.measures),
        length=length,
        alive=alive & (state.done < 0.5) & (length < task.episode_length),
    )


def _score(task: Task, sums: _Sums) -> Score:
    length = sums.length.astype(jnp.float32)
    return Score(sums.fitness, task.reduction.finish(sums.measures, length), length)


def rollout(task: Task, apply: Apply, params: Params, key: Key) -> Score:
    """Play one episode of one policy.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      params: one policy.
      key: decides the initial state.

    Returns:
      The episode's `Score`; the step that ends the episode still counts.
    """

    def body(carry: tuple[TaskState, _Sums]) -> tuple[TaskState, _Sums]:
        state, sums = carry
        return _advance(task, NO_RECORD, apply(params, state.observation), state, sums)

    carry = (task.reset(key), _start(task, NO_RECORD, key))
    _, sums = jax.lax.while_loop(lambda carry: carry[1].alive, body, carry)
    return _score(task, sums)


def rollout_batch(
    task: Task,
    apply: Apply,
    policies: Params,
    keys: Key,
    *,
    episodes: int = 1,
    config: RolloutConfig = RolloutConfig(),
    mesh: Mesh | None = None,
    recorder: Recorder | None = None,
) -> Any:
    """Play `episodes` episodes of each of N policies, spread over the devices of `mesh`.

    Args:
      task: the task.
      apply: `(params, observation [O]) -> action [A]`.
      policies: leading axis N on every leaf.
      keys: `[N]`, one per policy; episode e uses fold_in(key, e), so a score depends neither on the
        other policies nor on the number of devices.
      episodes: E.
      config: lanes and block length.
      mesh: a mesh with one axis, `policies`; None runs on one device. N must be a multiple of its size.
      recorder: what else to accumulate of every episode.

    Returns:
      The `Score` of single episodes, fitness `[N, E]`, measures `[N, E, M]`, length `[N, E]`; with a recorder, the
      pair of that and the records, `[N, E]` leading.

    Raises:
      ValueError: if N, the keys and the mesh do not fit together.
    """
    count = keys.shape[0]
    leading = {leaf.shape[0] for leaf in jax.tree.leaves(policies)}
    if leading != {count}:
        raise UserError(
            f"rollout_batch: {count} keys for policies with leading axes {sorted(leading)}; give one per policy"
        )
    if episodes < 1:
        raise UserError(f"rollout_batch: episodes must be at least 1, found {episodes}")
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    device = config.on(platform)
    work = partial(
        _work_queue, task, apply, recorder or NO_RECORD, episodes=episodes, device=device, block=config.block
    )
    if recorder is None:
        both = work
        work = lambda policies, keys: both(policies, keys)[0]  # noqa: E731
    if mesh is None:
        return work(policies, keys)
    if count % mesh.size:
        raise UserError(f"rollout_batch: {count} policies do not split evenly over {mesh.size} devices; pad them first")
    spec = PartitionSpec("policies")
    return jax.shard_map(work, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(policies, keys)


REFILLED = 8
"""A visit to the queue refills free lanes in groups of this share of them, so that it costs what is to be done."""


class _Queue(NamedTuple):
    """Where the work of one device stands.

    Attributes:
      job: `[L]` episode of each lane; the number of jobs for an idle one.
      next_job: `[]` first episode that no lane has taken.
      params: policies of the lanes, lanes first.
      state, sums: of the lanes' episodes, lanes on the axis of the layout.
      results: `[jobs]` scores and records of the finished ones.
    """

    job: Array
    next_job: Array
    params: Params
    state: TaskState
    sums: _Sums
    results: tuple[Score, PyTree]


def _work_queue(
    task: Task,
    apply: Apply,
    recorder: Recorder,
    policies: Params,
    keys: Key,
    *,
    episodes: int,
    device: Device,
    block: int,
) -> tuple[Score, PyTree]:
    """Play all episodes of the N policies of one device on a fixed number of lanes."""
    count = keys.shape[0]
    jobs = count * episodes
    lanes = min(device.lanes, jobs)
    group = -(-lanes // REFILLED)
    axis, each = (-1, lanes_last) if device.layout == "last" else (0, jax.vmap)

    def begin(job: Array, key: Key) -> tuple[TaskState, _Sums]:
        sums = _start(task, recorder, key)
        return task.reset(key), dataclasses.replace(sums, alive=job < jobs)

    def finish(sums: _Sums) -> tuple[Score, PyTree]:
        return _score(task, sums), sums.record

    def start(job: Array) -> tuple[Params, TaskState, _Sums]:
        index = jnp.minimum(job, jobs - 1)
        policy, episode = index // episodes, index % episodes
        params = jax.tree.map(lambda leaf: leaf[policy], policies)
        state, sums = each(begin)(job, jax.vmap(jax.random.fold_in)(keys[policy], episode))
        return params, state, sums

    def open_lanes(queue: _Queue) -> Array:
        """Lanes that have a result to write or a job to take."""
        return ~queue.sums.alive & ((queue.job < jobs) | (queue.next_job < jobs))

    def refill(queue: _Queue) -> _Queue:
        """Write the results of some open lanes and give them the next jobs in order."""
        (lane,) = jnp.nonzero(open_lanes(queue), size=group, fill_value=lanes)  # past the end: dropped
        some = jax.tree.map(lambda leaf: _take(leaf, lane, axis), queue.sums)
        result = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, axis, 0), each(finish)(some))
        done = jnp.where(lane < lanes, queue.job.at[lane].get(mode="clip"), jobs)
        job = jnp.minimum(jnp.where(lane < lanes, queue.next_job + jnp.arange(group), jobs), jobs)
        params, state, sums = start(job)
        return _Queue(
            job=queue.job.at[lane].set(job, mode="drop"),
            next_job=queue.next_job + (job < jobs).sum(),
            params=jax.tree.map(lambda all_, new: all_.at[lane].set(new, mode="drop"), queue.params, params),
            state=jax.tree.map(lambda all_, new: _put(all_, lane, new, axis), queue.state, state),
            sums=jax.tree.map(lambda all_, new: _put(all_, lane, new, axis), queue.sums, sums),
            results=jax.tree.map(lambda all_, new: all_.at[done].set(new, mode="drop"), queue.results, result),
        )

    def play(queue: _Queue) -> _Queue:
        act, step = jax.vmap(apply), each(partial(_advance, task, recorder))

        def body(carry: tuple[TaskState, _Sums], _: None) -> tuple[tuple[TaskState, _Sums], None]:
            state, sums = carry
            action = act(queue.params, jnp.moveaxis(state.observation, axis, 0))
            return step(jnp.moveaxis(action, 0, axis), state, sums), None

        (state, sums), _ = jax.lax.scan(body, (queue.state, queue.sums), None, length=block)
        return queue._replace(state=state, sums=sums)

    def body(queue: _Queue) -> _Queue:
        return play(jax.lax.while_loop(lambda queue: open_lanes(queue).any(), refill, queue))

    # All lanes start idle, so that the reset is compiled once, in the refill.
    blank = jax.eval_shape(start, jnp.full(lanes, jobs))
    params, state, sums = jax.tree.map(lambda leaf: _zeros(leaf.shape, leaf.dtype), blank)
    result = jax.eval_shape(finish, jax.eval_shape(begin, jnp.zeros((), int), keys[0])[1])
    results = jax.tree.map(lambda leaf: jnp.zeros((jobs, *leaf.shape), leaf.dtype), result)
    queue = _Queue(jnp.full(lanes, jobs), jnp.zeros((), int), params, state, sums, results)
    queue = jax.lax.while_loop(lambda queue: queue.sums.alive.any() | open_lanes(queue).any(), body, queue)
    return jax.tree.map(lambda leaf: leaf.reshape(count, episodes, *leaf.shape[1:]), queue.results)


def _take(leaf: Array, lane: Array, axis: int) -> Array:
    return leaf.at[(..., lane) if axis == -1 else lane].get(mode="clip")


def _put(leaf: Array, lane: Array, new: Array, axis: int) -> Array:
    return leaf.at[(..., lane) if axis == -1 else lane].set(new, mode="drop")


def _zeros(shape: tuple[int, ...], dtype: Any) -> Array:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape)
    return jnp.zeros(shape, dtype)


def over_chunks(
    program: Callable[[PyTree, Key], PyTree],
    inputs: PyTree,
    key: Key,
    *,
    size: int,
    mesh: Mesh,
    done: Callable[[int], Any] = lambda rows: None,
    numbers: np.ndarray | None = None,
) -> PyTree:
    """Run a compiled program over N rows in chunks of one shape, spread over `mesh`; an entry point's host loop.

    Rows are visited in a shuffled order, so that every device gets its share of long episodes; results come back in the
    order of the inputs, and a row's key does not depend on the chunk it is in.

    Args:
      program: `(rows [size, ...], keys [size]) -> pytree [size, ...]`, jitted.
      inputs: pytree with leading axis N.
      key: folded with the row's number to give its key.
      numbers: `[N]` of the rows; rows of one number share their random numbers. None: 0 ... N - 1.
      size: rows per chunk, a multiple of the mesh's size; the last chunk is filled up with repeated rows, so that one
        compiled program serves any N.
      mesh: devices.
      done: called after each chunk with the number of rows it added.

    Returns:
      The results `[N, ...]` as NumPy arrays.
    """
    count = jax.tree.leaves(inputs)[0].shape[0]
    order = np.random.default_rng(0).permutation(count)
    order = np.resize(order, -(-count // size) * size)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count) if numbers is None else jnp.asarray(numbers))
    split, parts = split_over(mesh), []
    for begin in range(0, len(order), size):
        rows = order[begin : begin + size]
        chunk = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], inputs)  # noqa: B023
        parts.append(jax.tree.map(np.asarray, program(*jax.device_put((chunk, keys[rows]), split))))
        done(min(size, count - begin))
    place = np.empty(count, int)
    place[order] = np.arange(len(order))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[place], *parts)


def policy_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh with the one axis `policies` over `devices` (default: all local ones)."""
    return Mesh(np.asarray(jax.local_devices() if devices is None else devices), ("policies",))


def split_over(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits a leading policy axis over `mesh`."""
    return NamedSharding(mesh, PartitionSpec("policies"))


def copied_to(mesh: Mesh) -> NamedSharding:
    """Return the sharding that gives every device of `mesh` a whole copy."""
    return NamedSharding(mesh, PartitionSpec())
