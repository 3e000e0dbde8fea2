"""Archives: sizes, unsound ones, files, those from before networks were stated."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_toy

from ldpol import archive, storage
from ldpol.archive import Archive, Grid, make_voronoi
from ldpol.network_reader import network as read_network
from ldpol.networks import MLP

SHAPE = MLP(3, 2, (4,))
GRID = Grid((4, 5), (0.0, -1.0), (1.0, 1.0))
SETTINGS = (("backend", "spring"), ("episode_length", 20), ("reset_noise", None))


def custom():
    """A network that is no MLP: its one layer has a scale without an axis."""
    params = {"scale": jnp.zeros(()), "in": {"kernel": jnp.zeros((3, 2))}}
    return read_network(lambda p, seen: p["scale"] * (seen @ p["in"]["kernel"]), observation_size=3, params=params)


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
    return Archive(policies, fitness, jnp.asarray(measures, jnp.float32), grid, "toy", SHAPE, SETTINGS), cells


def same(one: Archive, other: Archive, rows=slice(None)):
    assert (one.grid, one.task, one.settings) == (other.grid, other.task, other.settings)
    pairs = zip(jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other), strict=True)
    for (name, left), (other_name, right) in pairs:
        assert name == other_name
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(np.asarray(left)[rows], np.asarray(right))


def test_sizes_and_take():
    whole, _ = make_archive()
    assert len(whole) == 12
    assert whole.network == SHAPE
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
        "no cells": dataclasses.replace(whole, grid=dataclasses.replace(GRID, shape=(0, 4))),
        "upside down": dataclasses.replace(whole, grid=dataclasses.replace(GRID, low=GRID.high, high=GRID.low)),
        "uneven": dataclasses.replace(whole, grid=dataclasses.replace(GRID, low=GRID.low[:1])),
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
        ("tree", r"not the parameters of MLP\(3 -> 4 -> 2, tanh, clip\): params"),
        ("bias", r"not the parameters of MLP\(3 -> 4 -> 2, tanh, clip\): params"),
        ("layers", r"not the parameters of MLP\(3 -> 4 -> 2, tanh, clip\): params"),
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
    with pytest.raises(ValueError, match="archive is of task 'toy', the task is 'other'"):
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


def test_an_archive_from_before_networks_were_stated(tmp_path):
    """Its manifest says nothing of a network; its policies were tanh inside and clipped."""
    whole, _ = make_archive()
    about = {"grid": GRID.to_json(), "task": "toy", "settings": dict(SETTINGS)}
    arrays = {"policies": whole.policies, "fitness": whole.fitness, "measures": whole.measures}
    storage.save(tmp_path / "old", arrays, kind=archive.KIND, about=about)
    back = archive.load(tmp_path / "old")
    assert back.network == MLP(3, 2, (4,), "tanh", "clip")
    same(whole, back)
    arrays["policies"] = {"params": {"Conv_0": {"kernel": jnp.zeros((12, 3))}}}
    storage.save(tmp_path / "other", arrays, kind=archive.KIND, about=about)
    with pytest.raises(ValueError, match="states no network, and its policies are not those of an MLP"):
        archive.load(tmp_path / "other")


@pytest.mark.parametrize("network", [MLP(3, 2, (4,), "relu", "tanh"), custom()], ids=["mlp", "custom"])
def test_networks_and_voronoi_cells_are_stored(tmp_path, network):
    whole, _ = make_archive()
    cells = make_voronoi(np.random.default_rng(0).random((9, 2)), (0.0, -1.0), (1.0, 1.0))
    vectors = jnp.ones((12, network.size))
    policies = jax.vmap(network.unflatten)(vectors)
    whole = dataclasses.replace(whole, network=network, policies=policies, grid=cells)
    archive.save(whole, tmp_path / "archive")
    back = archive.load(tmp_path / "archive")
    assert (back.grid, back.network.to_json()) == (cells, network.to_json())
    jax.tree.map(np.testing.assert_array_equal, back.policies, policies)
    assert archive.load(tmp_path / "archive", network).network == network
    with pytest.raises(ValueError, match="the policies belong to .*, network= is MLP"):
        archive.load(tmp_path / "archive", MLP(3, 2, (9,)))
