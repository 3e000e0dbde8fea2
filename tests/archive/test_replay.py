"""Replays: archives that do what they say, and every way in which an import can be wrong, named with its remedy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_toy

from ldpol.archive import Archive, Grid, from_ribs, replay
from ldpol.archive.agreement import Agreement, spearman
from ldpol.archive.layouts import to_vectors
from ldpol.archive.replay import spread_out
from ldpol.networks import MLP
from ldpol.rollout import rollout_batch
from ldpol.types import mean_score

RELU = MLP(3, 2, (8,), "relu", "tanh")
TASK = make_toy(noise=0.05, width=9.0, bonus=0.2)
GRID = Grid((20, 20), (0.0, 0.0), (1.0, 1.0))
KEY = jax.random.key(5)


def make_elites(network=RELU, count=60, spread=1.5):
    """Random policies and what they do."""
    policies = jax.jit(jax.vmap(network.init))(jax.random.split(jax.random.key(0), count))
    noise = jax.random.normal(jax.random.key(1), (count, network.size))
    policies = jax.vmap(lambda p, n: network.unflatten(network.flatten(p) + spread * n))(policies, noise)
    keys = jax.random.split(jax.random.key(2), count)
    score = mean_score(jax.jit(lambda p, k: rollout_batch(TASK, network.apply, p, k, episodes=2))(policies, keys))
    return Archive(policies, score.fitness, score.measures, GRID, "toy", network)


@pytest.fixture(scope="module")
def elites():
    return make_elites()


def test_the_right_network_is_the_same(elites):
    found = replay(elites, TASK, KEY, elites=40)
    assert found.verdict == "same" and found.elites == 40 and found.candidates == ()
    assert found.agreement.rank > 0.95 and found.agreement.miss < 0.05 and 0.9 < found.agreement.ratio < 1.1
    assert found.ended_early == 0.0 and 0.0 < found.at_bounds < 1.0
    assert str(found).startswith("same: replayed fitness ranks ")


def test_a_wrong_activation_is_named(elites):
    wrong = dataclasses.replace(elites, network=MLP(3, 2, (8,)))
    found = replay(wrong, TASK, KEY)
    assert found.verdict == "wrong"
    assert found.better is not None and found.better[0] == "activation='relu', final='tanh'"
    assert found.better[1].rank > 0.9 and found.better[1].miss < 0.05
    text = str(found)
    assert text.startswith("wrong: ") and "with activation='relu', final='tanh' it is " in text
    assert replay(wrong, TASK, KEY, candidates=False).candidates == ()


@pytest.mark.parametrize("stated", ["flax", "kernel_bias"])
def test_a_wrong_order_of_flat_policies_is_named(elites, stated):
    data = {"solution": to_vectors(elites.policies, RELU, "torch"), "objective": elites.fitness}
    data["measures"] = elites.measures
    right = from_ribs(data, RELU, TASK, order="torch", cells=GRID)
    assert replay(right, TASK, KEY, candidates=False).verdict == "same"
    wrong = from_ribs(data, RELU, TASK, order=stated, cells=GRID)
    found = replay(wrong, TASK, KEY)
    assert found.verdict == "wrong" and found.better is not None and found.better[0] == "order='torch'"


def test_swapped_measures_are_named(elites):
    found = replay(dataclasses.replace(elites, measures=elites.measures[:, ::-1]), TASK, KEY)
    assert found.verdict == "wrong" and found.better is not None
    assert found.better[0] == "measures in the order (1, 0)"


PLACES = make_toy(noise=0.05, width=9.0, bonus=0.2, episode_length=4).replace(
    measure=lambda state: jnp.stack([state.physics["x"], state.physics["y"]]),
    measure_low=(-1.0, -1.0),
    measure_high=(1.0, 1.0),
)


@pytest.mark.parametrize(
    ("stored", "said", "named"),
    [
        (("last", "before"), ("last", "after"), "when='before'"),
        (("last", "after"), ("mean", "after"), "reduce='last'"),
        (("max", "before"), ("last", "after"), "reduce='max', when='before'"),
    ],
)
def test_measures_taken_otherwise_are_named(elites, stored, said, named):
    """Four long steps from the centre: where a point is at the end depends on which state counts."""
    made, task = (PLACES.replace(reduce=reduce, when=when) for reduce, when in (stored, said))
    keys = jax.random.split(jax.random.key(2), len(elites))
    score = mean_score(jax.jit(lambda p, k: rollout_batch(made, RELU.apply, p, k))(elites.policies, keys))
    grid = Grid((20, 20), (-1.0, -1.0), (1.0, 1.0))
    there = dataclasses.replace(elites, fitness=score.fitness, measures=score.measures, grid=grid)
    assert replay(there, made, KEY).verdict == "same"
    found = replay(there, task, KEY)
    assert found.verdict != "same" and found.better is not None and found.better[0] == named
    assert found.better[1].miss < 0.05


def test_agreement_and_verdicts_by_hand():
    values = np.array([3.0, 1.0, 2.0, 2.0])
    np.testing.assert_allclose(spearman(values, np.array([30.0, -1.0, 5.0, 5.0])), 1.0)
    # Ranks 4 1 2.5 2.5 against 1 2 3 4: covariance -1.5 / sqrt(4.5 * 5).
    np.testing.assert_allclose(spearman(values, np.array([1.0, 2.0, 3.0, 4.0])), -1.5 / np.sqrt(22.5))
    assert np.isnan(spearman(values, np.ones(4)))
    cases = [
        (1.0, 0.01, 0.02, "same"),
        (0.89, 0.01, 0.02, "doubtful"),
        (0.49, 0.01, 0.02, "wrong"),
        (1.0, 0.06, 0.02, "doubtful"),
        (1.0, 0.11, 0.02, "wrong"),
        (1.0, 0.11, 0.14, "same"),
        (1.0, 0.2, 0.14, "doubtful"),
        (float("nan"), 0.01, 0.02, "same"),
    ]
    for rank, miss, side, expected in cases:
        assert Agreement(rank, 1.0, miss, miss).verdict(side) == expected


def test_elites_are_spread_out(elites):
    rows = spread_out(elites, 10)
    assert len(set(rows.tolist())) == 10 and rows[0] == int(np.asarray(elites.fitness).argmax())
    rank = np.argsort(np.argsort(elites.fitness)) / 60
    places = np.column_stack([elites.measures, rank])
    nearest = lambda rows: min(np.linalg.norm(places[i] - places[j]) for i in rows for j in rows if i != j)  # noqa: E731
    assert nearest(rows) > 2 * nearest(range(10))
    np.testing.assert_array_equal(spread_out(elites, 99), np.arange(60))


def test_replays_of_another_task(elites):
    with pytest.raises(ValueError, match="archive is of task 'toy', the task is 'other'"):
        replay(elites, make_toy(name="other"), KEY)
    broken = dataclasses.replace(TASK, measure=lambda state: jnp.full(2, jnp.inf))
    with pytest.raises(ValueError, match="measures of 60 of 60 policies are NaN or infinite"):
        replay(elites, broken, KEY)
