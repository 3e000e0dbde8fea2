"""Archives from elsewhere: real objects of QDax, Brax and pyribs come in exactly, and every mistake has its message."""

import dataclasses
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archive.test_archive import GRID, SETTINGS, SHAPE, make_archive, same
from brax.training.acme import running_statistics, specs
from brax.training.agents.ppo.networks import make_ppo_networks
from flax import struct
from flax.core import freeze
from jax.flatten_util import ravel_pytree
from qdax.core.containers.ga_repertoire import GARepertoire
from qdax.core.containers.mapelites_repertoire import (
    MapElitesRepertoire,
    compute_cvt_centroids,
    compute_euclidean_centroids,
)
from qdax.core.containers.mome_repertoire import MOMERepertoire
from qdax.core.containers.unstructured_repertoire import UnstructuredRepertoire
from qdax.core.neuroevolution.networks.networks import MLP as QDaxMLP
from toy import make_toy

from ldpol import archive, network
from ldpol.archive import Grid, Voronoi, from_npz, from_policies, from_qdax, from_ribs, from_torch, to_torch
from ldpol.networks import MLP, fold_normaliser
from ldpol.rollout import rollout

TASK = make_toy()
RELU = MLP(3, 2, (5, 4), "relu", "tanh")
MODULE = QDaxMLP((5, 4, 2), final_activation=jnp.tanh)
N = 12
SEEN = jax.random.normal(jax.random.key(9), (N, 3))


def genotypes(module=MODULE, inputs=3):
    return jax.vmap(module.init)(jax.random.split(jax.random.key(0), N), jnp.zeros((N, inputs)))


def scores(seed=1):
    fitness_key, measure_key = jax.random.split(jax.random.key(seed))
    return jax.random.normal(fitness_key, (N,)), jax.random.uniform(measure_key, (N, 2))


def repertoire(trees=None, centroids=None, fitness=None):
    stored, measures = scores()
    trees = genotypes() if trees is None else trees
    with jax.numpy_rank_promotion("allow"):  # QDax does
        if centroids is None:
            centroids = compute_cvt_centroids(2, 2000, 30, 0.0, 1.0, jax.random.key(2))
        return MapElitesRepertoire.init(trees, (stored if fitness is None else fitness)[:, None], measures, centroids)


def acts_as(elites, module, trees, measures):
    """Whether the elites act as QDax's own module does; elites and genotypes are matched by their measures."""
    rows = [int(np.abs(np.asarray(measures) - row).sum(1).argmin()) for row in np.asarray(elites.measures)]
    theirs = jax.vmap(module.apply)(jax.tree.map(lambda leaf: leaf[np.array(rows)], trees), SEEN[: len(rows)])
    np.testing.assert_allclose(
        jax.vmap(elites.network.apply)(elites.policies, SEEN[: len(rows)]), theirs, rtol=1e-5, atol=1e-6
    )


def test_a_repertoire_of_relu_policies_acts_as_qdax_does():
    found = repertoire()
    elites = from_qdax(found, network(MODULE, observation_size=3), TASK)
    assert elites.network == RELU and isinstance(elites.grid, Voronoi) and elites.grid.cells == 30
    assert len(elites) == int((found.fitnesses > -jnp.inf).sum()) and elites.settings == (
        *TASK.settings,
        ("imported", "qdax"),
    )
    acts_as(elites, MODULE, genotypes(), scores()[1])
    np.testing.assert_array_equal(elites.grid.centroids(), found.centroids)


def test_layers_that_others_call_otherwise():
    trees = genotypes()
    layers = trees["params"]
    renamed = {"params": {f"hidden_{i}": layers[f"Dense_{i}"] for i in range(3)}}
    nested = {"params": {"MLP_0": layers}}
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trees)
    straight = from_qdax(repertoire(trees), RELU, TASK)
    for other in (renamed, nested, freeze(trees), double):
        same(straight, from_qdax(repertoire().replace(genotypes=_cells_of(other)), RELU, TASK))


def _cells_of(trees):
    """The trees in the cells of `repertoire()`, built by QDax from the plain ones."""
    plain, stored = genotypes(), repertoire()
    first = np.asarray(plain["params"]["Dense_0"]["kernel"])[:, 0, 0]
    rows = [
        int(np.abs(first - value).argmin())
        for value in np.asarray(stored.genotypes["params"]["Dense_0"]["kernel"])[:, 0, 0]
    ]
    return jax.tree.map(lambda leaf: leaf[np.array(rows)], trees)


