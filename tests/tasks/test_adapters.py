"""Own environments as tasks: against steps by hand, QDax's own scoring, and environments that cannot be used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import envs
from brax.envs.base import State
from flax import struct
from qdax.tasks.brax import v2 as qdax_envs

from ldpol.rollout import RolloutConfig, rollout_batch
from ldpol.tasks import Reduction, make_task, reduction, task_from_env, task_from_qdax


class Drift:
    """A point on a line that drifts by its action, with a key in its state and a dict in its info, written in place."""

    action_size, episode_length, dt = 1, 8, 0.5

    def reset(self, key):
        where = 0.1 * jax.random.uniform(key)
        info = {"key": key, "where": where, "count": 0}
        return State(None, jnp.stack([where, -where]), 0.0, jnp.zeros((), bool), {}, info)

    def step(self, state, action):
        key, noise = jax.random.split(state.info["key"])
        where = state.info["where"] + action[0] + 0.01 * jax.random.normal(noise)
        state.info["key"], state.info["where"], state.info["count"] = key, where, state.info["count"] + 1
        return state.replace(obs=jnp.stack([where, -where]), reward=where, done=where > 2.0)


BOUNDS = {"measure_names": ("where",), "low": (-1.0,), "high": (1.0,)}


def make(env=None, **changes):
    measure = lambda state: state.info["where"][None]  # noqa: E731
    return task_from_env(env or Drift(), **{"name": "drift", "measure": measure} | BOUNDS | changes)


def test_an_own_environment_by_hand():
    task = make()
    assert (task.observation_size, task.action_size, task.episode_length, task.dt) == (2, 1, 8, 0.5)
    assert task.settings == (("backend", "own"), ("episode_length", 8), ("reset_noise", None))
    state = jax.jit(task.reset)(jax.random.key(3))
    key, where = jax.random.key(3), 0.1 * jax.random.uniform(jax.random.key(3))
    for push in (0.5, 3.0, -0.25):
        old = state
        state = jax.jit(task.step)(state, jnp.array([push]))
        key, noise = jax.random.split(key)
        where = where + min(max(push, -1.0), 1.0) + 0.01 * jax.random.normal(noise)
        np.testing.assert_allclose(task.measure(state), [where], rtol=1e-5)
        np.testing.assert_allclose(state.observation, [where, -where], rtol=1e-5)
        np.testing.assert_allclose(state.reward, where, rtol=1e-5)
        assert (state.done.dtype, float(state.done)) == (jnp.float32, float(where > 2.0))
        assert float(task.measure(old)[0]) != float(task.measure(state)[0])
    assert int(state.physics.info["count"]) == 3


def test_a_step_leaves_the_state_before_it_alone():
    """Brax and QDax write into the info of the state they are given; measures before the step must not notice."""

    def both(key):
        state = task.reset(key)
        after = task.step(state, jnp.ones(1))
        return task.measure(state), task.measure(after)

    task = make()
    before, after = both(jax.random.key(0))
    assert float(after[0] - before[0]) > 0.9


def test_actions_are_clipped_unless_told_otherwise():
    free = make(clip_actions=False)
    state = free.step(free.reset(jax.random.key(0)), jnp.array([5.0]))
    assert float(state.reward) > 4.5


def test_a_fixed_reset():
    fixed = make(reset_key=jax.random.key(7))
    one, other = (fixed.reset(jax.random.key(i)).observation for i in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, make().reset(jax.random.key(7)).observation)


def test_states_keep_one_type():
    """Weak types, Python numbers and bools would make a loop's carry change its type after a step."""
    task = make()
    state = jax.eval_shape(task.reset, jax.random.key(0))

    def loop(key):
        return jax.lax.fori_loop(0, 3, lambda i, state: task.step(state, jnp.ones(1)), task.reset(key))

    after = jax.eval_shape(loop, jax.random.key(0))
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)


