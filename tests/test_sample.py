"""One policy and its film from the command line; the toy task stands in for physics."""

import base64
import dataclasses
import json
import os
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import make_generator, with_draws
from toy import make_toy, push

from ldpol import sample, storage
from ldpol.archive import Grid
from ldpol.errors import UserError
from ldpol.film import film
from ldpol.networks import MLP
from ldpol.report.animation import render_animation
from ldpol.report.filmstrip import encode_film
from ldpol.rollout import rollout
from ldpol.tasks import Skeleton

SHAPE = MLP(3, 2, (6,))


def drawn_toy(**settings):
    """The toy as a ball above and a rod beside its point."""

    def ends(state):
        x, y = state.physics["x"], state.physics["y"]
        point = jnp.stack([x, jnp.zeros_like(x), y])
        return jnp.stack([jnp.stack([point, point]), jnp.stack([point, point + 1.0])])

    return dataclasses.replace(make_toy(**settings), skeleton=Skeleton((0.1, 0.2), ends))


@pytest.fixture
def model(tmp_path):
    make_generator(SHAPE, Grid((4, 4), (0.0, 0.0), (1.0, 1.0))).save(tmp_path / "model")
    return tmp_path / "model"


def options(model, *more, measures="0.2,0.7"):
    return sample.parse(["--model", str(model), "--measures", measures, "--out", str(model.parent / "policy"), *more])


def test_a_model_of_somebodys_own_task(model):
    with pytest.raises(
        ValueError, match="is of task 'toy', which ldpol cannot build: act on your own environment with"
    ):
        sample.run(options(model))


@pytest.mark.parametrize("action", [(0.25, 0.5), (1.0, 0.1)])
def test_a_film_is_a_rollout(action):
    """The second action dies in step 4; what was last seen stays, and nothing of the NaN after it."""
    task, key, action = drawn_toy(noise=0.1), jax.random.key(0), jnp.array(action)
    score, shots = film(task, push, action, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), score, rollout(task, push, action, key))
    lived = int(score.length)
    assert shots.alive.sum() == lived and shots.ends.shape == (20, 2, 2, 3)
    state = task.reset(key)
    for t in range(lived):
        state = task.step(state, action)
        np.testing.assert_allclose(shots.ends[t], task.skeleton.ends(state), atol=1e-6)
    assert np.isfinite(shots.ends).all()
    assert (np.asarray(shots.ends[lived:]) == np.asarray(shots.ends[lived - 1])).all()


def test_a_task_without_a_body():
    with pytest.raises(ValueError, match="cannot be filmed"):
        film(make_toy(), push, jnp.zeros(2), jax.random.key(0))


def content(page):
    return json.loads(re.search(r"const data = (\{.*?\});\n", page).group(1).replace("<\\/", "</"))


def decoded(film):
    """Rows of a film as numbers, by the words of `encode_film`'s docstring."""
    rows = 6 * len(film["radii"]) + 1 + film["measures"]
    changes = np.frombuffer(zlib.decompress(base64.b64decode(film["data"])), "<i2").reshape(rows, -1)
    units = film["units"]
    worth = [units["place"]] * (rows - 1 - film["measures"]) + [units["reward"]] + [units["measure"]] * film["measures"]
    return np.cumsum(changes, 1) * np.asarray(worth)[:, None]


def test_a_film_round_trip():
    ends = np.random.default_rng(0).normal(size=(9, 2, 2, 3))
    measures = np.tile([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]], (3, 1))
    film = encode_film(ends, measures, np.arange(9.0), radii=(0.1, 0.2), sides=(-1, 1), dt=0.008)
    rows = decoded(film)
    shown = [0, 2, 4, 6, 8]  # 60 a second
    origin = ends[0].reshape(-1, 3).mean(0) * [1, 1, 0]
    np.testing.assert_allclose(rows[:12].T.reshape(5, 2, 2, 3), ends[shown] - origin, atol=6e-4)
    np.testing.assert_allclose(rows[12], np.cumsum(np.arange(9.0))[shown], atol=0.05)
    np.testing.assert_allclose(rows[13:].T, np.cumsum(measures, 0)[shown], atol=0.005)
    assert (film["steps"], film["stride"], film["sides"]) == (9, 2, [-1, 1])


def test_a_film_of_far_and_large():
    """A body thrown 200 m in one step, rewards in millions: coarser levels, and no error that adds up."""
    ends = np.zeros((50, 1, 2, 3))
    ends[10:, ..., 0] = 200.0
    ends[:, ..., 2] = np.linspace(0.0, 1.0, 50)[:, None, None]
    rewards = np.random.default_rng(1).normal(size=50) * 1e6
    film = encode_film(ends, np.zeros((50, 1)), rewards, radii=(0.1,), dt=0.1)
    rows = decoded(film)
    assert film["stride"] == 1 and film["sides"] == [-1]
    np.testing.assert_allclose(rows[:6].T.reshape(50, 1, 2, 3), ends, atol=200 / 32766)
    np.testing.assert_allclose(rows[6], np.cumsum(rewards), atol=np.abs(rewards).max() / 32766)