def test_missing_biases_become_zeros():
    module = QDaxMLP((5, 4, 2), final_activation=jnp.tanh, bias=False)
    trees = genotypes(module)
    elites = from_qdax(repertoire(trees), network(module, observation_size=3), TASK)
    acts_as(elites, module, trees, scores()[1])
    assert float(jnp.abs(elites.policies["params"]["Dense_1"]["bias"]).max()) == 0.0


def test_the_mean_half_of_a_head():
    module = QDaxMLP((5, 4), activation=nn.swish)
    trees = genotypes(module)
    elites = from_qdax(repertoire(trees), MLP(3, 2, (5,), "swish", "tanh"), TASK, head="mean")
    half = lambda params, seen: jnp.tanh(module.apply(params, seen)[:2])  # noqa: E731
    acts_as(elites, type("Half", (), {"apply": staticmethod(half)}), trees, scores()[1])


def test_old_repertoires_have_fitness_without_an_axis():
    stored = repertoire()
    same(from_qdax(stored, RELU, TASK), from_qdax(stored.replace(fitnesses=stored.fitnesses[:, 0]), RELU, TASK))


@pytest.mark.parametrize("shape", [(6, 6), (3, 7)])
def test_centroids_of_a_grid_become_that_grid(shape):
    with jax.numpy_rank_promotion("allow"):  # QDax does
        centroids = compute_euclidean_centroids(shape, [0.0, 0.0], [1.0, 1.0])
    stored = repertoire(centroids=centroids)
    assert from_qdax(stored, RELU, TASK).grid == Grid(shape, (0.0, 0.0), (1.0, 1.0))
    moved = stored.replace(centroids=stored.centroids.at[3, 0].add(0.02))
    assert isinstance(from_qdax(moved, RELU, TASK).grid, Voronoi)
    assert from_qdax(stored, RELU, TASK, cells=9).grid == Grid((9, 9), (0.0, 0.0), (1.0, 1.0))


def test_an_unstructured_repertoire():
    stored, measures = scores()
    with jax.numpy_rank_promotion("allow"):  # QDax does
        theirs = UnstructuredRepertoire.init(genotypes(), stored[:, None], measures, jnp.asarray(0.01), max_size=32)
    elites = from_qdax(theirs, RELU, TASK, cells=10)
    assert len(elites) == int((theirs.fitnesses > -jnp.inf).sum()) >= 2
    acts_as(elites, MODULE, genotypes(), measures)
    with pytest.raises(ValueError, match="a UnstructuredRepertoire has no centroids: say cells=50"):
        from_qdax(theirs, RELU, TASK)


@pytest.mark.filterwarnings("ignore:This type of repertoire does not store")
def test_of_a_front_the_best_counts():
    first, measures = scores()
    both = jnp.stack([first, -first], 1)
    with jax.numpy_rank_promotion("allow"):  # QDax does
        centroids = compute_cvt_centroids(2, 2000, 4, 0.0, 1.0, jax.random.key(2))
        theirs = MOMERepertoire.init(genotypes(), both, measures, centroids, pareto_front_max_length=8)
    with pytest.raises(ValueError, match=r"fronts of 8 elites of 2 objectives: pick one, `select="):
        from_qdax(theirs, RELU, TASK)
    elites = from_qdax(theirs, RELU, TASK, select=lambda f: f[..., 0])
    cell = np.asarray(elites.grid.index(measures))
    expected = sorted(float(first[cell == c].max()) for c in np.unique(cell))
    np.testing.assert_allclose(sorted(np.asarray(elites.fitness)), expected, rtol=1e-6)
    acts_as(elites, MODULE, genotypes(), measures)


