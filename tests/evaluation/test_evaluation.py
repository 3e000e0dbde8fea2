import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import generator  # noqa: F401
from toy import make_toy, push

from ldpol.archive import Grid
from ldpol.evaluation.metrics import (
    action_distance,
    compare,
    distances,
    expected_cells,
    jittered,
    js_divergence,
    slope,
    summarise,
)
from ldpol.planning.choosing import first, from_generator, look_ahead
from ldpol.planning.sequencing import play_sequences
from ldpol.player import sample_policies, score_policies
from ldpol.rollout import RolloutConfig, rollout
from ldpol.types import Score

GRID = Grid((2, 2), (0.0, 0.0), (1.0, 1.0))
CORNERS = jnp.array([[0.1, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.9]])


def score(fitness, measures):
    fitness = np.asarray(fitness, np.float32)
    return Score(fitness, np.asarray(measures, np.float32), np.ones_like(fitness))


def test_distances_by_hand():
    found = distances(jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[3.0, 4.0], [1.0, 1.0]]))
    np.testing.assert_allclose(found, [5.0, 0.0])


def test_action_distance_by_hand():
    """Pairs (3, 4), (0, 5), (3, -1) apart; the same at every observation."""
    policies = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    found = action_distance(push, policies, jnp.zeros((7, 3)))
    assert float(found) == pytest.approx((5.0 + 5.0 + np.hypot(3.0, 1.0)) / 3)


def test_action_distance_averages_over_observations_and_pairs():
    """Linear policies, against a plain loop."""
    policies, seen = jax.random.normal(jax.random.key(0), (4, 2, 3)), jax.random.normal(jax.random.key(1), (5, 3))
    pairs = [(i, j) for i in range(4) for j in range(4) if i < j]
    expected = np.mean([np.linalg.norm((policies[i] - policies[j]) @ o) for i, j in pairs for o in seen])
    found = jax.jit(lambda p, o: action_distance(lambda params, x: params @ x, p, o))(policies, seen)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert float(action_distance(push, jnp.ones((3, 2)), seen)) == 0.0


@pytest.mark.parametrize(("policies", "seen"), [(1, 4), (3, 0)])
def test_action_distance_needs_pairs_and_observations(policies, seen):
    with pytest.raises(ValueError, match=f"found {policies} and {seen}"):
        action_distance(push, jnp.ones((policies, 2)), jnp.ones((seen, 3)))


def test_divergence_of_the_same_sample_is_zero():
    assert js_divergence(GRID, CORNERS, CORNERS) == 0.0
    assert js_divergence(GRID, CORNERS, jnp.tile(CORNERS, (3, 1))) == 0.0  # sizes may differ


def test_divergence_of_disjoint_samples_is_one():
    assert js_divergence(GRID, CORNERS[:2], CORNERS[2:]) == pytest.approx(1.0)


def test_divergence_by_hand_and_symmetric():
    """p = (1/2, 1/2), q = (1, 0): m = (3/4, 1/4); JS = (KL(p|m) + KL(q|m)) / 2 in bits."""
    p, q = CORNERS[:2], CORNERS[:1]
    from_p = 0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25)
    from_q = np.log2(1 / 0.75)
    assert js_divergence(GRID, p, q) == pytest.approx((from_p + from_q) / 2)
    assert js_divergence(GRID, q, p) == pytest.approx(js_divergence(GRID, p, q))


def test_divergence_merges_a_fine_grid_to_ten_bins():
    fine = Grid((100, 1), (0.0, 0.0), (1.0, 1.0))
    one, other = jnp.array([[0.01, 0.5]]), jnp.array([[0.08, 0.5]])
    assert js_divergence(fine, one, other) == 0.0
    assert js_divergence(fine, one, jnp.array([[0.11, 0.5]])) == pytest.approx(1.0)