def test_the_animation_holds_what_happened():
    film = encode_film(np.zeros((3, 1, 2, 3)), np.zeros((3, 2)), np.arange(3.0), radii=(0.1,), dt=0.01)
    page = render_animation(
        "a <b>",
        film,
        names=("left", "</script>"),
        low=(0.0, 0.0),
        high=(1.0, 2.0),
        asked=(0.25, np.nan),
        facts={"fitness": "3 & 4"},
    )
    data = content(page)
    assert data["film"] == film
    assert data["asked"] == [0.25, None] and data["names"][1] == "</script>"
    assert page.count("</script>") == 1 and "a &lt;b&gt;" in page and "3 &amp; 4" in page
    assert "http" not in page and "src=" not in page and "import" not in page
    assert "const Body" in page and "so far" in page


def test_sampling(model, monkeypatch):
    """The policy is the generator's, the numbers are what playing it gives, and everything can be read back."""
    task = drawn_toy(noise=0.2)
    monkeypatch.setattr(sample, "make_task", lambda model: task)
    said = sample.run(options(model, "--seed", "3", "--guidance", "1.5", "--steps", "2", "--episodes", "4"))
    params, shape, about = sample.load_policy(model.parent / "policy")
    sample_key, play_key = jax.random.split(jax.random.key(3))
    generator = make_generator(SHAPE, Grid((4, 4), (0.0, 0.0), (1.0, 1.0)))
    expected = jax.jit(lambda key: generator.sample(key, jnp.array([0.2, 0.7]), guidance=1.5, steps=2))(sample_key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, expected)
    scores = [rollout(task, shape.apply, params, key) for key in jax.random.split(play_key, 4)]
    assert about["fitness"] == pytest.approx(np.mean([score.fitness for score in scores]), abs=1e-3)
    np.testing.assert_allclose(about["reached"], np.mean([score.measures for score in scores], 0), atol=1e-5)
    assert about["asked"] == pytest.approx([0.2, 0.7]) and (about["seed"], about["guidance"]) == (3, 1.5)
    assert "left 0.200, right 0.700" in said and f"fitness  {about['fitness']:.1f}" in said
    page = (model.parent / "policy.html").read_text()
    assert "http" not in page and content(page)["asked"] == [0.2, 0.7]