@struct.dataclass
class TrainingState:
    policy_params: dict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genotypes": genotypes(QDaxMLP((6, 4, 2)))}, "policies map 3 -> 6 -> 4 -> 2, the network 3 -> 5 -> 4 -> 2"),
        (
            {"genotypes": genotypes(inputs=5)},
            "5 inputs, the environment has 3 observations and 2 descriptors: an MLPDC actor. fold the descriptor into",
        ),
        (
            {"genotypes": genotypes(QDaxMLP((5, 4, 4)))},
            "4 outputs for 2 actions: a mean-and-std head; pass head='mean' to keep the first 2 .Brax PPO/SAC",
        ),
        ({"genotypes": TrainingState(genotypes())}, "genotypes are training states; pass genotypes.policy_params"),
        ({"genotypes": jnp.zeros((N, 9))}, r"of shape \[12, 9\].*flat vectors \[N, P\] come in with from_ribs"),
        ({"genotypes": {"params": {"Conv_0": {"kernel": jnp.zeros((N, 3, 2))}}}}, "found Conv_0, expected Dense_0"),
        ({"genotypes": {"params": {"LayerNorm_0": {}, **genotypes()["params"]}}}, "found LayerNorm_0, .*ldpol.network"),
        ({"fitnesses": jnp.zeros((N, 3))}, r"3 objectives: pick one, `select=lambda f: f\[..., 0\]`"),
        ({"descriptors": jnp.zeros((N, 3))}, r"measures \[12, 3\], toy has 2 \(right, up\)"),
        ({"descriptors": jnp.full((N, 2), 1.5)}, "outside='clip' .pyribs does so with its cells., 'drop' or 'widen'"),
        ({"fitnesses": np.full((N, 1), 1e300)}, "float64 numbers of up to 1e.300 do not fit into float32"),
    ],
)
def test_repertoires_that_do_not_fit(change, message):
    whole = repertoire(centroids=scores()[1])  # one elite in each cell
    fields = {"genotypes": whole.genotypes, "fitnesses": whole.fitnesses, "descriptors": whole.descriptors} | change
    fake = type("Repertoire", (), fields | {"centroids": whole.centroids})()
    with pytest.raises(ValueError, match=message):
        from_qdax(fake, RELU, TASK)


def test_nothing_comes_in_without_its_network():
    for arguments in ((repertoire(),), (repertoire(), GRID, "toy"), (repertoire(), RELU)):
        with pytest.raises(TypeError, match=r"from_qdax\(repertoire, network, task\); QDax's MLP is relu inside"):
            from_qdax(*arguments)
    with pytest.raises(TypeError, match="say which network these solutions belong to"):
        from_ribs({})


def test_repertoires_without_descriptors():
    theirs = GARepertoire.init(genotypes(), scores()[0][:, None], population_size=N)
    with pytest.raises(ValueError, match="a GARepertoire has no descriptors; use from_policies"):
        from_qdax(theirs, RELU, TASK)


def test_a_network_of_another_task():
    with pytest.raises(ValueError, match="maps 3 observations to 2 actions; wide has 9 and 2"):
        from_qdax(repertoire(), RELU, dataclasses.replace(TASK, name="wide", observation_size=9))


def test_measures_out_of_bounds():
    stored, measures = scores()
    measures = measures.at[0].set(jnp.array([1.5, -0.25]))
    data = {"solution": jnp.zeros((N, RELU.size)), "objective": stored, "measures": measures}
    how = {"order": "flax", "cells": 4}
    clipped = from_ribs(data, RELU, TASK, outside="clip", **how)
    np.testing.assert_array_equal(clipped.measures[0], [1.0, 0.0])
    np.testing.assert_array_equal(from_ribs(data, RELU, TASK, outside="drop", **how).fitness, stored[1:])
    wide = from_ribs(data, RELU, TASK, outside="widen", **how)
    assert (wide.grid.low, wide.grid.high) == ((0.0, -0.25), (1.5, max(1.0, float(measures[:, 1].max()))))
    np.testing.assert_array_equal(wide.measures, measures)
    with pytest.raises(ValueError, match="lie outside the grid's bounds"):
        from_ribs(data, RELU, TASK, **how)
    with pytest.raises(ValueError, match="must be error, clip, drop or widen, found 'keep'"):
        from_ribs(data, RELU, TASK, outside="keep", **how)


def rows_of(policies):
    return [jax.tree.map(lambda leaf: leaf[i], policies) for i in range(N)]  # noqa: B023


def torch_forward(vector, seen, sizes, inside, outside):
    """A torch actor by hand: weights [out, in] row by row, then its bias, layer after layer."""
    x, start = np.asarray(seen, np.float64), 0
    for i, (wide, high) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weight = vector[start : start + high * wide].reshape(high, wide)
        start += high * wide
        bias = vector[start : start + high]
        start += high
        x = weight @ x + bias
        x = inside(x) if i < len(sizes) - 2 else outside(x)
    assert start == len(vector)
    return x


