"""Archives: the grid by hand and against QDax and pyribs, bad archives, and exchange without loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qdax.core.containers.mapelites_repertoire import get_cells_indices
from toy import make_toy

from ldpol import archive
from ldpol.archive import Archive, Grid
from ldpol.networks import MLP

SHAPE = MLP(3, 2, (4,))
GRID = Grid((4, 5), (0.0, -1.0), (1.0, 1.0))
SETTINGS = (("backend", "spring"), ("episode_length", 20), ("reset_noise", None))


def make_archive(count=12, grid=GRID, seed=0):
    """An archive of random policies, one in each of `count` different cells, off the borders of cells."""
    random = np.random.default_rng(seed)
    cells = random.permutation(grid.cells)[:count]
    places = np.stack(np.unravel_index(cells, grid.shape), axis=-1)
    within = random.uniform(0.1, 0.9, places.shape)
    low, high = np.array(grid.low), np.array(grid.high)
    measures = low + (places + within) / np.array(grid.shape) * (high - low)
    policies = jax.vmap(SHAPE.unflatten)(jnp.asarray(random.normal(size=(count, SHAPE.size)), jnp.float32))
    fitness = jnp.asarray(random.normal(100.0, 50.0, count), jnp.float32)
    return Archive(policies, fitness, jnp.asarray(measures, jnp.float32), grid, "toy", SETTINGS), cells


def same(one: Archive, other: Archive, rows=slice(None)):
    assert (one.grid, one.task, one.settings) == (other.grid, other.task, other.settings)
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True)
    for (name, left), (other_name, right) in pairs:
        assert name == other_name
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(np.asarray(left)[rows], np.asarray(right))


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
    np.testing.assert_array_equal(get_cells_indices(measures, grid.centroids()), expected)


@pytest.mark.parametrize("grid", [GRID, Grid((3, 2, 4), (0.0, 0.0, -2.0), (1.0, 0.5, 2.0))])
def test_grid_index_agrees_with_qdax(grid):
    centroids = grid.centroids()
    order = np.asarray(grid.index(centroids))
    np.testing.assert_array_equal(np.sort(order), np.arange(grid.cells))
    low, high = jnp.array(grid.low), jnp.array(grid.high)
    inside = low + (high - low) * jax.random.uniform(jax.random.key(0), (2000, len(grid.shape)))
    counts = jax.random.randint(jax.random.key(1), inside.shape, 0, 101)
    on_borders = low + (high - low) * (counts / 100)
    for measures in (inside, on_borders):
        np.testing.assert_array_equal(order[get_cells_indices(measures, centroids)], grid.index(measures))


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


def test_sizes_and_take():
    whole, _ = make_archive()
    assert len(whole) == 12
    assert whole.shape == SHAPE
    assert whole.nbytes == 12 * SHAPE.size * 4
    rows = np.array([3, 1, 11])
    same(whole, archive.take(whole, rows), rows)
    mask = np.asarray(whole.fitness) > 100
    same(whole, archive.take(whole, mask), mask)


def bad(name):
    whole, _ = make_archive()
    kernel = whole.policies["params"]["Dense_1"]["kernel"]
    layers = whole.policies["params"]
    hurt = {"params": layers | {"Dense_1": layers["Dense_1"] | {"kernel": kernel.at[5, 0, 0].set(jnp.nan)}}}
    short = {"params": layers | {"Dense_1": {"kernel": kernel[:-1], "bias": layers["Dense_1"]["bias"]}}}
    return {
        "empty": archive.take(whole, np.arange(0)),
        "fitness": dataclasses.replace(whole, fitness=whole.fitness.at[4].set(jnp.nan)),
        "infinite": dataclasses.replace(whole, fitness=whole.fitness.at[jnp.array([0, 3])].set(-jnp.inf)),
        "measures": dataclasses.replace(whole, measures=whole.measures.at[7, 1].set(jnp.nan)),
        "policies": dataclasses.replace(whole, policies=hurt),
        "bounds": dataclasses.replace(whole, measures=whole.measures.at[2, 0].set(1.01)),
        "rows": dataclasses.replace(whole, measures=whole.measures[:-1]),
        "columns": dataclasses.replace(whole, measures=whole.measures[:, :1]),
        "leading": dataclasses.replace(whole, policies=short),
        "tree": dataclasses.replace(whole, policies={"params": {"Conv": {"kernel": kernel}}}),
        "bias": dataclasses.replace(whole, policies={"params": layers | {"Dense_1": {"kernel": kernel}}}),
        "layers": dataclasses.replace(
            whole, policies={"params": layers | {"Dense_1": layers["Dense_1"] | {"kernel": kernel[:, :-1]}}}
        ),
        "integers": dataclasses.replace(whole, fitness=whole.fitness.astype(jnp.int32)),
        "half": dataclasses.replace(whole, policies=jax.tree.map(lambda x: x.astype(jnp.bfloat16), whole.policies)),
        "no cells": dataclasses.replace(whole, grid=GRID._replace(shape=(0, 4))),
        "upside down": dataclasses.replace(whole, grid=GRID._replace(low=GRID.high, high=GRID.low)),
        "uneven": dataclasses.replace(whole, grid=GRID._replace(low=GRID.low[:1])),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "the archive is empty"),
        ("fitness", r"NaN or infinite fitness in 1 of 12 elites \(first: elite 4\)"),
        ("infinite", r"NaN or infinite fitness in 2 of 12 elites \(first: elite 0\)"),
        ("measures", r"NaN or infinite measures in 1 of 12 elites \(first: elite 7\)"),
        ("policies", r"NaN or infinite policies in 1 of 12 elites \(first: elite 5\)"),
        ("bounds", r"measures of 1 elites lie outside .*first: elite 2 at \[1.0"),
        ("rows", r"arrays disagree: 12 fitnesses.*measures \(11, 2\)"),
        ("columns", r"arrays disagree.*measures \(12, 1\) on a grid of 2"),
        ("leading", r"arrays disagree.*leading axes \[11, 12\]"),
        ("tree", "not the parameters of an MLP policy"),
        ("bias", "not the parameters of an MLP policy"),
        ("layers", "not the parameters of an MLP policy"),
        ("integers", "arrays are float32, int32, expected float32 alone"),
        ("half", "arrays are bfloat16, float32, expected float32 alone"),
        ("no cells", "is no grid of 2 measures"),
        ("upside down", "is no grid of 2 measures"),
        ("uneven", "is no grid of 2 measures"),
    ],
)
def test_unsound_archives(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        archive.check(bad(name))
    archive.save(bad(name), tmp_path / "archive")
    with pytest.raises(ValueError, match=f"^{tmp_path}/archive: .*{message}"):
        archive.load(tmp_path / "archive")


def test_a_sound_archive_passes_unchanged():
    whole, _ = make_archive()
    assert archive.check(whole) is whole
    rounded = dataclasses.replace(whole, measures=whole.measures.at[0].set(jnp.array([1.0 + 1e-6, -1.0 - 1e-6])))
    archive.check(rounded)


def test_check_task():
    whole, _ = make_archive()
    archive.check_task(whole, make_toy())
    with pytest.raises(ValueError, match="archive is of task 'toy', the config asks for 'other'"):
        archive.check_task(whole, make_toy(name="other"))
    wide = dataclasses.replace(make_toy(), observation_size=9)
    with pytest.raises(ValueError, match="map 3 observations to 2 actions; toy has 9 and 2"):
        archive.check_task(whole, wide)


def test_save_and_load_are_bit_exact(tmp_path):
    whole, _ = make_archive()
    archive.save(whole, tmp_path / "archive")
    same(whole, archive.load(tmp_path / "archive"))
    with pytest.raises(FileNotFoundError, match="expected a saved archive"):
        archive.load(tmp_path / "none")


def test_qdax_round_trip():
    whole, cells = make_archive()
    repertoire = archive.to_qdax(whole)
    assert repertoire.fitnesses.shape == (GRID.cells, 1)
    assert int((repertoire.fitnesses > -jnp.inf).sum()) == len(whole)
    back = archive.from_qdax(repertoire, GRID, "toy", SETTINGS)
    order = [list(cells).index(cell) for cell in np.asarray(GRID.index(back.measures))]
    same(whole, back, order)


def test_a_nan_in_a_repertoire_is_no_empty_cell():
    repertoire = archive.to_qdax(make_archive()[0])
    filled = int(jnp.argmax(repertoire.fitnesses[:, 0] > -jnp.inf))
    repertoire = repertoire.replace(fitnesses=repertoire.fitnesses.at[filled].set(jnp.nan))
    with pytest.raises(ValueError, match="NaN or infinite fitness in 1 of 12 elites"):
        archive.from_qdax(repertoire, GRID, "toy", SETTINGS)


def test_to_qdax_keeps_the_best_of_a_cell():
    whole, _ = make_archive(4)
    crowded = dataclasses.replace(whole, measures=jnp.broadcast_to(whole.measures[0], whole.measures.shape))
    back = archive.from_qdax(archive.to_qdax(crowded), GRID, "toy", SETTINGS)
    best = int(np.argmax(np.asarray(whole.fitness)))
    same(crowded, back, slice(best, best + 1))


def test_data_frame_round_trip():
    whole, cells = make_archive()
    frame = archive.to_data_frame(whole)
    assert frame.shape == (12, SHAPE.size + 1 + 2 + 1)
    np.testing.assert_array_equal(frame["index"], cells)
    np.testing.assert_array_equal(frame["solution_0"], whole.policies["params"]["Dense_0"]["bias"][:, 0])
    same(whole, archive.from_data_frame(frame, SHAPE, GRID, "toy", SETTINGS))
    shuffled = frame.sample(frac=1.0, random_state=0, axis=1).sort_values("objective")
    same(whole, archive.from_data_frame(shuffled, SHAPE, GRID, "toy", SETTINGS), np.argsort(whole.fitness))


def test_pyribs_archive_round_trip():
    """A real pyribs archive, filled from ours, puts the elites into the same cells and reads back unchanged."""
    ribs = pytest.importorskip("ribs.archives")
    whole, cells = make_archive()
    theirs = ribs.GridArchive(
        solution_dim=SHAPE.size,
        dims=GRID.shape,
        ranges=list(zip(GRID.low, GRID.high, strict=True)),
        dtype=np.float32,
    )
    solutions = np.asarray(jax.vmap(SHAPE.flatten)(whole.policies))
    theirs.add(solutions, np.asarray(whole.fitness), np.asarray(whole.measures))
    frame = theirs.data(return_type="pandas")
    back = archive.from_data_frame(frame, SHAPE, GRID, "toy", SETTINGS)
    np.testing.assert_array_equal(frame["index"], GRID.index(back.measures))
    same(whole, back, [list(cells).index(cell) for cell in frame["index"]])
    again = archive.to_data_frame(back)
    assert set(again.columns) == set(frame.columns) - {"threshold"}
    for column in again.columns:
        np.testing.assert_array_equal(again[column], frame[column])


def test_data_frame_of_another_shape():
    frame = archive.to_data_frame(make_archive()[0])
    for shape in (MLP(3, 2, (5,)), MLP(3, 2, (3,))):
        with pytest.raises(ValueError, match=f"{shape.size} parameters, found {SHAPE.size} solution columns"):
            archive.from_data_frame(frame, shape, GRID, "toy")
    with pytest.raises(ValueError, match="1 columns are missing .first: objective"):
        archive.from_data_frame(frame.drop(columns="objective"), SHAPE, GRID, "toy")
    with pytest.raises(ValueError, match="does not fit"):
        archive.from_data_frame(frame, SHAPE, Grid((4,), (0.0,), (1.0,)), "toy")


def test_scaled_by_hand_and_back():
    grid = archive.Grid((4, 4), (-1.0, 2.0), (1.0, 6.0))
    measures = np.array([[-1.0, 6.0], [0.5, 3.0], [np.nan, 2.0]], np.float32)
    found = grid.scaled(measures)
    np.testing.assert_allclose(found, [[0.0, 1.0], [0.75, 0.25], [np.nan, 0.0]])
    np.testing.assert_allclose(grid.unscaled(found), measures)
    inside = jax.jit(grid.scaled)(jnp.asarray(measures))
    assert isinstance(found, np.ndarray) and inside.dtype == jnp.float32
    np.testing.assert_allclose(inside, found)
