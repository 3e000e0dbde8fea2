"""What PPO is made of: normaliser, advantages and losses by hand, and rollouts against a simulation in Python."""

import dataclasses
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import HIGH, SPEED, make_toy

from ldpol.search.normaliser import merge, moments_of, no_moments, pooled
from ldpol.search.ppo_losses import (
    clipped_policy_loss,
    estimated_kl,
    gae,
    gaussian_entropy,
    gaussian_log_prob,
    value_loss,
)
from ldpol.search.ppo_rollout import collect, start_environments

# Normaliser


@pytest.fixture(scope="module")
def parts():
    """Three batches that differ in size, mean and spread."""
    rng = np.random.default_rng(0)
    return [
        np.float32(rng.normal(mean, spread, (size, 4)) + [0.0, 1000.0, -3.0, 0.0])
        for size, mean, spread in ((7, 0.0, 1.0), (1, 5.0, 0.0), (400, -2.0, 3.0))
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_merged_moments_are_those_of_all_data_in_any_order(parts, order):
    every = np.concatenate(parts).astype(np.float64)
    one, two, three = (moments_of(jnp.asarray(parts[i])) for i in order)
    for found in (
        merge(merge(one, two), three),
        merge(one, merge(two, three)),
        merge(merge(merge(no_moments((4,)), one), merge(two, no_moments((4,)))), three),
    ):
        np.testing.assert_allclose(found.mean, every.mean(0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.variance, every.var(0), rtol=1e-4)
        np.testing.assert_allclose(found.std, every.std(0), rtol=1e-4)
        assert float(found.count) == 408


def test_normalising_by_hand():
    found = moments_of(jnp.array([[1.0, 5.0], [3.0, 5.0]]))  # means 2 and 5, standard deviations 1 and 0
    np.testing.assert_allclose(found.normalise(jnp.array([4.0, 5.5])), [2.0, 50.0], rtol=1e-5)  # at least 0.01
    np.testing.assert_allclose(found.denormalise(jnp.array([2.0, 50.0])), [4.0, 5.5], rtol=1e-5)


def test_pooled_moments_are_those_of_all_data():
    rng = np.random.default_rng(1)
    every = np.float32(rng.normal(size=(3, 50, 4)) + np.array([[[-1000.0]], [[1.0]], [[30.0]]]))
    found = pooled(jax.vmap(moments_of)(jnp.asarray(every)))
    flat = every.reshape(150, 4).astype(np.float64)
    np.testing.assert_allclose(found.mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.variance, flat.var(0), rtol=1e-5)
    assert found.count == 150


def test_moments_of_nothing_change_nothing():
    nothing = merge(no_moments((3,)), no_moments((3,)))
    x = jax.random.normal(jax.random.key(0), (5, 3))
    assert float(nothing.count) == 0
    np.testing.assert_array_equal(jax.vmap(nothing.normalise)(x), x)
    np.testing.assert_array_equal(jax.vmap(nothing.denormalise)(x), x)


# Advantages


def test_gae_by_hand():
    """Deltas 1.5, -18 (terminated), -2 (cut off), -6, and a quarter of what follows within an episode."""
    advantages = gae(
        rewards=jnp.array([1.0, 2.0, 3.0, 4.0, 1.0]),
        values=jnp.array([10.0, 20.0, 30.0, 40.0, 60.0]),
        next_values=jnp.array([21.0, 99.0, 50.0, 60.0, 110.0]),
        terminated=jnp.array([False, True, False, False, False]),
        over=jnp.array([False, True, True, False, False]),
        gamma=0.5,
        gae_lambda=0.5,
    )
    # 1 + 10.5 - 10 = 1.5 | 2 - 20 = -18 | 3 + 25 - 30 = -2 | 4 + 30 - 40 = -6 | 1 + 55 - 60 = -4
    np.testing.assert_allclose(advantages, [1.5 - 18 / 4, -18.0, -2.0, -6.0 - 4 / 4, -4.0])


def test_gae_is_the_sum_it_is_defined_as():
    rng = np.random.default_rng(1)
    rewards, values, next_values = rng.normal(size=(3, 30, 4))
    over = rng.random((30, 4)) < 0.2
    terminated = over & (rng.random((30, 4)) < 0.5)
    assert (over & ~terminated).any()
    expected = np.zeros((30, 4))
    for t in range(30):
        for e in range(4):
            for later in range(t, 30):
                following = 0.0 if terminated[later, e] else next_values[later, e]
                delta = rewards[later, e] + 0.9 * following - values[later, e]
                expected[t, e] += (0.9 * 0.7) ** (later - t) * delta
                if over[later, e]:
                    break
    found = gae(*map(jnp.asarray, (rewards, values, next_values, terminated, over)), gamma=0.9, gae_lambda=0.7)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# Losses


def test_gaussian_by_hand():
    action, mean, log_std = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 2.0]]), jnp.log(jnp.array([2.0, 0.5]))
    # (1 / 2)^2 / 2 = 0.125 and (1 / 0.5)^2 / 2 = 2; the logarithms of 2 and 0.5 cancel
    expected = -0.125 - 2.0 - np.log(2 * np.pi)
    np.testing.assert_allclose(gaussian_log_prob(action, mean, log_std[None]), [expected], rtol=1e-6)
    alone = gaussian_log_prob(action[:, :1], mean[:, :1], log_std[None, :1])
    np.testing.assert_allclose(alone, [-0.125 - np.log(2.0) - 0.5 * np.log(2 * np.pi)], rtol=1e-6)
    np.testing.assert_allclose(gaussian_entropy(log_std), np.log(2 * np.pi * np.e), rtol=1e-6)
    np.testing.assert_allclose(gaussian_entropy(log_std[:1]), 0.5 * np.log(2 * np.pi * np.e * 4.0), rtol=1e-6)