@pytest.mark.parametrize("order", ["torch", "flax", "kernel_bias"])
def test_flat_policies_in_every_order(order):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(N, RELU.size))
    data = {"solution": vectors, "objective": scores()[0], "measures": scores()[1]}
    elites = from_ribs(data, RELU, TASK, order=order, cells=4)
    assert dict(elites.settings)["order"] == order
    for vector, params, seen in zip(vectors, rows_of(elites.policies), SEEN, strict=True):
        if order == "torch":
            expected = torch_forward(vector, seen, (3, 5, 4, 2), lambda x: np.maximum(x, 0), np.tanh)
            np.testing.assert_allclose(RELU.apply(params, seen), expected, rtol=1e-4, atol=1e-5)
        elif order == "flax":
            np.testing.assert_allclose(ravel_pytree(params)[0], vector, rtol=1e-6)
        else:
            layers = [params["params"][f"Dense_{i}"] for i in range(3)]
            flat = np.concatenate([np.ravel(part) for layer in layers for part in (layer["kernel"], layer["bias"])])
            np.testing.assert_allclose(flat, vector, rtol=1e-6)
    frame = archive.to_ribs(elites, order)
    np.testing.assert_allclose(frame[[f"solution_{i}" for i in range(RELU.size)]].to_numpy(), vectors, rtol=1e-6)


