"""Damaged robots by hand, and searches on them without physics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_toy, push

from ldpol.errors import UserError
from ldpol.evaluation.recovery import Pool, judge, make_play, search
from ldpol.evaluation.suites.damage import Damages, damage_metrics
from ldpol.planning.adaptation import AdaptConfig, Repertoire
from ldpol.rollout import RolloutConfig, policy_mesh, rollout
from ldpol.tasks import Damage, damaged, locomotion, make_task, weaken

TOY = make_toy(width=9.0)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_dead_actuator_is_an_action_of_zero():
    state = TOY.reset(jax.random.key(0))
    broken = damaged(TOY, Damage("left leg dead", (0.0, 1.0)))
    assert broken.name == "toy, left leg dead"
    same(broken.step(state, jnp.array([0.7, -0.2])), TOY.step(state, jnp.array([0.0, -0.2])))


def test_a_weak_actuator_does_not_make_up_by_larger_commands():
    state = TOY.reset(jax.random.key(0))
    weak = damaged(TOY, Damage("weak", (1.0, 0.5)))
    same(weak.step(state, jnp.array([0.4, 3.0])), TOY.step(state, jnp.array([0.4, 0.5])))


def test_sound_actuators_are_the_same_task():
    """Also where a task leaves actions unclipped."""
    action = jnp.array([1.7, -0.2])
    np.testing.assert_array_equal(weaken(jnp.ones(2), action), action)
    state = TOY.reset(jax.random.key(0))
    same(damaged(TOY, Damage("none", (1.0, 1.0))).step(state, action), TOY.step(state, action))
    assert damaged(TOY, Damage("none")).step is TOY.step


def test_what_cannot_be_damaged():
    with pytest.raises(UserError, match="toy has 2 actuators, the damage 'one' gives 3 strengths"):
        damaged(TOY, Damage("one", (1.0, 1.0, 0.0)))
    with pytest.raises(UserError, match="gravity and friction of toy cannot be changed"):
        damaged(TOY, Damage("heavy", gravity=1.3))
    with pytest.raises(UserError, match="Damage.friction must be at least 0"):
        Damage("odd", friction=-1.0)
    with pytest.raises(UserError, match="gravity and friction are factors"):
        make_task("hopper", gravity=-1.0)


def test_gravity_and_friction_of_a_robot(monkeypatch):
    """The damaged task steps another model: gravity and friction multiplied, all else as it was made."""
    made, original = [], locomotion.envs.get_environment
    monkeypatch.setattr(
        locomotion.envs, "get_environment", lambda *names, **how: made.append(original(*names, **how)) or made[-1]
    )
    healthy = make_task("hopper", reset_noise=0.0, episode_length=70)
    changed = damaged(healthy, Damage("x", gravity=1.3, friction=0.5))
    assert (changed.episode_length, changed.reset_noise, changed.name) == (70, 0.0, "hopper, x")
    was, now = (env.sys for env in made)
    np.testing.assert_allclose(now.gravity, 1.3 * np.asarray(was.gravity))
    np.testing.assert_allclose(now.geom_friction, 0.5 * np.asarray(was.geom_friction))
    assert was.gravity[2] < -9


@pytest.mark.slow
def test_a_robot_feels_gravity_and_friction():
    """Without gravity a hopper does not sink, without friction it slides elsewhere."""
    healthy = make_task("hopper", reset_noise=0.0, terminate=False)

    def end(task):
        def step(state, _):
            return task.step(state, jnp.array([0.5, -0.5, 0.5])), None

        state = jax.jit(lambda: jax.lax.scan(step, task.reset(jax.random.key(0)), None, length=40)[0])()
        return np.asarray(task.torso(state).position)

    whole, afloat, sliding = (end(healthy.with_physics(*how)) for how in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0)))
    assert afloat[2] > whole[2] + 0.05
    assert abs(sliding[0] - whole[0]) > 1e-3


def test_lanes_of_weak_actuators_are_damaged_tasks():
    """One program for any weak actuators does what the damaged tasks do one by one."""
    actions = np.array([[0.3, 0.9], [0.3, 0.9], [1.0, -0.5]], np.float32)
    strengths = np.array([[0.0, 1.0], [1.0, 0.5], [1.0, 1.0]], np.float32)
    task = make_toy(noise=0.2, width=9.0)
    play = make_play(task, push, rollout=RolloutConfig(lanes=2), mesh=policy_mesh(), chunk=2)
    key = jax.random.key(3)
    found = play(actions, strengths, key, np.array([5, 5, 6]))
    for action, strength, number, fitness in zip(actions, strengths, (5, 5, 6), found, strict=True):
        broken = damaged(task, Damage("by hand", tuple(strength.tolist())))
        own = jax.random.fold_in(jax.random.fold_in(key, number), 0)  # the first episode of its number's key
        assert fitness == pytest.approx(float(rollout(broken, push, jnp.asarray(action), own).fitness), abs=1e-4)


class Landscape:
    """Policies are places on a line; damage d moves the best one to `PEAKS[d]`, given as the strength."""

    def __init__(self):
        self.calls = []

    def __call__(self, policies, strengths, key, numbers):
        self.calls.append((np.asarray(policies), numbers))
        return (1.0 - np.abs(policies - strengths[:, 0])).astype(np.float32)


PLACES = np.linspace(0.0, 1.0, 51, dtype=np.float32)
POOL = Pool(PLACES, Repertoire(jnp.asarray(PLACES[:, None]), jnp.asarray(PLACES)), 8)
PEAKS = np.array([[0.2], [0.6]], np.float32)


def searched(play, **changes):
    how = {
        "trials": 12,
        "repeats": 2,
        "config": AdaptConfig(noise=0.02, explore=0.4),
        "numbers": np.array([4, 7]),
    } | changes
    return search({"bank": POOL, "random": POOL._replace(random=True)}, play, PEAKS, jax.random.key(0), **how)


def test_searches_find_the_peaks():
    play, trials = Landscape(), []
    found = searched(play, done=trials.append)
    assert found["bank"].shape == (2, 2, 12) and trials == [1] * 12
    np.testing.assert_allclose(PLACES[found["bank"][..., -1]], np.repeat(PEAKS, 2, 1), atol=0.05)
    worth = -np.abs(PLACES[found["random"]] - PEAKS[:, :, None])
    assert (np.diff(worth, axis=-1) >= 0).all()  # the best so far, without noise, only gets better
    assert (found["random"][:, 0] != found["random"][:, 1]).any()
    # Searches of one damage and repeat meet the same episodes, whatever the way.
    assert all(numbers.tolist() == [8, 9, 14, 15] * 2 for _, numbers in play.calls)


def test_what_is_found_is_judged_once():
    play = Landscape()
    found = np.array([[[3, 3, 10]], [[3, 50, 50]]])
    worth = judge(POOL, found, play, PEAKS, jax.random.key(0), episodes=3)
    np.testing.assert_allclose(worth, 1.0 - np.abs(PLACES[found] - PEAKS[:, :, None]), rtol=1e-5)
    ((policies, numbers),) = play.calls
    assert len(policies) == 4 * 3 and numbers.tolist() == [0, 1, 2] * 4


def test_metrics_by_hand():
    curve = np.array([[[1.0, 4.0], [3.0, 4.0]], [[2.0, 6.0], [2.0, 10.0]]])
    worth = {"bank": curve, "archive": curve + 2.0}
    found = damage_metrics(["one", "two"], worth, np.array([2.0, 4.0]))
    assert found["ways"]["bank"]["curve"] == [2.0, 6.0] and found["trials"] == 2
    assert found["ways"]["bank"]["of_champion"]["value"] == pytest.approx(2.0)
    assert found["ways"]["bank"]["of_archive"]["value"] == pytest.approx(6.0 / 8.0)
    assert (found["champion"], found["champion_of_archive"]) == (3.0, pytest.approx(3.0 / 8.0))
    assert found["damages"][1] == {"name": "two", "champion": 4.0, "bank": 8.0, "archive": 10.0}


def test_damages_of_a_task():
    suite = Damages(strengths=(0.0, 0.5), gravity=(1.3,), friction=(0.5,))
    assert [one.name for one in suite.damages(TOY)] == [
        *("actuator 1 dead", "actuator 2 dead", "actuator 1 at 0.5", "actuator 2 at 0.5")
    ]
    assert suite.damages(TOY)[3].strengths == (1.0, 0.5)
    robot = dataclasses.replace(TOY, with_physics=lambda gravity, friction: TOY)
    assert [(one.gravity, one.friction) for one in suite.damages(robot)[4:]] == [(1.3, 1.0), (1.0, 0.5)]