def test_policy_loss_by_hand():
    log_ratio = jnp.log(jnp.array([1.5, 0.5, 1.1, 0.5, 1.5]))
    advantage = jnp.array([1.0, 1.0, 2.0, -1.0, -1.0])
    # The lesser of both: 1.2 (clipped), 0.5, 2.2, -0.8 (clipped), -1.5; together 1.6.
    loss, slope = jax.value_and_grad(clipped_policy_loss)(log_ratio, advantage, 0.2)
    np.testing.assert_allclose(loss, -1.6 / 5, rtol=1e-6)
    np.testing.assert_allclose(slope, np.array([0.0, -0.5, -2.2, 0.0, 1.5]) / 5, rtol=1e-6)


def test_value_loss_by_hand():
    np.testing.assert_allclose(value_loss(jnp.array([1.0, 2.0]), jnp.array([5.0, 2.0])), 0.5 * 16 / 2)


def test_kl_by_hand_and_in_closed_form():
    np.testing.assert_allclose(estimated_kl(jnp.log(jnp.array([2.0, 0.5]))), 0.25, rtol=1e-6)
    # KL(N(0, 1) || N(1/4, 0.7)) = log 0.7 + (1 + 1/16) / 0.98 - 1/2, not the other way round
    action = jax.random.normal(jax.random.key(0), (200_000, 1))
    old = gaussian_log_prob(action, jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    new = gaussian_log_prob(action, jnp.full((1, 1), 0.25), jnp.log(jnp.full((1, 1), 0.7)))
    np.testing.assert_allclose(estimated_kl(new - old), np.log(0.7) + 1.0625 / 0.98 - 0.5, rtol=0.02)


# Rollouts

LOOK = np.array([1.0, 10.0, 100.0])


def act(observation, noise):
    return noise + 0.5, 7.0 * noise[0]


def value(observation):
    return observation @ jnp.asarray(LOOK)


def play(task, weights, environments, key, steps=14):
    program = jax.jit(lambda environments, key: collect(task, weights, act, value, environments, key, steps))
    return program(environments, key)


def simulate(width, weights, actions, state, length):
    """One environment in Python from `(x, y, age, total)`: a row for each action, and where it stands at the end."""
    x, y, age, total = state
    rows = []
    for action in actions:
        seen = np.array([x, y, age])
        x = max(x + SPEED * np.clip(action[0], -1, 1), -1.0)
        y = np.clip(y + SPEED * np.clip(action[1], -1, 1), -1.0, 1.0)
        age, total = age + 1, total + y
        fell, over = x >= width, x >= width or age == length
        reward = weights @ [y, x > HIGH, y > HIGH]
        rows.append((seen, reward, seen @ LOOK, LOOK @ [x, y, age], fell, over, total, age))
        if over:
            x, y, age, total = 0.0, 0.0, 0, 0.0
    return [np.array(column) for column in zip(*rows, strict=True)], (x, y, age, total)


def test_rollouts_against_a_simulation():
    """Falls and time-outs, episodes that run on from one rollout to the next, and values from before the reset."""
    task, weights, count = make_toy(episode_length=5, width=0.6), np.array([2.0, -1.0, 0.5]), 6
    environments = start_environments(task, count, jax.random.key(0))
    states, falls, cuts = [(0.0, 0.0, 0, 0.0)] * count, 0, 0
    for seed in (1, 2):
        environments, seen = play(task, jnp.asarray(weights), environments, jax.random.key(seed))
        assert seen.action.shape == (14, count, 2)
        np.testing.assert_allclose(seen.log_prob, 7.0 * (seen.action[..., 0] - 0.5), rtol=1e-4, atol=1e-5)
        for e in range(count):
            expected, states[e] = simulate(0.6, weights, np.asarray(seen.action[:, e], np.float64), states[e], 5)
            columns = (
                seen.observation,
                seen.reward,
                seen.value,
                seen.next_value,
                seen.terminated,
                seen.over,
                seen.total,
                seen.age,
            )
            for found, by_hand in zip(columns, expected, strict=True):
                np.testing.assert_allclose(found[:, e], by_hand, rtol=1e-4, atol=1e-4)
        falls, cuts = falls + int(seen.terminated.sum()), cuts + int((seen.over & ~seen.terminated).sum())
        x, y, age, total = map(np.array, zip(*states, strict=True))
        np.testing.assert_allclose(environments.state.observation, np.stack([x, y, age], 1), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(environments.age, age)
        np.testing.assert_allclose(environments.total, total, rtol=1e-4, atol=1e-4)
    assert falls > 5
    assert cuts > 5


def test_actions_and_fresh_starts_are_drawn_anew():
    task = make_toy(episode_length=3, noise=0.5)
    environments = start_environments(task, 400, jax.random.key(0))
    starts = [environments.state.observation[:, :2]]
    for seed in (1, 2):
        environments, seen = play(task, jnp.ones(3), environments, jax.random.key(seed), steps=3)
        assert (seen.over.sum(0) >= 1).all()
        starts.append(environments.state.observation[environments.age == 0][:, :2])
    every = np.concatenate(starts)
    assert len(np.unique(every, axis=0)) == len(every)
    assert np.abs(every.mean(0)).max() < 0.06
    noise = np.asarray(seen.action - 0.5).ravel()
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(1.0, abs=0.1)
    assert len(np.unique(noise)) == noise.size


def test_reward_weights_are_linear():
    task = make_toy(episode_length=5, width=0.8)
    environments = start_environments(task, 4, jax.random.key(0))

    def rewards(*weights):
        return np.asarray(play(task, jnp.array(weights), environments, jax.random.key(1))[1].reward)

    reward, right, up = rewards(1.0, 0.0, 0.0), rewards(0.0, 1.0, 0.0), rewards(0.0, 0.0, 1.0)
    assert set(np.unique(right)) == set(np.unique(up)) == {0.0, 1.0}
    assert (right != up).any()
    np.testing.assert_allclose(rewards(2.0, -3.0, 0.5), 2 * reward - 3 * right + 0.5 * up, rtol=1e-5, atol=1e-6)
    _, seen = play(task, jnp.array([1.0, 0.0, 0.0]), environments, jax.random.key(1))
    before = np.concatenate([np.zeros((1, 4)), np.where(seen.over, 0.0, seen.total)[:-1]])
    np.testing.assert_allclose(seen.total - before, seen.reward, atol=1e-5)  # the plain reward


@pytest.mark.parametrize("where", ["observation", "reward"])
def test_physics_that_blows_up_ends_the_episode(where):
    toy = make_toy(width=9.0)

    def step(state, action):
        after = toy.step(state, action)
        return dataclasses.replace(
            after, **{where: jnp.where(after.physics["x"] > 0.4, jnp.nan, getattr(after, where))}
        )

    environments = start_environments(toy, 5, jax.random.key(0))
    task = dataclasses.replace(toy, step=step)
    environments, seen = play(task, jnp.array([1.0, 1.0, 1.0]), environments, jax.random.key(1), steps=30)
    moved = seen.observation[..., 0] + SPEED * jnp.clip(seen.action[..., 0], -1.0, 1.0)
    assert (moved > 0.4).sum() > 5
    np.testing.assert_array_equal(seen.terminated, moved > 0.4)
    np.testing.assert_array_equal(seen.reward[seen.terminated], 0.0)
    assert (seen.reward[~seen.terminated] != 0.0).any()
    for leaf in jax.tree.leaves((environments, seen)):
        assert np.isfinite(leaf).all()