def test_a_linear_policy_without_biases():
    linear = MLP(3, 2, (), "identity", "identity")
    vectors = np.arange(6.0 * N).reshape(N, 6)
    data = {"solution": vectors, "objective": scores()[0], "measures": scores()[1]}
    elites = from_ribs(data, linear, TASK, order="torch", cells=4)
    np.testing.assert_allclose(
        jax.vmap(linear.apply)(elites.policies, SEEN),
        np.einsum("nao,no->na", vectors.reshape(N, 2, 3), SEEN),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"solution": np.zeros((N, RELU.size + 2))},
            f"have {RELU.size + 2} numbers, .* {RELU.size}: 2 more, .* skip=2",
        ),
        ({"solution": np.zeros((N, 4))}, f"have 4 numbers, .* has {RELU.size}$"),
        ({"solution": np.zeros((0, RELU.size))}, "the archive is empty"),
        ({"measures": np.array([["a", "b"]] * N)}, "expected numbers, found <U1 .categorical measures"),
        ({"objective": None}, "the data has no objective; it has solution, measures"),
    ],
)
def test_pyribs_data_that_does_not_fit(change, message):
    data = {"solution": np.zeros((N, RELU.size)), "objective": scores()[0], "measures": scores()[1]} | change
    data = {name: value for name, value in data.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        from_ribs(data, RELU, TASK, order="torch", cells=4)


def test_the_order_of_flat_policies_is_stated():
    data = {"solution": np.zeros((N, RELU.size)), "objective": scores()[0], "measures": scores()[1]}
    with pytest.raises(TypeError, match=rf"say order='torch' .* or .*all have {RELU.size} numbers, so only the replay"):
        from_ribs(data, RELU, TASK, cells=4)
    with pytest.raises(ValueError, match="is one of flax, torch, kernel_bias, found 'c'"):
        from_ribs(data, RELU, TASK, order="c", cells=4)
    with pytest.raises(ValueError, match="the data has no centroids: say cells=50"):
        from_ribs(data, RELU, TASK, order="torch")
    with pytest.raises(ValueError, match="found a list"):
        from_ribs([1, 2], RELU, TASK, order="torch")


def ribs_archive(kind, cells=None):
    ribs = pytest.importorskip("ribs.archives")
    whole, _ = make_archive()
    ranges = list(zip(GRID.low, GRID.high, strict=True))
    how = {"solution_dim": SHAPE.size, "ranges": ranges, "dtype": np.float32}
    theirs = ribs.GridArchive(dims=GRID.shape, **how) if kind == "grid" else ribs.CVTArchive(centroids=cells, **how)
    solutions = np.asarray(jax.vmap(SHAPE.flatten)(whole.policies))
    theirs.add(solutions, np.asarray(whole.fitness), np.asarray(whole.measures))
    return whole, theirs


WIDE = dataclasses.replace(TASK, measure_low=GRID.low, measure_high=GRID.high)


@pytest.mark.parametrize("form", ["archive", "scheduler", "data", "frame", "old frame"])
def test_a_pyribs_archive_in_every_form(form):
    whole, theirs = ribs_archive("grid")
    frame = theirs.data(return_type="pandas")
    old = frame.rename(columns={"measures_0": "measure_0", "measures_1": "measure_1"})
    source = {
        "archive": theirs,
        "scheduler": type("Scheduler", (), {"result_archive": theirs})(),
        "data": theirs.data(),
        "frame": frame,
        "old frame": old.sample(frac=1.0, random_state=0, axis=1),
    }[form]
    cells = None if form in ("archive", "scheduler") else GRID
    back = from_ribs(source, SHAPE, WIDE, order="flax", cells=cells, settings=SETTINGS)
    assert back.grid == GRID
    np.testing.assert_array_equal(theirs.data("index"), GRID.index(back.measures))
    order = [int(np.abs(np.asarray(whole.fitness) - value).argmin()) for value in np.asarray(back.fitness)]
    same(whole, back.replace(settings=SETTINGS, task="toy"), order)


def test_a_pyribs_cvt_archive():
    cells = np.random.default_rng(3).uniform((0.0, -1.0), (1.0, 1.0), (50, 2)).astype(np.float32)
    _, theirs = ribs_archive("cvt", cells)
    back = from_ribs(theirs, SHAPE, WIDE, order="flax")
    np.testing.assert_allclose(back.grid.centroids(), theirs.centroids)
    np.testing.assert_array_equal(back.grid.index(back.measures), theirs.data("index"))


def test_frames_without_columns():
    whole, _ = make_archive()
    frame = archive.to_ribs(whole)
    for column, what in (("objective", "objective"), ("measures_0", "measures"), ("solution_3", "solution")):
        with pytest.raises(ValueError, match=f"no columns for the {what}; expected solution_0"):
            from_ribs(frame.drop(columns=column), SHAPE, WIDE, order="flax", cells=GRID)


@pytest.mark.parametrize("each", [False, True])
def test_normalisers_are_folded_in(each):
    random = np.random.default_rng(0)
    shape = (N, 3) if each else (3,)
    mean, var = random.normal(size=shape), random.uniform(0.5, 2.0, shape)
    vectors = random.normal(size=(N, RELU.size))
    data = {"solution": vectors, "objective": scores()[0], "measures": scores()[1]}
    elites = from_ribs(data, RELU, TASK, order="torch", cells=4, obs_mean=mean, obs_var=var)
    normal = (np.asarray(SEEN) - mean) / np.sqrt(var + 1e-8)
    for i in range(N):
        expected = torch_forward(vectors[i], normal[i], (3, 5, 4, 2), lambda x: np.maximum(x, 0), np.tanh)
        params = jax.tree.map(lambda leaf: leaf[i], elites.policies)  # noqa: B023
        np.testing.assert_allclose(RELU.apply(params, SEEN[i]), expected, rtol=1e-3, atol=1e-4)
    for wrong, message in (
        ({"obs_mean": mean}, "pass both"),
        ({"obs_mean": mean[:1], "obs_var": var[:1]}, "obs_mean and"),
    ):
        with pytest.raises(ValueError, match=message):
            from_ribs(data, RELU, TASK, order="torch", cells=4, **wrong)


def test_an_npz_of_ppga(tmp_path):
    """As the converter writes it: a log-std in front, one normaliser for each elite."""
    random = np.random.default_rng(0)
    parts = {
        "solution": random.normal(size=(N, 2 + RELU.size)).astype(np.float32),
        "objective": np.asarray(scores()[0]),
        "measures": np.asarray(scores()[1]),
        "obs_mean": random.normal(size=(N, 3)),
        "obs_var": random.uniform(0.5, 2.0, (N, 3)),
    }
    np.savez_compressed(tmp_path / "ppga.npz", **parts)
    found = from_npz(tmp_path / "ppga.npz", RELU, TASK, order="torch", skip=2, cells=4)
    expected = from_ribs(
        parts, RELU, TASK, order="torch", skip=2, cells=4, obs_mean=parts["obs_mean"], obs_var=parts["obs_var"]
    )
    same(expected, found)
    np.savez(tmp_path / "cvt.npz", centroids=np.random.default_rng(0).random((9, 2)), **parts)
    assert from_npz(tmp_path / "cvt.npz", RELU, TASK, order="torch", skip=2).grid.cells == 9


def test_the_files_of_an_old_repertoire(tmp_path):
    """QDax <= 0.4.1 flattened each genotype with ravel_pytree and stored fitness without an axis."""
    stored = repertoire()
    flat = np.stack([ravel_pytree(jax.tree.map(lambda leaf: leaf[i], stored.genotypes))[0] for i in range(30)])  # noqa: B023
    prefix = f"{tmp_path}/repertoire_"
    files = {"genotypes": flat, "fitnesses": stored.fitnesses[:, 0]}
    for name, value in (files | {"descriptors": stored.descriptors, "centroids": stored.centroids}).items():
        np.save(f"{prefix}{name}.npy", np.asarray(value))
    found = from_npz(prefix, RELU, TASK)
    assert found.settings == (*TASK.settings, ("imported", "flat"), ("order", "flax"))
    same(from_qdax(stored, RELU, TASK, settings=()), found.replace(settings=()))


def test_files_that_are_not_read(tmp_path):
    pickled = tmp_path / "archive_df.pkl"
    pickled.write_bytes(pickle.dumps({"solution": 1}))
    np.savez(tmp_path / "objects.npz", solution=np.array([{}], object))
    for file in (pickled, tmp_path / "objects.npz"):
        with pytest.raises(ValueError, match=r"is a pickle, which can run code when it is read[^$]*savez"):
            from_npz(file, RELU, TASK, order="torch")
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(ValueError, match="is no npz or npy file; expected arrays"):
        from_npz(tmp_path / "text.npz", RELU, TASK, order="torch")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="holds one array, expected an npz"):
        from_npz(tmp_path / "one.npy", RELU, TASK, order="torch")
    with pytest.raises(FileNotFoundError, match="there is no .*none.npz, nor"):
        from_npz(tmp_path / "none.npz", RELU, TASK, order="torch")


