"""The models that come with the package: found by name, sampled, rolled out, and told where they come from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldpol
from ldpol import models, precision, rollout, storage
from ldpol.explore.source import map_of, open_model
from ldpol.explore.stage import ELITES
from ldpol.sample import make_task


def test_models_are_listed_and_found(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "HERE", tmp_path)
    assert ldpol.list_models() == ()
    for name in ("walker", "ant"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_bytes(b"")
    (tmp_path / "__pycache__").mkdir()
    assert ldpol.list_models() == ("ant", "walker")
    assert models.resolve("ant") == models.folder_of("ant") / "model" == tmp_path / "ant" / "model"
    with pytest.raises(FileNotFoundError, match="the models are ant, walker"):
        models.folder_of("wlaker")
    with pytest.raises(FileNotFoundError, match="wlaker"):
        ldpol.load("wlaker")
    # A file of that name in the current folder comes first.
    monkeypatch.chdir(tmp_path)
    assert models.resolve("ant") == models.Path("ant")


@pytest.mark.parametrize("name", ldpol.list_models())
def test_a_model_of_the_package(name):
    """It makes a policy that acts, and what is stored with it belongs to it."""
    model = ldpol.load(name)
    task = make_task(model)
    assert model.task == task.name and model.measure_names == task.measure_names
    policy = jax.jit(model.sample)(jax.random.key(0), jnp.asarray(model.grid.unscaled(np.full(task.measures, 0.5))))
    one = jax.tree.map(lambda leaf: leaf[None], policy)
    short = jax.jit(lambda one, key: rollout.rollout_batch(task, model.apply, one, key[None], episodes=2))
    score = jax.tree.map(np.asarray, short(one, jax.random.key(1)))
    assert np.isfinite(score.fitness).all() and (score.length >= 1).all()
    assert ((score.measures >= 0) & (score.measures <= 1)).all()

    source = open_model(name)
    known = map_of(source.arrays)
    count = len(known["elites"]["reference"]["fitness"])
    assert known["names"] == list(model.measure_names) and tuple(known["cells"]) == model.grid.shape
    elites, _ = storage.load(source.elites, kind=ELITES)
    rows = np.asarray(elites["rows"])
    assert len(np.unique(rows)) == len(rows) and rows.max() < count
    restored = jax.vmap(precision.expand)(elites["policies"])
    assert jax.tree.map(lambda leaf: leaf.shape[1:], restored) == jax.tree.map(jnp.shape, policy)
    assert 6 <= len(source.films) <= 12 and source.facts["task"] == model.task
    about = json.loads((models.folder_of(name) / "about.json").read_text())
    assert about["task"] == model.task and about["commit"] and about["metrics"]["reward_ratio"] > 0.8
    size = sum(path.stat().st_size for path in models.folder_of(name).iterdir())
    assert size < 2_500_000


def test_the_wheel_holds_the_models_and_the_page(tmp_path):
    """What `hatchling` packs is what the page and `load` read."""
    builder = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling").WheelBuilder
    root = models.HERE.parents[2]
    packed = {file.distribution_path for file in builder(str(root)).recurse_included_files()}
    needed = {
        f"ldpol/models/{name}/{part}" for name in ldpol.list_models() for part in ("model", "page.json", "elites")
    }
    needed |= {"ldpol/explore/static/index.html", "ldpol/explore/static/app.js", "ldpol/report/body.js"}
    assert needed <= packed
