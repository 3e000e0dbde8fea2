"""What more episodes average out, by hand."""

import numpy as np
import pytest

from ldpol.archive import Grid
from ldpol.evaluation.suites.steadiness import averaged, repeat_distance, steadiness_metrics
from ldpol.types import Score

GRID = Grid((4,), (0.0,), (1.0,))


def plays(measures: list[list[float]], fitness: float) -> Score:
    values = np.asarray(measures, np.float32)
    return Score(np.full(values.shape, fitness, np.float32), values[..., None], np.ones(values.shape, np.float32))


def test_groups_are_in_order_and_full():
    found = averaged(plays([[0.0, 1.0], [0.5, 1.0], [1.0, 0.0]], 2.0), 2)
    assert len(found) == 1
    np.testing.assert_allclose(found[0].measures[:, 0], [0.25, 1.0])
    assert found[0].fitness.shape == (2,)


def test_noise_fills_cells_until_it_is_averaged_out():
    """Two equal elites that jump between cells fill two; averaged, one, as the steady generated ones do at once."""
    elites = plays([[0.3, 0.6], [0.6, 0.3]], 2.0)
    generated = plays([[0.45, 0.45], [0.45, 0.45]], 1.0)
    found = steadiness_metrics(GRID, np.array([[0.3], [0.6]], np.float32), elites, generated, 10, 0.0)
    single, double = found["rows"]
    assert (single["episodes"], double["episodes"], found["plays"]) == (10, 20, 2)
    assert (single["cells_elites"], single["cells_generated"], single["coverage_ratio"]) == (2.0, 1.0, 0.5)
    assert (double["cells_elites"], double["cells_generated"], double["coverage_ratio"]) == (1.0, 1.0, 1.0)
    assert (single["qd_ratio"], double["qd_ratio"], double["reward_ratio"]) == (0.25, 0.5, 0.5)
    assert single["mem"] == pytest.approx(0.15) and double["mem"] == pytest.approx(0.15)
    assert found["repeat_elites"] == pytest.approx(0.3) and found["repeat_generated"] == 0.0


def test_distance_between_successive_plays():
    moves = np.array([[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 3.0]]])
    assert repeat_distance(moves) == pytest.approx(3.0)  # 5 and 1
