"""The soft archive: hand arithmetic, and a batch that does not care for the order of its rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.search.soft_archive import improvement, raise_thresholds


def test_one_policy_by_hand():
    thresholds = jnp.array([10.0, 20.0, 30.0])
    cells, fitness = jnp.array([1]), jnp.array([28.0])
    np.testing.assert_allclose(improvement(thresholds, cells, fitness), [8.0])
    # 20 + 0.25 * (28 - 20)
    np.testing.assert_allclose(raise_thresholds(thresholds, cells, fitness, 0.25), [10.0, 22.0, 30.0])


def test_what_stays_below_moves_nothing():
    thresholds = jnp.array([10.0, 20.0])
    fitness = jnp.array([10.0, 19.0, -jnp.inf, jnp.nan])
    cells = jnp.array([0, 1, 1, 0])
    np.testing.assert_array_equal(raise_thresholds(thresholds, cells, fitness, 0.5), thresholds)
    np.testing.assert_allclose(improvement(thresholds, cells, fitness)[:2], [0.0, -1.0])


def test_several_of_a_batch_move_a_cell_as_their_mean_would_one_after_another():
    fitness = np.array([14.0, 18.0, 31.0, 9.0])  # the last is below the threshold, and no part of it
    expected = 10.0
    for _ in range(3):
        expected += 0.3 * (np.mean([14.0, 18.0, 31.0]) - expected)
    found = raise_thresholds(jnp.array([10.0]), jnp.zeros(4, int), jnp.asarray(fitness), 0.3)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_the_order_of_a_batch_does_not_matter():
    rng = np.random.default_rng(0)
    thresholds = jnp.asarray(rng.normal(size=7), jnp.float32)
    cells, fitness = rng.integers(0, 7, 40), rng.normal(size=40).astype(np.float32)
    first = raise_thresholds(thresholds, jnp.asarray(cells), jnp.asarray(fitness), 0.4)
    for _ in range(5):
        order = rng.permutation(40)
        again = raise_thresholds(thresholds, jnp.asarray(cells[order]), jnp.asarray(fitness[order]), 0.4)
        np.testing.assert_allclose(again, first, rtol=1e-5)
    assert (np.asarray(first) >= np.asarray(thresholds)).all() and (first != thresholds).any()


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 10.0), (1.0, 16.0)])
def test_extreme_rates(rate, expected):
    found = jax.jit(raise_thresholds, static_argnums=3)(
        jnp.array([10.0]), jnp.zeros(2, int), jnp.array([14.0, 18.0]), rate
    )
    np.testing.assert_allclose(found, [expected])
