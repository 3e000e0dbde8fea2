"""Archives that QDax and pyribs users have on disk: opened by the explorer, or an error says what is missing."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explored import SHAPE, drawn
from jax.flatten_util import ravel_pytree
from ribs.archives import GridArchive

import ldpol
from ldpol import archive as archives
from ldpol import sample, tasks
from ldpol.archive import Archive, Grid
from ldpol.explore import answers
from ldpol.explore.__main__ import main, parse, stated
from ldpol.explore.elsewhere import Stated, opening, read_csv
from ldpol.explore.requests import Request, Wish
from ldpol.explore.source import open_archive
from ldpol.explore.stage import Stage

COUNT = 6
ALL = Stated("toy", network="6,tanh,clip", order="flax")
CENTRES = np.stack(np.meshgrid([0.25, 0.75], [0.25, 0.75], indexing="ij"), -1).reshape(-1, 2)


@pytest.fixture
def toy(monkeypatch):
    """The toy in place of every robot."""
    made = lambda *name, **settings: drawn()  # noqa: E731
    monkeypatch.setattr(tasks, "make_task", made)
    monkeypatch.setattr(ldpol, "make_task", made)
    monkeypatch.setattr(sample, "make_task", made)


@pytest.fixture(scope="module")
def elites():
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), COUNT))
    rng = np.random.default_rng(0)
    measures = (np.arange(COUNT)[:, None] + rng.uniform(0.1, 0.9, (COUNT, 2))) / COUNT
    return Archive(
        policies,
        jnp.arange(COUNT, dtype=jnp.float32),
        jnp.asarray(measures, jnp.float32),
        grid=Grid((2, 2), (0.0, 0.0), (1.0, 1.0)),
        task="toy",
        network=SHAPE,
    )


@pytest.fixture(scope="module")
def vectors(elites):
    return np.asarray(jax.vmap(lambda policy: ravel_pytree(policy)[0])(elites.policies))


def same_elites(stage, elites):
    order = np.argsort(stage.known("fitness"))
    for ours, theirs in zip(jax.tree.leaves(elites.policies), jax.tree.leaves(stage.elites), strict=True):
        np.testing.assert_allclose(np.asarray(theirs)[order], ours, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(stage.known("measures"))[order], elites.measures, rtol=1e-6)


def test_a_pyribs_archive_as_csv_and_as_npz(toy, elites, vectors, tmp_path):
    theirs = GridArchive(solution_dim=vectors.shape[1], dims=(10, 10), ranges=[(0, 1), (0, 1)])
    theirs.add(vectors, np.asarray(elites.fitness), np.asarray(elites.measures))
    theirs.data(return_type="pandas").to_csv(tmp_path / "archive.csv")
    np.savez(tmp_path / "archive.npz", **theirs.data())
    for name, cells in (("archive.csv", None), ("archive.npz", 7)):
        stage = Stage(open_archive(str(tmp_path / name), dataclasses.replace(ALL, cells=cells)))
        same_elites(stage, elites)
        assert stage.arrays["grid_shape"].tolist() == [cells or 50] * 2


def test_the_four_files_of_an_older_qdax(toy, elites, vectors, tmp_path):
    empty = np.full((1, vectors.shape[1]), 9.0)
    np.save(tmp_path / "genotypes.npy", np.concatenate([vectors, empty]))
    np.save(tmp_path / "fitnesses.npy", np.append(elites.fitness, -np.inf))
    np.save(tmp_path / "descriptors.npy", np.concatenate([elites.measures, [[0.0, 0.0]]]))
    np.save(tmp_path / "centroids.npy", CENTRES)
    for place in (tmp_path, f"{tmp_path}/", tmp_path / "genotypes.npy"):
        stage = Stage(open_archive(str(place), dataclasses.replace(ALL, order=None)))
        same_elites(stage, elites)
        assert stage.arrays["grid_shape"].tolist() == [2, 2]


def test_elites_of_an_npz_are_filmed(toy, elites, vectors, tmp_path):
    np.savez(tmp_path / "archive.npz", solution=vectors, objective=elites.fitness, measures=elites.measures)
    stage = Stage(open_archive(str(tmp_path / "archive.npz"), ALL))
    wanted = np.asarray(elites.measures[4])
    answer, policies = answers.draw(stage, Request(Wish(tuple(map(float, wanted)))))
    assert answer["films"][0]["row"] == 4 and not stage.limits.model
    np.testing.assert_allclose(
        np.asarray(jax.tree.leaves(policies)[0][0]), np.asarray(jax.tree.leaves(elites.policies)[0][4]), rtol=1e-6
    )


def test_an_archive_of_ours_on_another_task(elites, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "make_task", lambda name, **settings: dataclasses.replace(drawn(), name=name))
    monkeypatch.setattr(sample, "make_task", lambda known: dataclasses.replace(drawn(), name=known.task))
    archives.save(elites, tmp_path / "elites")
    assert Stage(open_archive(str(tmp_path / "elites"))).task.name == "toy"
    assert Stage(open_archive(str(tmp_path / "elites"), Stated("other"))).task.name == "other"


def test_the_python_that_the_page_shows_opens_the_same(toy, elites, vectors, tmp_path):
    np.savez(tmp_path / "a.npz", solution=vectors, objective=elites.fitness, measures=elites.measures)
    archives.save(elites, tmp_path / "elites")
    ribs = {f"solution_{i}": vectors[:, i] for i in range(vectors.shape[1])}
    ribs |= {"objective": elites.fitness, "measures_0": elites.measures[:, 0], "measures_1": elites.measures[:, 1]}
    columns = np.stack([np.asarray(column) for column in ribs.values()], 1)
    np.savetxt(tmp_path / "a.csv", columns, delimiter=",", header=",".join(ribs), comments="")
    for name, said in (("a.npz", ALL), ("a.csv", ALL), ("elites", Stated()), ("elites", Stated("toy"))):
        names = {"ldpol": ldpol}
        exec(opening(tmp_path / name, said), names)
        np.testing.assert_allclose(names["elites"].fitness, elites.fitness)
        assert names["task"].measures == 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (Stated(), r"numbers and does not say what they belong to; add --task .*, --network .*, --order"),
        (dataclasses.replace(ALL, order=None), r"add --order \(how a policy's numbers are laid out: flax, torch"),
        (dataclasses.replace(ALL, network="6,tanh"), "such as 64,64,relu,tanh; found '6,tanh'"),
        (dataclasses.replace(ALL, network="tanh,6,clip"), "found 'tanh,6,clip'"),
    ],
)
def test_what_must_be_said(said, message, vectors, tmp_path):
    np.savez(tmp_path / "archive.npz", solution=vectors)
    with pytest.raises(ValueError, match=message):
        open_archive(str(tmp_path / "archive.npz"), said)


def test_files_that_cannot_be_read(toy, tmp_path):
    (tmp_path / "a.csv").write_text("index,fitness\n0,1\n")
    (tmp_path / "b.csv").write_text("solution_0,objective,measures_0\n0,1,two\n")
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"solution": 1}))
    for name, message in (
        ("a.csv", "no columns for the solution; expected .* found index, fitness"),
        ("b.csv", "b.csv is damaged"),
        ("c.pkl", "is a pickle, which can run code"),
    ):
        with pytest.raises(ValueError, match=message):
            Stage(open_archive(str(tmp_path / name), ALL))


def test_columns_are_taken_by_their_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("objective,solution_1,solution_0,behavior_0,solution_10,solution_2\n7,1,0,5,3,2\n")
    read = read_csv(tmp_path / "a.csv")
    assert read["solution"].tolist() == [[0, 1, 2, 3]] and read["objective"].tolist() == [7]
    assert read["measures"].tolist() == [[5]]


def test_flags(capsys, tmp_path):
    told = parse(
        ["--archive", "x", "--task", "ant", "--network", "8,relu,tanh", "--backend", "generalized", "--side", "9"]
    )
    assert stated(told) == Stated("ant", (("backend", "generalized"),), "8,relu,tanh", None, 9)
    for line, message in (
        (["--task", "ant"], "it needs --archive PATH"),
        (["--archive", "x", "--side", "0"], "at least"),
    ):
        with pytest.raises(SystemExit):
            parse(line)
        assert message in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("")
    assert main(["--archive", str(tmp_path / "a.csv")]) == 2
    assert "add --task" in capsys.readouterr().err