def test_summary_by_hand():
    """Two policies share a cell, of which the better counts."""
    scores = score([1.0, 5.0, -2.0], [[0.1, 0.1], [0.2, 0.2], [0.9, 0.9]])
    assert summarise(GRID, scores, 3.0) == {
        "cells": 2.0,
        "coverage": 0.5,
        "qd_score": 5.0 - 2.0 + 2 * 3.0,
        "best": 5.0,
        "mean": 1.5,
    }


def test_comparison_by_hand():
    reference = score([1.0, 2.0, 3.0, 4.0], CORNERS)
    # One lands exactly, one within the cell's diagonal (0.707), two in the first corner.
    achieved = [[0.1, 0.1], [0.1, 0.7], [0.1, 0.1], [0.1, 0.1]]
    found = compare(GRID, reference, score([1.0, 1.0, 4.0, 2.0], achieved), offset=1.0)
    far = np.hypot(0.8, 0.8)
    assert found["reward_ratio"] == pytest.approx(8 / 10)
    assert found["coverage_ratio"] == pytest.approx(2 / 4)
    assert found["qd_ratio"] == pytest.approx((4 + 1 + 2 * 1) / (10 + 4 * 1))
    assert found["mem"] == pytest.approx((0.0 + 0.2 + 0.8 + far) / 4, rel=1e-5)
    assert found["success_rate"] == pytest.approx(2 / 4)
    half, third = 0.25, 0.75  # p uniform over four cells, q = (3/4, 1/4) over two of them
    m = [(half + third) / 2, half, half / 2, half / 2]
    from_p = sum(half * np.log2(half / x) for x in m)
    from_q = third * np.log2(third / m[0]) + 0.25 * np.log2(0.25 / m[1])
    assert found["js_divergence"] == pytest.approx((from_p + from_q) / 2)
    assert found["best_reward"] == 4.0 and found["policies"] == 4


def test_comparison_with_itself_is_perfect():
    reference = score([1.0, 2.0, 3.0, 4.0], CORNERS)
    found = compare(GRID, reference, reference, offset=0.0)
    assert [found[k] for k in ("reward_ratio", "coverage_ratio", "qd_ratio", "success_rate")] == [1.0] * 4
    assert found["mem"] == found["js_divergence"] == 0.0


def test_slope_tells_shrinkage_from_noise():
    """A copy that moves everything 30 % of the way to its neighbourhood has slope 0.7, with noise or without."""
    rng = np.random.default_rng(0)
    targets = rng.random((600, 2))
    near = np.linalg.norm(targets[:, None] - targets[None], axis=-1)
    centre = targets[np.argsort(near, 1)[:, 1:41]].mean(1)
    assert slope(targets, targets) == pytest.approx(1.0)
    shrunk = centre + 0.7 * (targets - centre)
    assert slope(targets, shrunk) == pytest.approx(0.7)
    assert slope(targets, centre) == pytest.approx(0.0, abs=1e-12)
    assert slope(targets, shrunk + 0.01 * rng.normal(size=shrunk.shape)) == pytest.approx(0.7, abs=0.05)
    assert np.isnan(slope(targets[:1], targets[:1]))
    # Three targets on a line, neighbourhood of two: the ends are 1.5 away from it, the middle not at all.
    line = np.array([[0.0], [1.0], [2.0]])
    assert slope(line, np.array([[0.5], [9.0], [1.5]]), neighbours=2) == pytest.approx(2 * 1.5 * 1.0 / (2 * 1.5**2))


def test_expected_cells_are_the_mean_over_all_ways_to_play():
    """Three policies, each of whose two episodes may be the one that counts: eight archives, counted one by one."""
    measures = np.array([[0, 1], [1, 1], [3, 2]])[..., None]  # the corners that the episodes end in
    measures = np.asarray(CORNERS)[measures[..., 0]]
    counts = [len({tuple(measures[i, e]) for i, e in enumerate(ways)}) for ways in itertools.product((0, 1), repeat=3)]
    assert expected_cells(GRID, measures) == pytest.approx(np.mean(counts)) == 2.5


