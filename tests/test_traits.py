"""Traits: sums by hand on the toy, Brax's own velocity and angle, queue = loop, fixed memory, clear errors."""

import dataclasses
import math
import statistics
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import HIGH, SPEED, make_toy, push

from ldpol.rollout import NO_RECORD, Recorder, RolloutConfig, rollout_batch
from ldpol.tasks import SPECS, TaskState, Torso, make_task
from ldpol.traits import (
    TRAITS,
    behaviour_recorder,
    columns,
    has_traits,
    summarise_traits,
    trait_recorder,
    traits,
    traits_and_measures,
)

# Multiples of 1/8 keep every position exact.
ACTIONS = [[1.0, 1.0], [0.5, -0.5], [0.25, 3.0], [0.875, 0.0], [0.0, 0.125], [-1.0, -1.0]]
LIVES = [4, 8, 16, 5, 20, 20]


def by_hand(action, start=(0.0, 0.0), episode_length=20):
    """The toy's traits in plain Python: every state is written down, then looked at."""
    (x, y), states = start, []
    moves = [SPEED * min(max(a, -1.0), 1.0) for a in action]
    for _ in range(episode_length):
        states.append((x, y))
        x, y = max(x + moves[0], -1.0), min(max(y + moves[1], -1.0), 1.0)
        if x >= 1.0:
            break
    count, feet = len(states), [(x > HIGH, y > HIGH) for x, y in states]
    heights = [y for _, y in states]
    seconds = max(count - 1, 1)
    return {
        "forward speed": (states[-1][0] - states[0][0]) / seconds,
        "height": statistics.fmean(heights),
        "height variation": statistics.pstdev(heights),
        "pitch": math.atan2(sum(math.sin(x + y) for x, y in states), sum(math.cos(x + y) for x, y in states)),
        "airborne": sum(not any(now) for now in feet) / count,
        "cadence": sum((a < c) + (b < d) for (a, b), (c, d) in zip(feet, feet[1:], strict=False)) / seconds,
        "asymmetry": sum(int(a) - int(b) for a, b in feet) / count,
        "effort": statistics.fmean(min(max(a, -1.0), 1.0) ** 2 for a in action),
        "survival": count / episode_length,
    }


def play(task, policies, keys, episodes=1, config=RolloutConfig(4, 5)):
    program = partial(rollout_batch, task, push, episodes=episodes, config=config, recorder=trait_recorder(task))
    score, record = jax.jit(program)(policies, keys)
    return score, jax.jit(jax.vmap(jax.vmap(partial(summarise_traits, task))))(record)


def keys_for(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_traits_by_hand():
    task = make_toy()
    score, found = play(task, jnp.array(ACTIONS), keys_for(6))
    np.testing.assert_array_equal(score.length[:, 0], LIVES)
    assert found.shape == (6, 1, 9)
    for row, action in enumerate(ACTIONS):
        expected = by_hand(action)
        assert list(expected) == [trait.name for trait in traits(task)]
        np.testing.assert_allclose(found[row, 0], list(expected.values()), rtol=1e-5, atol=1e-6)
    # The fourth policy in full: x = 0, 7/32 ... 28/32, twice above 1/2; y = 0; half of (7/8) squared.
    expected = [7 / 32, 0.0, 0.0, 14 / 32, 3 / 5, 1 / 4, 2 / 5, 49 / 128, 5 / 20]
    np.testing.assert_allclose(found[3, 0], expected, rtol=1e-5, atol=1e-6)


def test_the_queue_agrees_with_a_loop():
    """Noisy starts, several episodes, dead lanes whose physics is NaN: against one episode at a time, eagerly."""
    task = make_toy(noise=0.3)
    policies = jax.random.uniform(jax.random.key(5), (5, 2), minval=-0.5, maxval=1.2)
    keys = keys_for(5, 1)
    _, found = play(task, policies, keys, episodes=3, config=RolloutConfig(3, 7))
    recorder = trait_recorder(task)
    for row in range(5):
        for episode in range(3):
            state = task.reset(jax.random.fold_in(keys[row], episode))
            start = (float(state.physics["x"]), float(state.physics["y"]))
            expected = by_hand(policies[row].tolist(), start)
            np.testing.assert_allclose(found[row, episode], list(expected.values()), rtol=1e-4, atol=1e-5)
    record = recorder.init()  # the last episode once more, op by op
    while not state.done and record.steps < task.episode_length:
        record = recorder.update(record, state, policies[4], keys[4])
        state = task.step(state, policies[4])
    np.testing.assert_allclose(summarise_traits(task, record), found[4, 2], rtol=1e-5, atol=1e-6)


def feed(task, states):
    """The traits of a life given as (position, pitch, contacts) a step."""
    bare = dataclasses.replace(
        task, torso=lambda state: Torso(*state.physics[:2]), measure=lambda state: state.physics[2]
    )
    recorder = trait_recorder(bare)

    def add(record, physics):
        state = TaskState(physics, jnp.zeros(3), jnp.zeros(()), jnp.zeros(()))
        return recorder.update(record, state, jnp.zeros(2), jax.random.key(0)), None

    record, _ = jax.lax.scan(add, recorder.init(), states)
    return dict(zip((trait.name for trait in traits(bare)), summarise_traits(bare, record), strict=True))


def test_small_variations_of_a_great_height_survive_rounding():
    rng = np.random.default_rng(0)
    heights = (100.0 + 0.001 * rng.normal(size=1000)).astype(np.float32)
    place = np.stack([np.zeros(1000), np.zeros(1000), heights], 1).astype(np.float32)
    found = feed(make_toy(), (place, np.zeros(1000, np.float32), np.zeros((1000, 2), np.float32)))
    assert float(found["height variation"]) == pytest.approx(heights.astype(float).std(), rel=1e-3)
    assert float(found["height"]) == pytest.approx(heights.astype(float).mean(), abs=1e-4)


@pytest.mark.parametrize(("dt", "steps"), [(1.0, 4), (0.02, 4), (0.015, 3), (0.008, 2)])
def test_a_chattering_contact_is_no_step(dt, steps):
    """One foot, in the air for 1, 2, 3 and 4 states between contacts; 0.02 s are 1, 1, 2 and 3 states."""
    contacts = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0], np.float32)
    count = len(contacts)
    task = dataclasses.replace(make_toy(), dt=dt)
    found = feed(task, (jnp.zeros((count, 3)), jnp.zeros(count), np.stack([contacts, 0 * contacts], 1)))
    assert float(found["cadence"]) == pytest.approx(steps / ((count - 1) * dt), rel=1e-5)


