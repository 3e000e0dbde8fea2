"""Requests and metrics of compositions and of the region that was held out, by hand."""

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
from ldpol.evaluation.suites.held_out_region import held_out_region_metrics
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


def test_held_out_region_by_hand():
    """Three elites, one in each bin of the distance; cells are 0.25 wide."""
    grid = Grid((4, 4), (0.0, 0.0), (1.0, 1.0))
    reference = score([10.0, 20.0, 30.0], [[0.375, 0.375], [0.625, 0.375], [0.625, 0.625]])
    distance = np.array([0.1, 0.5, 0.9]) * grid.diagonal
    wanted = np.repeat(np.asarray(reference.measures), 2, 0)
    away = np.array([[0.0, 0.0], [0.0, 0.2], [0.3, 0.0], [0.3, 0.0], [0.0, 0.4], [0.0, 0.4]])
    scores = {
        "generated": score([40.0] * 6, wanted + away),
        "nearest": score([10.0] * 6, wanted + np.array([0.0, 0.3])),
        "ceiling": score([10.0, 10.0, 20.0, 20.0, 30.0, 30.0], wanted),
    }
    found = held_out_region_metrics(grid, reference, distance, scores, draws=2, edges=(0.2, 0.6))
    assert (found["elites"], found["cells"], found["draws"], found["elites_by_distance"]) == (3, 3, 2, [1, 1, 1])
    np.testing.assert_allclose(found["edges"], [0.2 * grid.diagonal, 0.6 * grid.diagonal])
    assert found["distance"] == pytest.approx(0.5 * grid.diagonal)
    made, near, again = (found["rows"][way] for way in ("generated", "nearest", "ceiling"))
    assert made["mem"] == pytest.approx(1.6 / 6) and near["mem"] == pytest.approx(0.3)
    np.testing.assert_allclose(made["mem_by_distance"], [0.1, 0.3, 0.4], rtol=1e-5)
    assert made["success_rate"] == pytest.approx(4 / 6) and near["success_rate"] == 1.0  # a diagonal is 0.354
    assert made["reward_ratio"] == pytest.approx(2.0) and near["reward_ratio"] == pytest.approx(0.5)
    assert (made["cells"], near["cells"], again["cells"]) == (1, 1, 3)
    assert again["mem"] == 0.0 and again["reward_ratio"] == pytest.approx(1.0)
    assert set(found["mem_less_nearest"]) == {"generated"}
    assert found["mem_less_nearest"]["generated"]["value"] == pytest.approx(1.6 / 6 - 0.3)
    far = held_out_region_metrics(grid, reference, distance + 9.0, scores, draws=2, edges=(0.2, 0.6))
    assert far["rows"]["generated"]["mem_by_distance"][:2] == [None, None]
