"""Settings that make no sense are refused by the command line before any work, in one line that names the key."""

import os

import pytest

from ldpol import storage
from ldpol.experiments.__main__ import main

SMOKE = "experiments/walker2d.py:smoke"
ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


@pytest.mark.parametrize(
    "override",
    [
        *("seed=-1", "seed=99999999999999999999", "policy.hidden=0", "policy.hidden=-3", 'policy.hidden=("a",)'),
        *("task.name=foo", "task.backend=foo", "task.episode_length=0", "task.episode_length=-5"),
        *("task.episode_length=1.5", "task.reset_noise=-1", "task.reset_noise=1e999", "task.reset_noise=nan"),
        *("rollout.device.block=0", "rollout.device.lanes=0", "rollout.chunk=0"),
        *("archive.search=foo", "archive.cells=0", "archive.iterations=0", "archive.iterations=-1"),
        *("archive.checkpoint_every=0", "archive.search_noise=1e999", "archive.map_elites.batch=0"),
        *("train.steps_per_call=0", "train.autoencoder.optimiser.steps=0", "train.autoencoder.optimiser.steps=-1"),
        *("train.denoiser.optimiser.steps=0", "train.denoiser.loss.schedule=foo", "train.collect.states=0"),
        *("train.collect.episodes=0", "train.precision=int4", "train.sampler.steps=0", "train.sampler.guidance=1e30"),
        *("train.sampler.text_guidance=-1e30", "train.held_out.fraction=2.0", "train.held_out.fraction=-0.1"),
        *("eval.episodes=0", "eval.suites=guidence"),
    ],
)
@pytest.mark.parametrize("stage", ["archive", "train", "evaluate"])
def test_wrong_settings_are_refused_and_leave_nothing(stage, override, tmp_path, capsys, monkeypatch):
    """By every stage, also those that do not need the key: the next one would."""
    monkeypatch.chdir(ROOT)
    assert main([stage, "--config", SMOKE, "--workdir", str(tmp_path / "run"), f"--config.{override}"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    key = override.partition("=")[0]
    assert line.startswith(f"{stage}: ") and {"task.name": "unknown task"}.get(key, key.split(".")[-1]) in line
    assert not list(tmp_path.iterdir())


def test_a_refused_command_changes_nothing_in_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    storage.write_json(tmp_path / "archive" / "metrics.json", {"n": 1})
    (tmp_path / "empty").mkdir()
    for stage, folder in (("archive", tmp_path), ("train", tmp_path / "empty"), ("import", tmp_path)):
        line = ["--config", SMOKE, "--workdir", str(folder), "--config.train.steps_per_call=0"]
        assert main([stage, *line]) == 2
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        *("archive", "archive/metrics.json", "empty")
    }
    assert storage.read_json(tmp_path / "archive" / "metrics.json") == {"n": 1}


@pytest.mark.parametrize("stage", ["archive", "train", "evaluate", "report"])
def test_a_workdir_in_use_is_refused(stage, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with storage.lock(tmp_path / ".lock", "it"):
        assert main([stage, "--config", SMOKE, "--workdir", str(tmp_path)]) == 2
    holder = f"in use by another command (process {os.getpid()}); wait for it to end or stop it"
    assert capsys.readouterr().err == f"\n{stage}: {tmp_path} is {holder}\n"


@pytest.mark.parametrize("stage", ["archive", "train", "evaluate", "report"])
def test_a_workdir_that_is_a_file(stage, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        assert main([stage, "--config", SMOKE, "--workdir", str(place)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 2 and f"could not work in {place}: it is a file, expected a folder" in said
    assert (tmp_path / "file").read_text() == "mine"
