"""Rollouts: sums by hand, the queue against a loop, devices, keys, recorders, memory, and dead lanes."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_toy, play_by_hand, push

from ldpol.rollout import (
    Device,
    Recorder,
    RolloutConfig,
    keep_states,
    over_chunks,
    policy_mesh,
    rollout,
    rollout_batch,
    split_over,
)
from ldpol.settings import SettingsError
from ldpol.tasks import make_task
from ldpol.types import Score, mean_score

# Multiples of 1/8 keep every position exact. Lives of 4, 8, 16, 5 steps; the last two time out.
ACTIONS = jnp.array([[1.0, 1.0], [0.5, -0.5], [0.25, 3.0], [0.875, 0.0], [0.0, 0.125], [-1.0, -1.0]])
LIVES = [4, 8, 16, 5, 20, 20]


def keys_for(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def assert_scores(found, expected, **tolerance):
    chex.assert_trees_all_equal_shapes(found, expected)
    jax.tree.map(partial(np.testing.assert_allclose, **({"rtol": 1e-6, "atol": 1e-6} | tolerance)), found, expected)


def test_rollout_by_hand():
    task = make_toy()
    play = jax.jit(partial(rollout, task, push))
    for action, life in zip(ACTIONS, LIVES, strict=True):
        score = play(action, jax.random.key(0))
        fitness, measures, length = play_by_hand(action.tolist())
        assert (int(score.length), length) == (life, life)
        assert float(score.fitness) == pytest.approx(fitness)
        np.testing.assert_allclose(score.measures, measures, rtol=1e-6)
    # The second policy in full: x = 1/8 ... 8/8, above 0.5 in 4 of 8 steps; y = -1/8 ... -8/8.
    score = play(ACTIONS[1], jax.random.key(0))
    assert (float(score.fitness), score.measures.tolist(), float(score.length)) == (-4.5, [0.5, 0.0], 8.0)


def test_evaluate_by_hand():
    scores = jax.jit(partial(rollout_batch, make_toy(), push))(ACTIONS, keys_for(6))
    expected = [play_by_hand(action) for action in ACTIONS.tolist()]
    np.testing.assert_allclose(scores.fitness[:, 0], [fitness for fitness, _, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(scores.measures[:, 0], [measures for _, measures, _ in expected], rtol=1e-6)
    np.testing.assert_array_equal(scores.length[:, 0], LIVES)


def loop(task, policies, keys, episodes):
    """What `rollout_batch` promises, one episode at a time."""
    play = jax.jit(partial(rollout, task, push))
    rows = [
        [play(policy, jax.random.fold_in(key, episode)) for episode in range(episodes)]
        for policy, key in zip(policies, keys, strict=True)
    ]
    rows = [jax.tree.map(lambda *leaves: np.stack(leaves), *row) for row in rows]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


@pytest.fixture(scope="module")
def noisy():
    """Seven policies that play three noisy episodes each, and their scores from the loop."""
    task = make_toy(noise=0.3)
    policies = jax.random.uniform(jax.random.key(5), (7, 2), minval=-0.5, maxval=1.2)
    keys = keys_for(7, 1)
    scores = loop(task, policies, keys, 3)
    assert len(np.unique(scores.length)) > 4
    assert np.ptp(scores.fitness, axis=1).min() > 0  # episodes of a policy differ
    return task, policies, keys, scores


@pytest.mark.parametrize(
    ("lanes", "block"),
    [(4, 5), (64, 7), (1, 20), (21, 1), (5, 64)],
    ids=["ragged", "more lanes than jobs", "one lane", "all lanes", "block beyond the episode"],
)
@pytest.mark.parametrize("layout", ["last", "first"])
def test_the_queue_agrees_with_a_loop(noisy, lanes, block, layout):
    task, policies, keys, expected = noisy
    play = jax.jit(partial(rollout_batch, task, push, episodes=3, config=RolloutConfig(lanes, block, layout)))
    assert_scores(play(policies, keys), expected)


def test_jit_agrees_with_eager(noisy):
    task, policies, keys, expected = noisy
    assert_scores(rollout_batch(task, push, policies, keys, episodes=3, config=RolloutConfig(4, 5)), expected)


def test_two_devices_agree_with_one(noisy, mesh):
    task, policies, keys, expected = noisy
    policies, keys = policies[:6], keys[:6]
    play = jax.jit(partial(rollout_batch, task, push, episodes=3, config=RolloutConfig(4, 5), mesh=mesh))
    split = split_over(mesh)
    scores = play(*jax.device_put((policies, keys), split))
    assert all(leaf.sharding.is_equivalent_to(split, leaf.ndim) for leaf in jax.tree.leaves(scores))
    assert_scores(scores, jax.tree.map(lambda leaf: leaf[:6], expected))


def test_a_score_does_not_depend_on_batch_mates(noisy):
    task, policies, keys, _ = noisy
    play = jax.jit(partial(rollout_batch, task, push, episodes=2, config=RolloutConfig(4, 5)))
    whole = play(policies, keys)
    order = np.array([6, 0, 3])
    part = play(policies[order], keys[order])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), whole, part)
    other_keys = play(policies, keys_for(7, 2))
    assert (np.asarray(other_keys.fitness) != np.asarray(whole.fitness)).all()


def test_one_trace(noisy):
    task, policies, keys, _ = noisy
    chex.clear_trace_counter()

    def program(policies, keys):
        return rollout_batch(task, push, policies, keys, episodes=2)

    play = jax.jit(chex.assert_max_traces(program, n=1))
    first = play(policies, keys)
    second = play(policies + 0.1, keys_for(7, 3))
    assert (np.asarray(first.fitness) != np.asarray(second.fitness)).any()


def test_dead_lanes_leak_no_nan(noisy):
    """The toy's physics is NaN two steps after death, long before a lane is refilled."""
    task, policies, keys, expected = noisy
    state, dead = task.reset(keys[0]), []
    for _ in range(8):
        state = task.step(state, jnp.array([1.0, 1.0]))
        dead.append(bool(jnp.isnan(state.reward)))
    assert dead[-1]
    config = RolloutConfig(lanes=3, block=50)
    recorder = keep_states(task, 4)
    scores, (seen, _) = jax.jit(partial(rollout_batch, task, push, episodes=3, config=config, recorder=recorder))(
        policies, keys
    )
    assert_scores(scores, expected)
    assert np.isfinite(seen).all()


