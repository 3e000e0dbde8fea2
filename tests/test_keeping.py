"""Work kept in a folder: nothing before there is something, never mixed, and taken up where it stopped."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archive.test_replay import TASK, make_elites

import ldpol
from ldpol import archive as archives
from ldpol import storage
from ldpol.distillation.presets import quick
from ldpol.keeping import Keeper, differences, replace, restrict
from ldpol.settings import revise

SETTINGS = revise(
    quick(),
    autoencoder={"optimiser": {"steps": 20}},
    verify={"rounds": 0},
    denoiser={"optimiser": {"steps": 20}},
    language={"captions": 0},
)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def elites():
    return make_elites()


@pytest.fixture
def keeper(tmp_path):
    return Keeper(tmp_path / "train")


def distil(folder, archive, task=TASK, config=SETTINGS, key=KEY, stop=None):
    """Distil into a folder; `stop` is the phase and the step at which somebody presses Ctrl-C."""
    keeper = Keeper(folder, steps_per_call=5, checkpoint_seconds=0.0)

    def log(phase, step, metrics):
        keeper.log(phase, step, metrics)
        if (phase, step) == stop:
            raise KeyboardInterrupt

    try:
        return ldpol.distill(archive, task, config, key=key, hooks=dataclasses.replace(keeper.hooks, log=log))
    finally:
        keeper.close()


def test_an_interrupted_distillation_goes_on(elites, tmp_path, capsys):
    """Stopped between two checkpoints, it ends with the very generator of one that nobody stopped."""
    with pytest.raises(KeyboardInterrupt):
        distil(tmp_path / "mine", elites, stop=("diffusion", 10))
    distil(tmp_path / "mine", elites).save(tmp_path / "resumed")
    said = capsys.readouterr().err
    assert "mine: data: already done" in said and "mine: diffusion: 20/20 step" in said
    distil(tmp_path / "whole", elites).save(tmp_path / "generator")
    assert storage.digest(tmp_path / "resumed") == storage.digest(tmp_path / "generator")


def test_a_folder_of_other_work_is_refused(elites, tmp_path):
    """Before anything is computed, and whatever it is that differs; what is there stays as it was."""
    with pytest.raises(KeyboardInterrupt):
        distil(tmp_path / "mine", elites, stop=("autoencoder", 5))
    before = storage.digest(tmp_path / "mine" / "data")
    other = {
        r"key: \[0, 5\] -> \[0, 6\]": {"key": jax.random.key(6)},
        "settings.denoiser.optimiser.steps: 20 -> 30": {
            "config": revise(SETTINGS, denoiser={"optimiser": {"steps": 30}})
        },
        "task.reset_noise: 0.05 -> 0.1": {"task": dataclasses.replace(TASK, reset_noise=0.1)},
        "archive: '.*' -> '.*'": {"archive": dataclasses.replace(elites, fitness=elites.fitness + 1.0)},
    }
    for differs, changed in other.items():
        advice = "use another folder, or delete that one to start again"
        with pytest.raises(ldpol.UserError, match=rf"mine was made with other settings \({differs}\); {advice}$"):
            distil(tmp_path / "mine", **{"archive": elites} | changed)
    assert storage.digest(tmp_path / "mine" / "data") == before


def test_labels_are_kept_for_their_archive_alone(elites, tmp_path, capsys):
    keeper = Keeper(tmp_path / "labels")
    player = ldpol.make_player(TASK, elites.network.apply, episodes=1, chunk=64)

    def again(archive):
        return ldpol.reevaluate(archive, TASK, key=KEY, player=player, hooks=keeper.hooks)

    first = again(elites)
    np.testing.assert_array_equal(again(elites).fitness, first.fitness)
    assert "labels: again: already done" in capsys.readouterr().err
    with pytest.raises(ldpol.UserError, match="labels was made with other settings .archive: "):
        again(first)


def test_an_archive_in_memory_and_its_file_have_one_fingerprint(elites, tmp_path):
    archives.save(elites, tmp_path / "elites")
    assert archives.depends_on(elites, TASK, KEY)["archive"] == storage.fingerprint(tmp_path / "elites")


def test_restriction():
    known = {"a": 0, "b": {"c": 0}}
    assert restrict({"a": 1, "b": {"c": [2], "d": 3}, "e": 4}, known) == {"a": 1, "b": {"c": [2]}}
    assert restrict({"b": 5}, known) == {"b": 5} and restrict(3, known) == 3


def test_differences():
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": 0}
    new = {"a": 1, "b": {"c": [1, 3], "d": "x"}, "new": 5}
    assert differences(old, new) == ["b.c: [1, 2] -> [1, 3]", "gone: 0 -> None", "new: None -> 5"]
    assert differences(old, old) == []


def test_nothing_is_written_before_there_is_something_to_keep(keeper, tmp_path):
    """A finished run may be read-only."""
    assert keeper.hooks.memo is not None
    keeper.log("decoder", 0, {"left_out": "there is nothing to learn"})
    keeper.close()
    assert os.listdir(tmp_path) == []


def test_curves_that_cannot_be_written(keeper, tmp_path, monkeypatch):
    (tmp_path / "train").write_text("mine")
    with pytest.raises(OSError, match=f"^could not write into {tmp_path}/train/tensorboard: "):
        keeper.scalars(1, {"loss": 1.0})
    (tmp_path / "train").unlink()
    keeper.scalars(1, {"loss": 1.0})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="could not write into .*: No space left .*free"):
        assert keeper._writer is not None
        patch.setattr(keeper._writer, "flush", full)
        keeper.log("decoder", 2, {"loss": 0.5})
    keeper.close()


def test_a_result_is_computed_once_for_what_it_depends_on(tmp_path):
    keeper, computed = Keeper(tmp_path / "train", check=replace), []

    def compute():
        computed.append(1)
        return {"x": jnp.arange(3.0)}

    for depends_on in ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}):
        np.testing.assert_array_equal(keeper.memo("numbers", depends_on, compute)["x"], [0.0, 1.0, 2.0])
    assert len(computed) == 2 and os.listdir(tmp_path / "train") == ["numbers"]


def test_a_result_of_another_version(tmp_path):
    hooks = Keeper(tmp_path / "train").hooks
    hooks.memo("again", {}, lambda: {"score": np.zeros(2)})
    with pytest.raises(ldpol.UserError, match="result 'again' that was kept is of another version.*delete it"):
        hooks.remember("again", {}, lambda: None, {"score": 0, "episodes": 0})


def test_a_result_that_must_not_be_replaced(keeper):
    keeper.memo("numbers", {"a": 1}, lambda: {"x": jnp.ones(2)})
    with pytest.raises(ldpol.UserError, match="train was made with other settings .a: 1 -> 2.; use another folder"):
        keeper.memo("numbers", {"a": 2}, lambda: pytest.fail("computed before the check"))