def test_angles_average_on_the_circle():
    """Upside down, swaying to both sides of pi, is not upright."""
    pitch = jnp.array([3.0, -3.0, 3.1, -3.1])
    found = feed(make_toy(), (jnp.zeros((4, 3)), pitch, jnp.zeros((4, 2))))
    assert abs(float(found["pitch"])) == pytest.approx(math.pi, abs=1e-5)


def test_a_life_of_one_step_is_finite():
    found = feed(make_toy(), (jnp.ones((1, 3)), jnp.array([0.5]), jnp.array([[1.0, 0.0]])))
    rounded = {name: round(float(value), 5) for name, value in found.items()}
    assert rounded == {
        "forward speed": 0.0, "height": 1.0, "height variation": 0.0, "pitch": 0.5, "airborne": 0.0, "cadence": 0.0,
        "asymmetry": 1.0, "effort": 0.0, "survival": 0.05,
    }  # fmt: skip


def test_memory_does_not_grow_with_the_episode():
    def bytes_of(length):
        task = make_toy(episode_length=length)
        program = partial(
            rollout_batch, task, push, episodes=2, config=RolloutConfig(4, 10), recorder=trait_recorder(task)
        )
        compiled = jax.jit(program).lower(jnp.array(ACTIONS), keys_for(6)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = bytes_of(100), bytes_of(1000)
    assert short > 0
    assert long == short


@pytest.mark.parametrize("name", SPECS)
def test_every_task_has_traits(name):
    task = make_task(name, episode_length=70)
    names = [column.name for column in columns(task)]
    expected = [trait.name for trait in TRAITS if name != "hopper" or trait.name != "asymmetry"]
    assert names == [*expected, *task.measure_names]
    assert len(set(names)) == len(names)
    assert all(column.unit and column.meaning for column in columns(task))
    feet = [foot for _, side in task.sides for foot in side]
    assert sorted(feet) == ([] if name == "hopper" else list(range(task.measures)))
    for side, numbers in task.sides:
        assert all(side in task.measure_names[foot].split() for foot in numbers)

    def one(key):
        recorder, state = trait_recorder(task), task.reset(key)
        return summarise_traits(task, recorder.update(recorder.init(), state, jnp.zeros(task.action_size), key))

    assert jax.eval_shape(one, jax.random.key(0)).shape == (len(traits(task)),)


def test_a_task_without_a_torso_has_no_traits():
    with pytest.raises(ValueError, match="task 'toy' has no traits: it does not say where its torso is"):
        trait_recorder(dataclasses.replace(make_toy(), torso=None))


def test_a_task_of_final_places_has_no_traits():
    task = dataclasses.replace(make_toy(), reduce="last")
    assert not has_traits(task) and has_traits(make_toy())
    assert behaviour_recorder(task) is NO_RECORD
    with pytest.raises(ValueError, match="task 'toy' has no traits: .* its measures are no means over steps"):
        columns(task)


def test_without_pairs_there_is_no_asymmetry():
    task = dataclasses.replace(make_toy(), sides=())
    _, found = play(task, jnp.array(ACTIONS), keys_for(6))
    values = [value for name, value in by_hand(ACTIONS[1]).items() if name != "asymmetry"]
    np.testing.assert_allclose(found[1, 0], values, rtol=1e-5, atol=1e-6)


def test_walker_agrees_with_brax(walker):
    """Against positions, the joint `rooty` and touches, which the same program writes down before every step."""
    task, traits = walker.task, trait_recorder(walker.task)
    seen = {"pos": (3,), "angle": (), "touches": (task.measures,)}

    def note(record, state, action, key):
        own, written, step = record
        physics = state.physics
        now = {"pos": physics.x.pos[0], "angle": physics.q[2], "touches": task.measure(state)}
        written = {name: written[name].at[step].set(now[name]) for name in written}
        return traits.update(own, state, action, key), written, step + 1

    def start():
        blank = {name: jnp.zeros((task.episode_length, *shape)) for name, shape in seen.items()}
        return traits.init(), blank, jnp.zeros((), jnp.int32)

    program = partial(rollout_batch, task, walker.shape.apply, recorder=Recorder(start, note))
    score, (record, written, _) = jax.jit(program)(walker.policies, keys_for(4, 7))
    written = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], written)
    found = jax.vmap(jax.vmap(partial(traits_and_measures, task)))(score, record)[:, 0]
    found = dict(zip((column.name for column in columns(task)), np.asarray(found).T, strict=True))

    lengths = np.asarray(score.length[:, 0], int)
    assert lengths.min() < task.episode_length
    for row, lived in enumerate(lengths):
        x, height = written["pos"][row, :lived, 0], written["pos"][row, :lived, 2]
        velocity = np.diff(x) / task.dt
        assert found["forward speed"][row] == pytest.approx(velocity.mean(), abs=1e-3)
        assert found["height"][row] == pytest.approx(height.mean(), abs=1e-4)
        assert found["height variation"][row] == pytest.approx(height.std(), rel=1e-2)
        assert found["pitch"][row] == pytest.approx(written["angle"][row, :lived].mean(), abs=5e-3)
        feet = written["touches"][row, :lived]  # before each step, one earlier than the measures'
        assert found["asymmetry"][row] == pytest.approx((feet[:, 0] - feet[:, 1]).mean(), abs=1e-5)
        assert found["airborne"][row] == pytest.approx((feet.sum(1) == 0).mean(), abs=1e-5)
        flights = [len(air) for foot in feet.T for air in "".join(map(str, foot.astype(int))).split("1")[:-1] if air]
        touchdowns, seconds = sum(length >= 3 for length in flights), (lived - 1) * task.dt
        assert found["cadence"][row] == pytest.approx(touchdowns / seconds, abs=2.01 / seconds)
    np.testing.assert_allclose(found["right foot"], score.measures[:, 0, 0])
    np.testing.assert_allclose(found["left foot"], score.measures[:, 0, 1])
    np.testing.assert_allclose(found["survival"], lengths / task.episode_length, rtol=1e-6)
    assert np.ptp(found["forward speed"]) > 0.1  # they differ
    assert np.abs(found["pitch"]).max() > 0.1
    assert found["cadence"].max() > 0.0


@pytest.mark.parametrize("turn", [0.0, 2.0, -1.0], ids=["ahead", "turned left", "turned right"])
def test_pitch_does_not_depend_on_where_a_body_faces(turn):
    """A body turned about z, then pitched by 0.3 about its own y axis."""
    about_z = np.array([math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)])
    about_y = np.array([math.cos(0.15), 0.0, math.sin(0.15), 0.0])
    w, _, _, z = about_z
    rotation = np.array([w * about_y[0], -z * about_y[2], w * about_y[2], z * about_y[0]])  # their Hamilton product
    task = make_task("humanoid", episode_length=5)
    state = jax.eval_shape(task.reset, jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    x = state.physics.x.replace(rot=state.physics.x.rot.at[0].set(jnp.asarray(rotation, jnp.float32)))
    assert task.torso is not None
    found = task.torso(dataclasses.replace(state, physics=state.physics.replace(x=x)))
    assert float(found.pitch) == pytest.approx(0.3, abs=1e-5)