def test_a_verified_draw_answers(model, monkeypatch):
    """It says how far away the nearest is, and takes no settings of diffusion without being told to diffuse."""
    monkeypatch.setattr(sample, "make_task", lambda model: drawn_toy())
    generator = make_generator(SHAPE, Grid((4, 4), (0.0, 0.0), (1.0, 1.0)))
    verified, draws = with_draws(generator, [[0.2, 0.4], [0.9, 0.9]])
    verified.save(model)
    assert "source   a verified draw; the nearest of 2 lies 0.300 away" in sample.run(options(model))
    params, _, about = sample.load_policy(model.parent / "policy")
    assert about["verified"] is True and "guidance" not in about
    expected = verified.decode(draws.latents[0], draws.measures[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, expected)
    with pytest.raises(UserError, match="answers from its 2 verified draws; add --diffusion"):
        sample.run(options(model, "--guidance", "2"))
    assert "source   diffusion" in sample.run(options(model, "--diffusion", "--guidance", "2"))
    assert sample.load_policy(model.parent / "policy")[2]["guidance"] == 2


def test_a_free_measure_and_a_second_time(model, monkeypatch):
    monkeypatch.setattr(sample, "make_task", lambda model: drawn_toy())
    assert "left free, right 0.700" in sample.run(options(model, measures="nan,0.7"))
    sample.run(options(model, "--seed", "1"))  # replaces the policy
    about = sample.load_policy(model.parent / "policy")[2]
    assert about["seed"] == 1 and about["asked"][0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("measures", "more", "said"),
    [
        ("0.2", (), r"takes 2 measures \(left, right\), found 1"),
        ("0.2,0.7,0.1", (), "found 3"),
        ("0.2,much", (), "found 'much' in '0.2,much'"),
        ("0.2,1.7", (), r"right = 1.7 \(allowed 0 to 1\)"),
        ("0.2,inf", (), "right = inf"),
        ("0.2,0.7", ("--quality", "1.5"), "quality"),
        ("0.2,0.7", ("--episodes", "0"), "--episodes must be at least 1, found 0"),
        ("0.2,0.7", ("--steps", "0"), "--steps must be at least 1, found 0"),
        ("0.2,0.7", ("--guidance", "nan"), "--guidance must be a number of at most 1000, found nan"),
        ("0.2,0.7", ("--guidance", "inf"), "--guidance must be a number of at most 1000, found inf"),
        ("0.2,0.7", ("--guidance", "1e30"), "--guidance must be a number of at most 1000, found 1e"),
        ("0.2,0.7", ("--seed", "-1"), "--seed must be from 0 to 4294967295"),
        ("0.2,0.7", ("--seed", str(2**70)), "--seed must be from 0 to 4294967295"),
    ],
)
def test_what_cannot_be_asked_for(model, measures, more, said, capsys):
    """One line, before any work; neither a policy nor a lock is left, nor the folder where they would be."""
    line = ["--model", str(model), "--measures", measures, "--out", str(model.parent / "new" / "policy")]
    assert sample.main([*line, *more]) == 2
    assert re.fullmatch(rf"\nsample: .*{said}.*\n", capsys.readouterr().err)
    assert os.listdir(model.parent) == ["model"]


def test_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a saved generator at .*nowhere"):
        sample.run(options(tmp_path / "nowhere"))


def entries(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def foreign(folder):
    """What may lie where policy or page should go, with what is said of it."""
    storage.save(folder / "archive", {"x": np.zeros(2)}, kind="archive")
    (folder / "text").write_text("mine")
    (folder / "folder").mkdir()
    (folder / "page.html").write_text("<!doctype html> mine")
    (folder / "site.html").mkdir()
    os.symlink("/dev/null", folder / "null")
    os.mkfifo(folder / "pipe")
    return {
        "archive": "exists and is not a saved policy .*holds a saved archive",
        "text": "exists and is not a saved policy .*not a file of this version",
        "folder": "it is a folder; choose another name",
        "page": "page.html exists and is not a film of this command",
        "site": "site.html: it is a folder; choose another name",
        "null": "it is not an ordinary file",
        "pipe": "it is not an ordinary file",
        "text/deep/policy": "text/deep: it is a file, expected a folder .*choose another place",
    }


def test_nothing_of_others_is_replaced_and_that_is_said_first(model, capsys):
    """The model is asked for only after the place: nothing was computed in vain."""
    places = foreign(model.parent)
    before = entries(model.parent)
    for name, said in places.items():
        place = ["--model", "nowhere", "--measures", "0,0", "--out", str(model.parent / name)]
        assert sample.main(place) == 2
        assert re.fullmatch(rf"\nsample: .*{said}.*\n", capsys.readouterr().err)
    assert entries(model.parent) == before


def test_no_policy_of_nan(model, monkeypatch):
    """The strongest guidance that is taken can be too strong for one model."""
    monkeypatch.setattr(sample, "make_task", lambda model: drawn_toy())
    generator = make_generator(SHAPE, Grid((4, 4), (0.0, 0.0), (1.0, 1.0)))
    scaling = jax.tree.map(lambda leaf: leaf * 1e30, generator.scaling)
    dataclasses.replace(generator, scaling=scaling).save(model)
    with pytest.raises(ValueError, match="the sampled policy is not finite: guidance 1e3|1000 is too strong"):
        sample.run(options(model, "--guidance", "1000"))
    assert not (model.parent / "policy").exists()


def test_one_at_a_time(model, capsys):
    with storage.lock(model.parent / ".policy.lock", "it"):
        assert sample.main(["--model", str(model), "--measures", "0,0", "--out", str(model.parent / "policy")]) == 2
    assert "policy is in use by another command" in capsys.readouterr().err
    assert not (model.parent / "policy").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda layer: layer | {"kernel": layer["kernel"] * np.nan}, "NaN or infinite numbers in"),
        (lambda layer: layer | {"kernel": layer["kernel"].astype(np.float16)}, "found float16"),
        (lambda layer: {"kernel": layer["kernel"]}, r"Dense_1/bias is missing, expected \(2,\)"),
        (lambda layer: layer | {"kernel": layer["kernel"][:-1]}, r"Dense_1/kernel is \(5, 2\), expected \(6, 2\)"),
        (lambda layer: layer | {"bias": layer["bias"][:-1]}, r"Dense_1/bias is \(1,\), expected \(2,\)"),
    ],
)
def test_an_unsound_policy_is_refused(tmp_path, change, said):
    params = jax.tree.map(np.asarray, SHAPE.init(jax.random.key(0)))
    about = {"shape": SHAPE.to_json()}
    storage.save(tmp_path / "policy", params, kind="policy", about=about)
    assert sample.load_policy(tmp_path / "policy")[1] == SHAPE
    layers = params["params"] | {"Dense_1": change(params["params"]["Dense_1"])}
    storage.save(tmp_path / "policy", {"params": layers}, kind="policy", about=about)
    with pytest.raises(ValueError, match=f"{tmp_path}/policy: .*{said}"):
        sample.load_policy(tmp_path / "policy")


def test_the_task_of_a_model():
    generator = dataclasses.replace(
        make_generator(), task="hopper", settings=(("episode_length", 7), ("name", "hopper"), ("reset_noise", 0.5))
    )
    task = sample.make_task(generator)
    assert (task.name, task.episode_length, task.reset_noise) == ("hopper", 7, 0.5)