def test_policies_are_rolled_out_for_their_scores():
    still = make_toy(noise=0.0)
    elites = from_policies(genotypes(), RELU, still, jax.random.key(0), episodes=2, cells=5)
    assert elites.grid == Grid((5, 5), (0.0, 0.0), (1.0, 1.0)) and len(elites) == N
    for i in range(3):
        params = jax.tree.map(lambda leaf: leaf[i], genotypes())  # noqa: B023
        score = rollout(still, MODULE.apply, params, jax.random.key(0))
        np.testing.assert_allclose(elites.fitness[i], score.fitness, rtol=1e-4)
        np.testing.assert_allclose(elites.measures[i], score.measures, atol=1e-6)
    singles = [jax.tree.map(lambda leaf: leaf[i], genotypes()) for i in range(N)]  # noqa: B023
    same(elites, from_policies(singles, RELU, still, jax.random.key(0), episodes=2, cells=5))
    with pytest.raises(ValueError, match="there are no policies"):
        from_policies([], RELU, still, jax.random.key(0))


def test_policies_whose_measures_are_not_finite():
    broken = dataclasses.replace(TASK, measure=lambda state: jnp.full(2, jnp.nan))
    with pytest.raises(ValueError, match="toy: the measures of 12 of 12 policies are NaN or infinite"):
        from_policies(genotypes(), RELU, broken, jax.random.key(0), episodes=1)


def test_brax_ppo_policies_act_as_brax_does():
    """With its normaliser and its head of means and deviations, against Brax's own inference."""
    made = make_ppo_networks(
        3, 2, preprocess_observations_fn=running_statistics.normalize, policy_hidden_layer_sizes=(5, 4)
    )
    statistics = running_statistics.init_state(specs.Array((3,), jnp.float32))
    batch = jax.random.normal(jax.random.key(3), (50, 3)) * jnp.array([[1.0, 5.0, 0.1]]) + 2.0
    with jax.numpy_rank_promotion("allow"):  # Brax does
        statistics = running_statistics.update(statistics, batch)
    runs = [(statistics, made.policy_network.init(key), None) for key in jax.random.split(jax.random.key(0), 3)]
    swish = MLP(3, 2, (5, 4), "swish", "tanh")
    elites = from_policies(runs, swish, TASK, jax.random.key(1), head="mean", episodes=1)
    for i, (_, policy, _) in enumerate(runs):
        with jax.numpy_rank_promotion("allow"):  # Brax does
            logits = made.policy_network.apply(statistics, policy, batch)
        expected = made.parametric_action_distribution.mode(logits)
        params = jax.tree.map(lambda leaf: leaf[i], elites.policies)  # noqa: B023
        np.testing.assert_allclose(swish.apply(params, batch), expected, rtol=1e-3, atol=1e-4)