def test_mean_score_averages_the_episodes(noisy):
    *_, scores = noisy
    mean = mean_score(jax.tree.map(jnp.asarray, scores))
    for row in range(7):
        for name in ("fitness", "measures", "length"):
            np.testing.assert_allclose(
                getattr(mean, name)[row], sum(getattr(scores, name)[row]) / 3, rtol=1e-5, atol=1e-6
            )
    with pytest.raises(ValueError, match="axis must count from the end, found 1"):
        mean_score(scores, axis=1)


@pytest.mark.parametrize("extra", [False, True], ids=["scores", "recorder"])
def test_memory_does_not_grow_with_the_episode(extra):
    def bytes_of(length):
        task = make_toy(episode_length=length)
        recorder = keep_states(task, 8) if extra else None
        play = jax.jit(partial(rollout_batch, task, push, episodes=2, config=RolloutConfig(4, 10), recorder=recorder))
        return play.lower(ACTIONS, keys_for(6)).compile().memory_analysis().temp_size_in_bytes

    short, long = bytes_of(100), bytes_of(1000)
    assert short > 0
    assert long == short


def test_what_does_not_fit():
    task = make_toy()
    with pytest.raises(ValueError, match=r"5 keys for policies with leading axes \[6\]"):
        rollout_batch(task, push, ACTIONS, keys_for(5))
    with pytest.raises(ValueError, match=r"2 keys for policies with leading axes \[2, 3\]"):
        rollout_batch(task, push, {"a": jnp.zeros((2, 1)), "b": jnp.zeros((3, 1))}, keys_for(2))
    with pytest.raises(ValueError, match="episodes must be at least 1, found 0"):
        rollout_batch(task, push, ACTIONS, keys_for(6), episodes=0)


def test_policies_that_do_not_split_over_the_devices(mesh):
    with pytest.raises(ValueError, match="5 policies do not split evenly over 2 devices"):
        rollout_batch(make_toy(), push, ACTIONS[:5], keys_for(5), mesh=mesh)


# Recorders


