"""Tasks: clear errors, sizes of the standard models, and foot contact against Brax's own collision detection."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import contact, envs

from ldpol.tasks import SPECS, make_task

# Observations, actions, feet, seconds a step: as in the published description of each environment.
SIZES = {
    "walker2d": (17, 6, 2, 0.008),
    "hopper": (11, 3, 1, 0.008),
    "halfcheetah": (17, 6, 2, 0.05),
    "ant": (27, 8, 4, 0.05),
    "humanoid": (244, 17, 2, 0.015),
}


def touches_by_collision(system, feet, transforms):
    """Which feet the collision detection finds at or below the plane, `[..., M]`; `transforms` `[..., links]`."""
    model = system.mj_model
    ids = np.array([model.geom(foot).id for foot in feet])

    def one(x):
        with jax.numpy_rank_promotion("allow"):  # Brax does
            found = contact.get(system, x)
        pair = jnp.asarray(found.geom)  # [contacts, 2]
        ground = jnp.asarray(model.geom_type == 0)[pair].any(-1)
        foot = (pair[:, :, None] == ids[None, None]).any(1)  # [contacts, M]
        return (foot & ground[:, None] & (found.dist <= 0)[:, None]).any(0)

    return jax.lax.map(one, transforms)


@pytest.mark.parametrize("name", ["ant", "humanoid", "halfcheetah"])
def test_feet_are_where_their_names_say(name):
    """Forward is x, left is y (z points up), seen from the torso in the model's own rest pose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brax says that it is not developed any more
        model = envs.get_environment(name, backend="spring").sys.mj_model
    for foot, words in zip(SPECS[name].feet, SPECS[name].measure_names, strict=True):
        body = model.geom(foot).bodyid[0]
        place = model.geom(foot).pos.copy()
        while body:  # no body of these legs is rotated at rest
            np.testing.assert_allclose(model.body_quat[body][0], 1.0, atol=1e-4)
            place, body = place + model.body_pos[body], model.body_parentid[body]
        x, y, _ = place
        for word, there in {"front": x > 0.1, "back": x < -0.1, "left": y > 0.05, "right": y < -0.05}.items():
            if word in words:
                assert there, (foot, words, place)


def agreement(task, transforms, touches, feet):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brax says that it is not developed any more
        system = envs.get_environment(task.name, backend=task.backend).sys
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[-2:]), transforms)
    expected = jax.jit(lambda x: touches_by_collision(system, feet, x))(flat)
    found = np.asarray(touches).reshape(-1, len(feet)) > 0.5
    assert 0.02 < np.mean(expected) < 0.98  # both cases occur
    return np.mean(np.asarray(expected) == found)


def test_walker_contact_agrees_with_collision_detection(walker):
    feet = SPECS["walker2d"].feet
    assert agreement(walker.task, walker.states.physics.x, walker.touches, feet) >= 0.999


def test_ant_contact_agrees_with_collision_detection():
    task = make_task("ant", reset_noise=0.1, terminate=False)

    def play(key):
        def step(state, key):
            state = task.step(state, jax.random.uniform(key, (task.action_size,), minval=-1.0, maxval=1.0))
            return state, (state.physics.x, task.measure(state))

        return jax.lax.scan(step, task.reset(key), jax.random.split(key, 150))[1]

    transforms, touches = jax.jit(play)(jax.random.key(0))
    assert touches.shape == (150, 4)
    assert agreement(task, transforms, touches, SPECS["ant"].feet) >= 0.999


@pytest.mark.parametrize("name", SPECS)
def test_every_task_builds(name):
    task = make_task(name, episode_length=70)
    observations, actions, feet, seconds = SIZES[name]
    assert (task.observation_size, task.action_size, task.measures) == (observations, actions, feet)
    assert task.dt == pytest.approx(seconds)
    assert len(task.measure_low) == len(task.measure_high) == len(task.measure_names) == feet
    assert task.episode_length == 70
    assert task.fitness_offset == (70.0 if name in ("ant", "halfcheetah") else 0.0)
    state = jax.eval_shape(task.reset, jax.random.key(0))
    assert state.observation.shape == (observations,)
    after = jax.eval_shape(task.step, state, jnp.zeros(actions))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert jax.eval_shape(task.measure, after).shape == (feet,)


@pytest.mark.parametrize("backend", ["positional", "generalized"])
def test_other_backends_build(backend):
    task = make_task("hopper", backend=backend, reset_noise=0.25)
    assert (task.backend, task.observation_size, task.reset_noise) == (backend, 11, 0.25)


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'walker'; did you mean 'walker2d'.*walker2d, hopper"):
        make_task("walker")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"backend": "mjx"}, "unknown physics backend 'mjx'; choose one of spring"),
        ({"episode_length": 0}, "episode_length must be at least 1 step and a whole number, found 0"),
        ({"episode_length": 1.5}, "episode_length must be at least 1 step and a whole number, found 1.5"),
        ({"reset_noise": -0.1}, "reset_noise must be .* found -0.1"),
        ({"reset_noise": float("nan")}, "reset_noise must be .* found nan"),
        ({"reset_noise": float("inf")}, "reset_noise must be .* found inf"),
        ({"terminate": "no"}, "terminate must be .* found 'no'"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=message):
        make_task("walker2d", **setting)


def test_zero_reset_noise_gives_identical_starts(walker):
    for leaf in jax.tree.leaves(walker.starts):
        leaf = np.asarray(leaf).reshape(-1, *leaf.shape[2:])
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))


def test_reset_noise_scatters_the_starts():
    """A walker's first eight observations are positions, drawn uniformly within the noise of its keyframe."""
    task = make_task("walker2d", reset_noise=0.25)
    still = make_task("walker2d", reset_noise=0.0)
    keys = jax.random.split(jax.random.key(0), 200)
    starts = np.asarray(jax.jit(jax.vmap(lambda key: task.reset(key).observation))(keys))[:, :8]
    origin = np.asarray(jax.jit(lambda key: still.reset(key).observation)(keys[0]))[:8]
    shift = np.abs(starts - origin)
    assert shift.max() <= 0.25 + 1e-6
    np.testing.assert_allclose(shift.mean(0), 0.125, atol=0.03)  # 6 standard errors


def test_an_endless_walker_is_never_done(walker):
    assert not np.asarray(walker.states.done).any()
    height = np.asarray(walker.states.physics.x.pos)[:, :, 0, 2]
    assert (height[:, -1] < 0.8).any()  # though one lies on the ground, which ends the usual episode


def test_the_skeleton_stands_where_the_feet_touch(walker):
    """Capsules 4 and 7 of the walker are its feet; contact follows from their drawn ends and radii alone."""
    ends = jax.jit(jax.vmap(jax.vmap(walker.task.skeleton.ends)))(walker.states)
    assert ends.shape == (*walker.touches.shape[:2], 7, 2, 3) and len(walker.task.skeleton.radii) == 7
    lowest = np.asarray(ends)[..., 2].min(-1) - np.asarray(walker.task.skeleton.radii)
    np.testing.assert_array_equal(lowest[..., [3, 6]] <= 0, np.asarray(walker.touches) > 0)
    # Rigid: the torso's capsule keeps its length, 0.4 m between the ends of its axis.
    length = np.linalg.norm(np.asarray(ends)[..., 0, 0, :] - np.asarray(ends)[..., 0, 1, :], axis=-1)
    np.testing.assert_allclose(length, 0.4, atol=1e-4)