def test_a_torch_state_dict_there_and_back():
    params = jax.tree.map(lambda leaf: leaf[0], genotypes())
    state = to_torch(params)
    assert [state[name].shape for name in ("0.weight", "2.bias", "4.weight")] == [(5, 3), (4,), (2, 4)]
    flat = np.concatenate([np.ravel(state[f"{i}.{name}"]) for i in (0, 2, 4) for name in ("weight", "bias")])
    expected = torch_forward(flat, SEEN[0], (3, 5, 4, 2), lambda x: np.maximum(x, 0), np.tanh)
    np.testing.assert_allclose(MODULE.apply(params, SEEN[0]), expected, rtol=1e-4, atol=1e-5)
    actor = {f"actor_mean.{name}": value for name, value in state.items()} | {"actor_logstd": np.zeros((1, 2))}
    back = from_torch(actor, ("actor_mean.0", "actor_mean.2", "actor_mean.4"), RELU)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    with pytest.raises(ValueError, match="the state dict has no mu.0.weight; it has actor_mean.0.weight"):
        from_torch(actor, ("mu.0",), RELU)
    with pytest.raises(ValueError, match="layers map 3 -> 5 -> 4, the network 3 -> 5 -> 4 -> 2"):
        from_torch(actor, ("actor_mean.0", "actor_mean.2"), RELU)


def test_a_custom_network_comes_in_as_it_is():
    module = nn.Sequential([nn.Dense(4), nn.LayerNorm(), nn.relu, nn.Dense(2), nn.tanh])
    trees = genotypes(module)
    net = network(module, observation_size=3)
    elites = from_qdax(repertoire(trees), net, TASK)
    acts_as(elites, module, trees, scores()[1])
    with pytest.raises(ValueError, match="these are not the parameters of CustomNetwork"):
        from_qdax(repertoire(), net, TASK)
    normaliser = jnp.ones(3), jnp.full(3, 2.0)
    named = network(module, observation_size=3, first="params/layers_0")
    folded = fold_normaliser(jax.tree.map(lambda leaf: leaf[0], trees), *normaliser, named.first)
    seen = SEEN[0]
    np.testing.assert_allclose(
        named.apply(folded, seen), module.apply(jax.tree.map(lambda leaf: leaf[0], trees), (seen - 1) / 2), atol=1e-5
    )


def test_qdax_round_trip():
    whole, cells = make_archive()
    theirs = archive.to_qdax(whole)
    assert theirs.fitnesses.shape == (GRID.cells, 1)
    assert int((theirs.fitnesses > -jnp.inf).sum()) == len(whole)
    back = from_qdax(theirs, SHAPE, WIDE, cells=GRID, settings=SETTINGS)
    assert from_qdax(theirs, SHAPE, WIDE).grid == GRID
    order = [list(cells).index(cell) for cell in np.asarray(GRID.index(back.measures))]
    same(whole, back, order)


def test_to_qdax_keeps_the_best_of_a_cell():
    whole, _ = make_archive(4)
    crowded = dataclasses.replace(whole, measures=jnp.broadcast_to(whole.measures[0], whole.measures.shape))
    back = from_qdax(archive.to_qdax(crowded), SHAPE, WIDE, cells=GRID, settings=SETTINGS)
    best = int(np.argmax(np.asarray(whole.fitness)))
    same(crowded, back, slice(best, best + 1))


def test_data_frame_round_trip():
    whole, cells = make_archive()
    frame = archive.to_ribs(whole)
    assert frame.shape == (12, SHAPE.size + 1 + 2 + 1)
    np.testing.assert_array_equal(frame["index"], cells)
    np.testing.assert_array_equal(frame["solution_0"], whole.policies["params"]["Dense_0"]["bias"][:, 0])
    for order in ("flax", "torch", "kernel_bias"):
        back = from_ribs(archive.to_ribs(whole, order), SHAPE, WIDE, order=order, cells=GRID)
        same(whole, back.replace(settings=SETTINGS))


def test_a_nan_in_a_repertoire_is_no_empty_cell():
    theirs = archive.to_qdax(make_archive()[0])
    filled = int(jnp.argmax(theirs.fitnesses[:, 0] > -jnp.inf))
    theirs = theirs.replace(fitnesses=theirs.fitnesses.at[filled].set(jnp.nan))
    with pytest.raises(ValueError, match="NaN or infinite fitness in 1 of 12 elites"):
        from_qdax(theirs, SHAPE, WIDE, cells=GRID, settings=SETTINGS)
