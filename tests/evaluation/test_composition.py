"""Requests and metrics of compositions and of the box that was cut out, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.archive import Grid
from ldpol.evaluation.suites.composition import (
    ASKED,
    COMPOSED,
    build_requests,
    by_way,
    composition_metrics,
    free_metrics,
)
from ldpol.evaluation.suites.held_out_region import box_targets, held_out_region_metrics, reached
from ldpol.measures import nearest
from ldpol.types import Score

NAN = np.nan
TARGETS = np.array([[0.25, 0.75], [0.5, 1.0]], np.float32)


def score(fitness, measures):
    fitness = np.asarray(fitness, np.float32)
    return Score(fitness, np.asarray(measures, np.float32), np.ones_like(fitness))


def test_requests_by_hand():
    """The first target, in all ways; it is the first measure that is asked for alone."""
    requests = build_requests(TARGETS)
    assert (ASKED, COMPOSED) == (("joint", "free"), ("and", "part", "not"))
    np.testing.assert_array_equal(requests.single["measures"][[0, 2]], [[0.25, 0.75], [0.25, NAN]])
    np.testing.assert_array_equal(requests.composed["measures"][[0, 2, 4]], [[[0.25, NAN], [NAN, 0.75]]] * 3)
    np.testing.assert_array_equal(requests.composed["scales"][[0, 2, 4]], [[1, 1], [1, 0], [1, -1]])
    np.testing.assert_array_equal(requests.single["pair"], [0, 1] * 2)
    np.testing.assert_array_equal(requests.composed["pair"], [0, 1] * 3)
    # The second target's turn: its second measure alone.
    np.testing.assert_array_equal(requests.single["measures"][3], [NAN, 1.0])
    np.testing.assert_array_equal(requests.composed["scales"][[3, 5]], [[0, 1], [-1, 1]])


def test_requests_of_three_measures():
    asked, composed = build_requests(np.arange(12.0).reshape(4, 3))
    assert asked["measures"].shape == (8, 3)
    assert composed["measures"].shape == (12, 3, 3) and composed["scales"].shape == (12, 3)
    np.testing.assert_array_equal(composed["scales"][8:], [[1, -1, 0], [0, 1, -1], [-1, 0, 1], [1, -1, 0]])
    assert (np.isfinite(asked["measures"][4:]).sum(-1) == 1).all()
    assert (np.isfinite(composed["measures"][:4]).sum((1, 2)) == 3).all()


def test_one_measure_cannot_be_composed():
    with pytest.raises(ValueError, match="at least 2 measures, found 1"):
        build_requests(np.zeros((5, 1)))


def test_composition_metrics_by_hand():
    grid = Grid((2, 2), (0.0, 0.0), (1.0, 1.0))
    reference = score([10.0, 20.0], [[0.2, 0.2], [0.8, 0.8]])
    measures = {
        "joint": [[0.2, 0.3], [0.8, 0.8]],
        "and": [[0.2, 0.5], [0.8, 0.7]],
        # The first target's first measure, the second target's second.
        "free": [[0.1, 0.9], [0.9, 0.7]],
        "part": [[0.3, 0.4], [0.9, 0.6]],
        "not": [[0.4, 0.9], [0.1, 0.7]],
    }
    scores = {}
    for ways in (ASKED, COMPOSED):
        flat = score([15.0, 15.0] * len(ways), np.concatenate([measures[way] for way in ways]))
        scores |= by_way(ways, flat)
    np.testing.assert_allclose(scores["and"].measures, measures["and"], rtol=1e-6)
    found = composition_metrics(grid, reference, scores, 0.0)
    assert found["policies"] == 2
    assert found["joint"]["mem"] == pytest.approx(0.05) and found["and"]["mem"] == pytest.approx(0.2)
    assert found["mem_difference"]["value"] == pytest.approx(0.15)
    assert found["and"]["reward_ratio"] == pytest.approx(1.0) and found["and"]["success_rate"] == 1.0
    # Avoided: the second measure of the first target (0.2), the first of the second (0.8).
    assert found["not"]["away"] == pytest.approx((0.7 + 0.7) / 2)
    assert found["not"]["away_without"] == pytest.approx((0.2 + 0.1) / 2)
    assert found["not"]["difference"]["value"] == pytest.approx(0.55)
    assert found["not"]["error"] == pytest.approx((0.2 + 0.1) / 2)
    assert found["not"]["error_without"] == pytest.approx((0.1 + 0.2) / 2)
    free = free_metrics(reference, scores)
    assert free["error"] == pytest.approx(0.1) and free["joint_error"] == pytest.approx(0.0, abs=1e-6)
    assert free["difference"]["value"] == pytest.approx(0.1)


def test_box_by_hand():
    """Centres 0.125, 0.375, 0.625, 0.875 of the first measure and 10.5, 11.5 of the second."""
    grid = Grid((4, 2), (0.0, 10.0), (1.0, 12.0))
    found = box_targets(grid, (0.3, 11.0), (0.7, 12.0))
    np.testing.assert_allclose(found, [[0.375, 11.5], [0.625, 11.5]])
    assert box_targets(grid, (0.4, 10.0), (0.6, 12.0)).shape == (0, 2)
    measures = jnp.array([[0.9, 11.0], [0.3, 11.2], [0.7, 11.6]])
    assert [nearest(jnp.asarray(one), measures)[0] for one in found] == [1, 2]
    assert reached(grid, found, np.array([[0.3, 11.1], [0.49, 11.9], [0.9, 11.5]])) == 1


def test_held_out_region_by_hand():
    grid = Grid((4, 4), (0.0, 0.0), (1.0, 1.0))
    targets = np.array([[0.375, 0.375], [0.625, 0.375]], np.float32)
    originals = score([10.0, 30.0], [[0.4, 0.4], [0.1, 0.1]])
    generated = score([20.0] * 4, [[0.375, 0.375], [0.375, 0.475], [0.375, 0.375], [0.625, 0.375]])
    neighbours = score([10.0] * 4, [[0.375, 0.575]] * 2 + [[0.625, 0.575]] * 2)
    found = held_out_region_metrics(grid, targets, originals, generated, neighbours, 2)
    assert (found["cells"], found["reached"], found["reached_by_nearest"], found["reached_by_originals"]) == (
        2,
        2,
        0,
        1,
    )
    assert found["mem"] == pytest.approx((0.0 + 0.1 + 0.25 + 0.0) / 4) and found["mem_nearest"] == pytest.approx(0.2)
    assert found["mem_difference"]["value"] == pytest.approx(0.0875 - 0.2)
    assert found["reward_ratio"] == pytest.approx(1.0) and found["reward_ratio_nearest"] == pytest.approx(0.5)
    assert found["originals"] == 2 and found["draws"] == 2