class Odd(Drift):
    """What goes wrong, one at a time."""

    def __init__(self, kind):
        self.kind = kind

    def reset(self, key):
        state = super().reset(key)
        if self.kind == "dict":
            return state.replace(obs={"state": jnp.zeros(4), "privileged_state": jnp.zeros(9)})
        if self.kind == "image":
            return state.replace(obs=jnp.zeros((4, 4)))
        if self.kind == "clip":
            raise TypeError("clip() got an unexpected keyword argument 'a_max'")
        if self.kind == "warp":
            raise RuntimeError("warp-lang is not installed")
        return state

    def step(self, state, action):
        after = super().step(state, action)
        if self.kind == "type":
            after.info["count"] = after.info["count"] * 1.0
        if self.kind == "more":
            after.info["new"] = jnp.zeros(2)
        if self.kind == "dict":
            return after.replace(obs={"state": jnp.zeros(4), "privileged_state": jnp.zeros(9)})
        if self.kind == "image":
            return after.replace(obs=jnp.zeros((4, 4)))
        return after


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"env": Odd("type")},
            r"after a step `.info\['count'\]` is float32 \[\], at reset int32 \[\]: reset and step must",
        ),
        ({"env": Odd("more")}, r"after a step `.info\['new'\]` is float32 \[2\], at reset missing"),
        ({"env": Odd("dict")}, r"are a dict privileged_state \(9\), state \(4\); pass observe='state'"),
        ({"env": Odd("dict"), "observe": "stat"}, r"found observe='stat'; pass observe='state'"),
        ({"env": Odd("image")}, r"a policy sees one vector \[O\], found \[4, 4\]; pass observe="),
        ({"env": Odd("clip")}, r"QDax <= 0.5.1 does not run its \*_omni tasks on jax 0.10; use task_from_env"),
        ({"env": Odd("warp")}, r"Playground's default physics needs warp-lang; registry.load\(..., config_overrides"),
        ({"measure": lambda state: jnp.zeros(4)}, r"measure returned \[4\], 1 names are given"),
        ({"measure_names": ("a", "b")}, "2 measure names, 1 low and 1 high bounds"),
        ({"low": (1.0,)}, "every measure needs low < high, found none or wrong bounds for .'where'."),
        ({"reduce": "median"}, "reduced by mean, last, max, min or a Reduction.*found 'median'"),
        ({"env": type("Bare", (), {})()}, "say episode_length=, the environment has none"),
        ({"env": type("Bare", (), {"episode_length": 3})()}, "say action_size=, the environment has none"),
    ],
)
def test_environments_that_cannot_be_used(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes).reduction  # noqa: B018


def test_one_of_several_observations():
    assert make(Odd("dict"), observe="state").observation_size == 4
    assert make(Odd("image"), observe=lambda state: state.obs.reshape(-1)).observation_size == 16


def test_reductions_by_hand():
    """Three steps through positions 1, 5, -2, 4: the first is the reset's, and counts only before steps."""
    places = [1.0, 5.0, -2.0, 4.0]
    measure = lambda place: jnp.array([place, -place])  # noqa: E731
    expected = {
        ("mean", "after"): 7 / 3,
        ("mean", "before"): 4 / 3,
        ("last", "after"): 4.0,
        ("last", "before"): -2.0,
        ("max", "after"): 5.0,
        ("max", "before"): 5.0,
        ("min", "after"): -2.0,
        ("min", "before"): -2.0,
    }
    for (reduce, when), value in expected.items():
        way = reduction(measure, 2, reduce, when)
        record = way.init()
        for before, after in zip(places, places[1:], strict=False):
            record = way.update(record, before, jnp.zeros(1), after)
        found = way.finish(record, jnp.asarray(3.0))
        flipped = {"max": -min(places[when == "after" :][:3]), "min": -max(places[when == "after" :][:3])}
        np.testing.assert_allclose(found, [value, flipped.get(reduce, -value)], rtol=1e-6)
    own = Reduction(
        lambda: jnp.zeros(1), lambda record, before, action, after: record + 1, lambda record, length: record
    )
    assert reduction(measure, 2, own, "after") is own
    assert make(reduce=own).reduction is own


