"""Cells of the measure space: by hand, against QDax and pyribs, regular and Voronoi ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qdax.core.containers.mapelites_repertoire import compute_cvt_centroids, get_cells_indices
from toy import make_toy

from ldpol import archive
from ldpol.archive import Grid, Voronoi, grid_from_json, make_voronoi

GRID = Grid((4, 5), (0.0, -1.0), (1.0, 1.0))


def cells_of_qdax(measures, centroids):
    with jax.numpy_rank_promotion("allow"):  # QDax does
        return get_cells_indices(measures, centroids)


def test_grid_index_by_hand():
    """Cells are 0.25 by 0.4; the lower border belongs to a cell, the upper one to the next, the last to the last."""
    places = {
        (0.0, -1.0): 0,
        (0.1, -0.7): 0,
        (0.1, -0.5): 1,
        (0.25, -1.0): 5,
        (0.5, 0.99): 14,
        (0.74, -0.1): 12,
        (0.76, -0.1): 17,
        (1.0, 1.0): 19,
        (-3.0, 5.0): 4,
        (7.0, -9.0): 15,
    }
    measures = jnp.array(list(places))
    np.testing.assert_array_equal(GRID.index(measures), list(places.values()))
    np.testing.assert_array_equal(jax.jit(GRID.index)(measures.reshape(2, 5, 2)).ravel(), list(places.values()))
    assert GRID.cells == 20
    assert GRID.diagonal == pytest.approx(np.hypot(0.25, 0.4))


@pytest.mark.parametrize("cells", [50, 100])
@pytest.mark.parametrize("steps", [100, 250, 500, 1000])
def test_fractions_of_steps_fall_where_integers_say(cells, steps):
    """Measures are fractions k / T and often lie on a border; QDax has to put them into the same cell."""
    counts = np.arange(steps + 1)
    expected = np.minimum(counts * cells // steps, cells - 1)
    measures = jnp.asarray(counts.astype(np.float32) / np.float32(steps))[:, None]
    grid = Grid((cells,), (0.0,), (1.0,))
    np.testing.assert_array_equal(grid.index(measures), expected)
    np.testing.assert_array_equal(cells_of_qdax(measures, grid.centroids()), expected)


@pytest.mark.parametrize("grid", [GRID, Grid((3, 2, 4), (0.0, 0.0, -2.0), (1.0, 0.5, 2.0))])
def test_grid_index_agrees_with_qdax(grid):
    centroids = grid.centroids()
    order = np.asarray(grid.index(centroids))
    np.testing.assert_array_equal(np.sort(order), np.arange(grid.cells))
    low, high = jnp.array([grid.low]), jnp.array([grid.high])
    inside = low + (high - low) * jax.random.uniform(jax.random.key(0), (2000, len(grid.shape)))
    counts = jax.random.randint(jax.random.key(1), inside.shape, 0, 101)
    on_borders = low + (high - low) * (counts / 100)
    for measures in (inside, on_borders):
        np.testing.assert_array_equal(order[cells_of_qdax(measures, centroids)], grid.index(measures))


def test_make_grid():
    task = make_toy()
    assert archive.make_grid(task, 7) == Grid((7, 7), (0.0, 0.0), (1.0, 1.0))
    assert archive.make_grid(task, (3, 4)).shape == (3, 4)
    for wrong in ((3,), (3, 4, 5), (3, 0), 0):
        with pytest.raises(ValueError, match=r"grid for toy needs 2 positive numbers of cells \(right, up\), found"):
            archive.make_grid(task, wrong)


def test_best_per_cell_and_metrics_by_hand():
    grid = Grid((2, 2), (0.0, 0.0), (1.0, 1.0))
    measures = jnp.array([[0.1, 0.1], [0.2, 0.3], [0.9, 0.9], [0.9, 0.1]])
    best = archive.best_per_cell(grid, jnp.array([1.0, -5.0, 7.0, -2.0]), measures)
    np.testing.assert_array_equal(best, [1.0, -np.inf, -2.0, 7.0])
    metrics = archive.grid_metrics(best, offset=10.0)
    expected = {"cells": 3, "coverage": 0.75, "qd_score": 36.0, "best": 7.0, "mean": 2.0}
    assert {name: pytest.approx(value) for name, value in expected.items()} == {k: float(v) for k, v in metrics.items()}
    empty = archive.grid_metrics(jnp.full(4, -jnp.inf), offset=10.0)
    assert {k: float(v) for k, v in empty.items()} == {
        "cells": 0,
        "coverage": 0,
        "qd_score": 0,
        "best": -np.inf,
        "mean": 0,
    }


def test_best_per_cell_against_a_loop():
    random = np.random.default_rng(1)
    fitness = random.normal(size=300).astype(np.float32)
    measures = np.stack([random.random(300), 2 * random.random(300) - 1], 1).astype(np.float32)
    expected = np.full(GRID.cells, -np.inf, np.float32)
    for value, cell in zip(fitness, np.asarray(GRID.index(jnp.asarray(measures))), strict=True):
        expected[cell] = max(expected[cell], value)
    np.testing.assert_array_equal(archive.best_per_cell(GRID, jnp.asarray(fitness), jnp.asarray(measures)), expected)


def test_scaled_by_hand_and_back():
    grid = archive.Grid((4, 4), (-1.0, 2.0), (1.0, 6.0))
    measures = np.array([[-1.0, 6.0], [0.5, 3.0], [np.nan, 2.0]], np.float32)
    found = grid.scaled(measures)
    np.testing.assert_allclose(found, [[0.0, 1.0], [0.75, 0.25], [np.nan, 0.0]])
    np.testing.assert_allclose(grid.unscaled(found), measures)
    inside = jax.jit(grid.scaled)(jnp.asarray(measures))
    assert isinstance(found, np.ndarray) and inside.dtype == jnp.float32
    np.testing.assert_allclose(inside, found)


def voronoi(count=40, low=(0.0, -1.0), high=(1.0, 3.0)):
    places = np.random.default_rng(0).random((count, len(low)))
    return make_voronoi(np.asarray(low) + places * (np.asarray(high) - low), low, high)


def test_voronoi_cells_by_hand():
    cells = make_voronoi([[0.0, 0.0], [1.0, 0.0], [0.0, 4.0]], (0.0, 0.0), (1.0, 4.0))
    assert (cells.cells, cells.dimensions) == (3, 2)
    np.testing.assert_array_equal(cells.index(jnp.array([[0.4, 1.0], [0.6, 1.0], [0.4, 3.0]])), [0, 1, 2])
    assert int(cells.index(jnp.array([0.9, 0.0]))) == 1
    np.testing.assert_allclose(cells.scaled(np.array([[0.5, 1.0]])), [[0.5, 0.25]])
    np.testing.assert_allclose(cells.unscaled(np.array([[0.5, 0.25]])), [[0.5, 1.0]])
    best = archive.best_per_cell(cells, jnp.array([1.0, 5.0]), jnp.array([[0.0, 0.1], [0.1, 0.0]]))
    np.testing.assert_array_equal(best, [5.0, -np.inf, -np.inf])


def test_voronoi_cells_agree_with_qdax_and_pyribs():
    cells = voronoi()
    measures = cells.unscaled(jax.random.uniform(jax.random.key(1), (3, 500, 2)))
    found = jax.jit(cells.index)(measures)
    assert found.shape == (3, 500)
    np.testing.assert_array_equal(found.ravel(), cells_of_qdax(measures.reshape(-1, 2), cells.centroids()))
    ribs = pytest.importorskip("ribs.archives")
    theirs = ribs.CVTArchive(
        solution_dim=1, centroids=np.asarray(cells.centroids()), ranges=[(0.0, 1.0), (-1.0, 3.0)], dtype=np.float32
    )
    np.testing.assert_array_equal(found.ravel(), theirs.index_of(np.asarray(measures.reshape(-1, 2))))


@pytest.mark.parametrize("shape", [(4, 4), (7, 7, 7), (50,)])
def test_a_voronoi_cell_is_as_wide_as_that_of_a_grid_of_as_many(shape):
    grid = Grid(shape, (0.0,) * len(shape), tuple(1.0 + i for i in range(len(shape))))
    centres = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij"), -1)
    cells = make_voronoi(grid.unscaled(centres.reshape(-1, len(shape))), grid.low, grid.high)
    assert cells.diagonal == pytest.approx(grid.diagonal)
    np.testing.assert_allclose(cells.sides, grid.sides)
    assert (cells.regular, grid.regular) == (grid, grid)


@pytest.mark.parametrize("cells", [GRID, voronoi()], ids=["grid", "voronoi"])
def test_cells_are_static_and_survive_json(cells):
    import json

    back = grid_from_json(json.loads(json.dumps(cells.to_json())))
    assert back == cells and hash(back) == hash(cells)
    index = jax.jit(lambda cells, measures: cells.index(measures), static_argnums=0)
    np.testing.assert_array_equal(index(back, jnp.zeros((2, 2))), cells.index(jnp.zeros((2, 2))))


def test_centroids_that_make_no_cells():
    for wrong in (np.zeros((4, 3)), np.zeros(4), np.full((4, 2), np.nan)):
        with pytest.raises(ValueError, match=r"expected finite centroids \[C, 2\]"):
            make_voronoi(wrong, (0.0, 0.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="need a multiple of 8 bytes, found 9"):
        Voronoi(b"123456789", (0.0, 0.0), (1.0, 1.0))


def test_qdax_centroids_keep_their_places():
    with jax.numpy_rank_promotion("allow"):  # QDax does
        centroids = compute_cvt_centroids(2, 500, 16, 0.0, 1.0, jax.random.key(0))
    cells = make_voronoi(centroids, (0.0, 0.0), (1.0, 1.0))
    np.testing.assert_array_equal(cells.centroids(), centroids)