def record(task, count, policies, keys, episodes=1):
    play = partial(
        rollout_batch, task, push, episodes=episodes, config=RolloutConfig(8, 6), recorder=keep_states(task, count)
    )
    return jax.jit(play)(policies, keys)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lanes": 0}, "lanes must be at least 1, found 0"),
        ({"block": 0}, "block must be at least 1, found 0"),
        ({"layout": "middle"}, "layout is unknown; choose one of last, first"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(SettingsError, match=message):
        RolloutConfig(**setting)


def test_devices_have_their_own_defaults():
    assert RolloutConfig().on("cpu") == Device("last", 128)
    assert RolloutConfig().on("cuda").layout == "first"
    assert RolloutConfig(lanes=7, layout="last").on("cuda") == Device("last", 7)


def test_reservoir_holds_only_states_the_policy_saw():
    """Observations are those before each step lived: x = SPEED * a * step, with step 0 ... life - 1."""
    scores, (seen, steps) = record(make_toy(), 6, ACTIONS, keys_for(6), episodes=2)
    np.testing.assert_array_equal(steps, np.array(LIVES)[:, None] * [1, 1])
    np.testing.assert_array_equal(scores.length, steps)
    for policy, life in enumerate(LIVES):
        for episode in range(2):
            kept = np.asarray(seen[policy, episode])
            step = kept[:, 2]
            assert set(step) <= set(range(life))
            x = np.maximum(0.25 * float(ACTIONS[policy, 0]) * step, -1.0)
            np.testing.assert_allclose(kept[:, 0], x, atol=1e-6)
            if life <= 6:
                assert set(step) == set(range(life))  # all of a short life is kept
            else:
                assert len(set(step)) == 6  # drawn without replacement


def test_reservoir_is_uniform():
    """Chi-square of how often each of 20 steps is among the 5 kept, over 4000 episodes."""
    episodes, count, length = 4000, 5, 20
    _, (seen, _) = record(make_toy(episode_length=length), count, jnp.zeros((1, 2)), keys_for(1), episodes)
    hits = np.bincount(np.asarray(seen)[0, :, :, 2].astype(int).ravel(), minlength=length)
    assert hits.sum() == episodes * count
    share = count / length
    # Sampling without replacement: the variance of a count is n p (1 - p); their sum is fixed.
    statistic = ((hits - episodes * share) ** 2).sum() / (episodes * share * (1 - share)) * (length - 1) / length
    assert statistic < 43.8  # 0.1 % point of chi-square with 19 degrees of freedom
    pairs = np.zeros((length, length))
    for kept in np.asarray(seen)[0, :, :, 2].astype(int):
        pairs[np.ix_(kept, kept)] += 1
    joint = pairs[~np.eye(length, dtype=bool)] / episodes
    expected = share * (count - 1) / (length - 1)
    assert np.abs(joint - expected).max() < 5 * np.sqrt(expected / episodes)


def test_a_recorder_sees_every_step_lived_once():
    """Its own sums of actions and of steps agree with the policy and the length."""
    recorder = Recorder(
        lambda: {"sum": jnp.zeros(2), "steps": jnp.zeros(())},
        lambda r, state, action, key: {
            "sum": r["sum"] + action,
            "steps": r["steps"] + jnp.where(state.observation[2] == r["steps"], 1.0, 100.0),
        },
    )
    play = jax.jit(partial(rollout_batch, make_toy(), push, episodes=2, config=RolloutConfig(3, 7), recorder=recorder))
    scores, records = play(ACTIONS, keys_for(6))
    np.testing.assert_array_equal(records["steps"], scores.length)
    np.testing.assert_allclose(records["sum"], np.asarray(ACTIONS)[:, None] * np.asarray(scores.length)[..., None])


# The host loop


@pytest.mark.parametrize(("count", "size"), [(10, 4), (10, 10), (3, 8), (9, 2)])
def test_over_chunks_keeps_order_and_keys(mesh, count, size):
    traces, done = [], []

    def program(rows, keys):
        traces.append(1)
        return {"row": rows["a"] * 10, "bits": jax.vmap(jax.random.bits)(keys)}

    inputs = {"a": np.arange(count)}
    key = jax.random.key(3)
    out = over_chunks(jax.jit(program), inputs, key, size=size, mesh=mesh, done=done.append)
    assert isinstance(out["row"], np.ndarray)
    np.testing.assert_array_equal(out["row"], 10 * np.arange(count))
    expected = [int(jax.random.bits(jax.random.fold_in(key, row))) for row in range(count)]
    np.testing.assert_array_equal(out["bits"], expected)
    assert sum(done) == count
    assert len(done) == -(-count // size)
    assert len(traces) == 1


def test_over_chunks_of_rollouts_agree_with_one_batch(noisy, mesh):
    task, policies, _, _ = noisy
    key = jax.random.key(8)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(7))
    expected = jax.jit(partial(rollout_batch, task, push, episodes=2))(policies, keys)
    program = jax.jit(partial(rollout_batch, task, push, episodes=2, mesh=mesh))
    found = over_chunks(program, policies, key, size=4, mesh=mesh)
    assert isinstance(found, Score)
    assert_scores(found, expected)


# Real physics


def test_walker_scores_agree_with_sums_over_its_states(walker, mesh):
    """An endless episode, cut by hand where Brax's walker counts as fallen, gives the score of the real one.

    A foot rests on the ground to a millionth of a metre, so that the rounding of another program decides whether it
    touches and what it earns: both are recorded by the program that is tested, at the steps of an endless episode.
    """
    task, steps = walker.task, walker.task.episode_length
    endless = make_task("walker2d", episode_length=steps, reset_noise=0.0, terminate=False)

    def note(record, state, action, key):
        touches, rewards, step = record
        after = endless.step(state, action)
        return touches.at[step].set(task.measure(after)), rewards.at[step].set(after.reward), step + 1

    recorder = Recorder(lambda: (jnp.zeros((steps, task.measures)), jnp.zeros(steps), jnp.zeros((), jnp.int32)), note)
    play = partial(rollout_batch, task, walker.shape.apply, config=RolloutConfig(2, 9), mesh=mesh, recorder=recorder)
    scores, (touches, rewards, _) = jax.jit(play)(walker.policies, keys_for(4))
    x = walker.states.physics.x
    height, pitch = np.asarray(x.pos)[:, :, 0, 2], np.asarray(walker.states.observation)[:, :, 1]
    fallen = (height < 0.8) | (height > 2.0) | (np.abs(pitch) > 1.0)
    length = np.where(fallen.any(1), fallen.argmax(1) + 1, steps)
    assert length.min() < steps
    np.testing.assert_array_equal(scores.length[:, 0], length)
    rewards = np.asarray(rewards)[:, 0] + fallen  # the step of the fall still earns the reward for living
    for row, lived in enumerate(length):
        np.testing.assert_allclose(scores.measures[row, 0], np.asarray(touches)[row, 0, :lived].mean(0), atol=1e-6)
        np.testing.assert_allclose(scores.fitness[row, 0], rewards[row, :lived].sum(), rtol=1e-5)


EIGHT = """
import json, sys
from functools import partial
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from ldpol.rollout import RolloutConfig, policy_mesh, rollout_batch, split_over

def compare(task, apply, policies, episodes, config):
    mesh = policy_mesh()
    keys = jax.random.split(jax.random.key(1), jax.tree.leaves(policies)[0].shape[0])
    play = partial(rollout_batch, task, apply, episodes=episodes, config=config)
    split = jax.device_put((policies, keys), split_over(mesh))
    compiled = jax.jit(partial(play, mesh=mesh)).lower(*split).compile()
    many, one = compiled(*split), jax.jit(play)(policies, keys)
    gap = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), many, one)
    devices = sorted({shard.device.id for shard in many.fitness.addressable_shards})
    print(json.dumps({
        "hlo": compiled.as_text(), "devices": devices, "lengths": np.asarray(one.length).ravel().tolist(),
        "gap": {"fitness": float(gap.fitness), "measures": float(gap.measures), "length": float(gap.length)},
    }))
"""
TOY = """
from toy import make_toy, push
policies = jax.random.uniform(jax.random.key(5), (24, 2), minval=-0.5, maxval=1.2)
compare(make_toy(noise=0.3), push, policies, 3, RolloutConfig(4, 5))
"""
WALKER = """
from ldpol.networks import MLP
from ldpol.settings import SettingsError
from ldpol.tasks import make_task
task = make_task("walker2d", episode_length=30)
shape = MLP(task.observation_size, task.action_size, (8,))
policies = jax.jit(jax.vmap(shape.init))(jax.random.split(jax.random.key(0), 8))
compare(task, shape.apply, policies, 1, RolloutConfig(2, 10))
"""


@pytest.mark.parametrize("body", [TOY, pytest.param(WALKER, marks=pytest.mark.slow)], ids=["toy", "walker2d"])
def test_eight_devices_share_the_work_without_talking(body, tmp_path):
    tests = Path(__file__).parent
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}  # its own, so that the text is of a fresh compilation
    environment = os.environ | cache | {"PYTHONPATH": str(tests), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", EIGHT + body]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["devices"] == list(range(8))
    assert "while" in found["hlo"]
    assert "num_partitions=8" in found["hlo"]
    for collective in ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter"):
        assert collective not in found["hlo"]
    assert min(found["lengths"]) > 0
    assert found["gap"]["length"] == 0
    assert found["gap"]["measures"] < 1e-5
    assert found["gap"]["fitness"] < 1e-3


def test_policy_mesh(devices):
    assert policy_mesh().shape == {"policies": 2}
    assert policy_mesh(devices[:1]).shape == {"policies": 1}