def test_only_means_are_means_of_steps():
    assert make().is_mean_of_steps
    assert not make(reduce="last").is_mean_of_steps


BRAX_SAYS = pytest.mark.filterwarnings("ignore:Brax System, piplines")


@BRAX_SAYS
def test_qdax_tasks_state_themselves():
    env = qdax_envs.create("walker2d_uni", episode_length=30)
    task = task_from_qdax(env)
    assert (task.name, task.episode_length, task.reduce, task.when) == ("walker2d_uni", 30, "mean", "before")
    assert (task.observation_size, task.action_size, task.measure_names) == (17, 6, ("foot", "foot left"))
    assert (task.measure_low, task.measure_high) == ((0.0, 0.0), (1.0, 1.0))
    assert task_from_qdax(env, name="mine", episode_length=9).name == "mine"
    with jax.numpy_rank_promotion("allow"):  # Brax does
        whole = jax.eval_shape(env.reset, jax.random.key(0))
    assert len(jax.tree.leaves(jax.eval_shape(task.reset, jax.random.key(0)).physics)) < len(jax.tree.leaves(whole))


@BRAX_SAYS
def test_qdax_tasks_that_cannot_be_used():
    with pytest.raises(ValueError, match=r"no descriptor: QDax's ant_uni finds no feet.*ldpol.make_task\('ant'\)"):
        task_from_qdax(qdax_envs.create("ant_uni"))
    with pytest.raises(ValueError, match="no descriptor"):
        task_from_qdax(envs.create("hopper"))
    with pytest.raises(ValueError, match=r"does not run its \*_omni tasks on jax"):
        task_from_qdax(qdax_envs.create("ant_omni"))


def test_the_robots_are_means_after_steps():
    task = make_task("hopper")
    assert (task.reduce, task.when, task.is_mean_of_steps) == ("mean", "after", True)
    assert dict(task.settings) == {"backend": "spring", "episode_length": 500, "reset_noise": task.reset_noise}
    assert dataclasses.replace(task, reduce="last").reduction.init().shape == (1,)


@struct.dataclass
class Plain:
    obs: jax.Array
    reward: jax.Array
    done: jax.Array


def test_a_state_may_be_any_pytree():
    class Env:
        def reset(self, key):
            return Plain(jax.random.normal(key, (3,)), jnp.zeros(()), jnp.zeros(()))

        def step(self, state, action):
            return state.replace(obs=state.obs + action, reward=action.sum())

    task = task_from_env(
        Env(), name="plain", measure=lambda state: state.obs[:1], action_size=3, episode_length=4, **BOUNDS
    )
    assert float(task.step(task.reset(jax.random.key(0)), jnp.full(3, 0.25)).reward) == 0.75


@pytest.mark.parametrize(
    ("reduce", "when"), [("last", "after"), ("last", "before"), ("max", "after"), ("mean", "before")]
)
def test_rollouts_reduce_the_steps_lived(reduce, when):
    """Against a loop in Python, for episodes that end at different steps, on fewer lanes than episodes."""
    task = make(reduce=reduce, when=when, episode_length=6)
    pushes = jnp.linspace(-0.5, 1.0, 7)[:, None]
    keys = jax.random.split(jax.random.key(5), len(pushes))
    apply = lambda push, seen: push  # noqa: E731
    play = jax.jit(
        lambda pushes, keys: rollout_batch(task, apply, pushes, keys, config=RolloutConfig(lanes=3, block=2))
    )
    found = play(pushes, keys)
    step = jax.jit(task.step)
    for i, push in enumerate(pushes):
        state, places = task.reset(jax.random.fold_in(keys[i], 0)), []
        while len(places) < 6:
            before, state = state, step(state, push)
            places.append(float(task.measure(before if when == "before" else state)[0]))
            if state.done:
                break
        expected = {"last": places[-1], "max": max(places), "mean": np.mean(places)}[reduce]
        assert int(found.length[i, 0]) == len(places)
        np.testing.assert_allclose(found.measures[i, 0], [expected], rtol=1e-5)
    assert len(np.unique(found.length)) > 1