def test_noise_alone_misses_by_as_much_and_stays_in_bounds():
    rng = np.random.default_rng(1)
    reference = score(rng.random(4000), rng.uniform(0.3, 0.7, (4000, 2)))
    found = jittered(GRID, reference, 0.05, seed=0)
    np.testing.assert_allclose(distances(reference.measures, found.measures).mean(), 0.05, rtol=1e-5)
    np.testing.assert_array_equal(found.fitness, reference.fitness)
    offset = np.asarray(found.measures) - reference.measures
    np.testing.assert_allclose(offset.mean(0), 0.0, atol=2e-3)
    assert np.asarray(jittered(GRID, reference, 2.0, seed=0).measures).max() <= 1.0


@pytest.mark.parametrize("spread", [False, True], ids=["one device", "two devices"])
def test_generated_scores_are_sampled_policies_played(generator, mesh, spread):  # noqa: F811
    """What the program returns is what sampling and playing episode by episode gives."""
    task, episodes = make_toy(episode_length=5, noise=0.2, width=9.0), 3
    act = lambda params, seen: generator.apply(params, jnp.concatenate([seen, seen[:2]]))  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 4)
    wanted = jnp.array([[-0.5, 3.0], [0.5, jnp.nan], [jnp.nan, jnp.nan], [0.9, 2.1]])
    pairs = jax.vmap(jax.random.split)(keys)
    policies = jax.jit(jax.vmap(generator.sample))(pairs[:, 0], wanted)

    play = jax.jit(lambda policy, key: rollout(task, act, policy, key))

    def by_hand(i):
        policy = jax.tree.map(lambda leaf: leaf[i], policies)
        return [play(policy, jax.random.fold_in(pairs[i, 1], e)) for e in range(episodes)]

    arguments = {"episodes": episodes, "config": RolloutConfig(lanes=4, block=2), "mesh": mesh if spread else None}
    found = jax.jit(lambda w, k: score_policies(task, act, sample_policies(generator.sample, w, k), k, **arguments))(
        wanted, keys
    )
    given = jax.jit(lambda p, k: score_policies(task, act, p, k, **arguments))(policies, keys)
    for i in range(4):
        played = by_hand(i)
        for scores in (found.score, given.score):
            np.testing.assert_allclose(scores.fitness[i], np.mean([s.fitness for s in played]), atol=1e-4)
            np.testing.assert_allclose(scores.measures[i], np.mean([s.measures for s in played], 0), atol=1e-5)
        np.testing.assert_allclose(given.episodes.measures[i], [s.measures for s in played], atol=1e-5)
        np.testing.assert_allclose(given.episodes.fitness[i], [s.fitness for s in played], atol=1e-4)


def test_sequences_of_a_generator(generator):  # noqa: F811
    """A look-ahead of one candidate is the blind sample bit by bit; each segment's policy is the generator's own."""
    task = make_toy(episode_length=8, noise=0.2, width=9.0)
    act = lambda params, seen: generator.apply(params, jnp.concatenate([seen, seen[:2]]))  # noqa: E731
    propose = from_generator(generator.sample, 1)
    wanted, keys = jnp.array([[[-0.5, 3.0], [0.5, jnp.nan]]]), jax.random.split(jax.random.key(1), 1)

    def play(choose):
        return jax.jit(lambda w, k: play_sequences(task, act, choose, w, k, episodes=2, settle=1))(wanted, keys)

    blind = play(first(propose))
    ahead = play(look_ahead(task, act, propose, steps=4, settle=1))
    jax.tree.map(np.testing.assert_array_equal, ahead, blind)
    for e in range(2):
        reset_key, choice_key = jax.random.split(jax.random.fold_in(keys[0], e))
        state, rewards = task.reset(reset_key), []
        for k, key in enumerate(jax.random.split(choice_key, 2)):
            policy = jax.jit(generator.sample)(jax.random.fold_in(jax.random.split(key)[0], 0), wanted[0, k])
            for _ in range(4):
                state = task.step(state, act(policy, state.observation))
                rewards.append(float(state.reward))
        np.testing.assert_allclose(blind.segments.fitness[0, e], np.reshape(rewards, (2, 4)).sum(1), atol=1e-4)
