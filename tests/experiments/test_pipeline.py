"""The pipeline through the command line, as a user runs it: once on real physics, and hurt in many ways on the toy."""

import contextlib
import fcntl
import io
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from campaign import toy_stage
from campaign.stages import WITH_TESTS

import ldpol
from ldpol import storage
from ldpol.experiments import configs, evaluate, method
from ldpol.experiments.__main__ import main

ROOT = Path(__file__).parents[2]
SMOKE = "experiments/walker2d.py:smoke"
STAGES = ("archive", "train", "evaluate", "report")
PROMISED = """reward_ratio coverage_ratio qd_ratio compression_params compression_bytes mem mem_ceiling js_divergence
    success_rate uniform_coverage_ratio held_out_mem policies policy_params generator_params seconds""".split()
RATIOS = ("reward_ratio", "coverage_ratio", "qd_ratio")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """For what runs in this process; commands have a module of their own for it."""
    monkeypatch.setattr(configs, "make_task", toy_stage.make_task)


def command(stage, workdir, *more, config=SMOKE, module="campaign.toy_stage"):
    return [sys.executable, "-m", module, stage, "--config", config, "--workdir", str(workdir), *more]


def call(*arguments, **options):
    """Run one command to its end; the compilation cache of the test session serves it too."""
    line = command(*arguments, **options)
    return subprocess.run(line, cwd=ROOT, env=WITH_TESTS, capture_output=True, text=True, timeout=1800)


def succeed(*arguments, **options):
    done = call(*arguments, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def refuse(*arguments, **options):
    """Expect one clear line on stderr and exit code 2; return it. Here, for a refusal takes less than a new Python."""
    stderr = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stderr(stderr):
        assert main(command(*arguments, **options)[3:]) == 2, stderr.getvalue()[-3000:]
    text = stderr.getvalue()
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.strip()][-1]


def kill_when(ready, *arguments):
    """Start a command, send SIGKILL as soon as `ready()` holds, and check that it was not over before."""
    pipes = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(*arguments), cwd=ROOT, env=WITH_TESTS, **pipes) as process:
        try:
            while process.poll() is None and not ready():
                time.sleep(0.002)
        finally:
            process.kill()
        _, stderr = process.communicate()
    assert process.returncode == -signal.SIGKILL, stderr[-3000:]


def about(path):
    """What a saved file says of itself, or None while it is not there."""
    try:
        return storage.unpack(path.read_bytes())[2]
    except FileNotFoundError:
        return None


def same_arrays(one, other, kind):
    ours, theirs = (storage.load(path, kind=kind)[0] for path in (one, other))

    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for place, leaf in jax.tree.leaves_with_path(ours):
        np.testing.assert_array_equal(leaf, _at(theirs, place), err_msg=jax.tree_util.keystr(place))


def _at(tree, place):
    for step in place:
        tree = tree[step.key]
    return tree


def without_time(metrics):
    return {k: v for k, v in metrics.items() if k not in ("seconds", "suite_seconds", "commit")}


def copied(run, folder, *parts):
    for part in parts:
        copy = shutil.copytree if (run / part).is_dir() else shutil.copy
        copy(run / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One uninterrupted run of all four stages with every suite, on the toy."""
    return made_once(tmp_path_factory, "pipeline")


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """The same on real physics, with the first suite alone."""
    suites = "--config.eval.suites=reconstruction"
    return made_once(tmp_path_factory, "walk", suites, module="ldpol.experiments")


def made_once(tmp_path_factory, name, *more, **how):
    """Let the worker that needs a run first make it, and give every worker a copy of its own."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    whole = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stage in STAGES if not (whole / "report.html").exists() else ():
            succeed(stage, whole, *more, **how)
    return Path(shutil.copytree(whole, tmp_path_factory.mktemp(name) / "run"))


def test_real_physics(walk):
    metrics = storage.read_json(walk / "eval" / "metrics.json")
    assert set(PROMISED) <= set(metrics) and list(metrics["suite_seconds"]) == ["reconstruction"]
    assert all(0 < metrics[name] < 10 for name in RATIOS)
    assert "data:image/" in (walk / "report.html").read_text()
    generator = ldpol.load(walk / "model")
    policy = generator.sample(jax.random.key(0), jnp.array([0.3, 0.8]))
    action = generator.apply(policy, jnp.zeros(generator.shape.observation_size))
    assert action.shape == (6,) and jnp.isfinite(action).all()


@pytest.mark.slow
@pytest.mark.parametrize("search", ["ppga", "hybrid"])
def test_every_search_makes_archives_and_resumes_bit_exactly(search, tmp_path):
    config = f"experiments/walker2d.py:{search}_smoke"
    succeed("archive", tmp_path / "whole", config=config, module="ldpol.experiments")
    succeed("archive", tmp_path / "parts", "--config.archive.iterations=3", config=config, module="ldpol.experiments")
    resumed = succeed("archive", tmp_path / "parts", config=config, module="ldpol.experiments")
    assert "resuming after iteration 3" in resumed
    same_arrays(tmp_path / "parts" / "archive" / "elites", tmp_path / "whole" / "archive" / "elites", "archive")
    same_arrays(tmp_path / "parts" / "archive" / "checkpoint", tmp_path / "whole" / "archive" / "checkpoint", "search")


def test_metrics_hold_what_was_promised(run):
    metrics = storage.read_json(run / "eval" / "metrics.json")
    assert set(PROMISED) <= set(metrics)
    assert set(RATIOS) <= set(metrics["ceiling"])
    for name in (*RATIOS, "mem", "mem_ceiling", "compression_params", "compression_bytes", "uniform_coverage_ratio"):
        assert math.isfinite(metrics[name]), name
    for name in ("js_divergence", "success_rate"):
        assert 0 <= metrics[name] <= 1
    assert metrics["policies"] == len(storage.load(run / "archive" / "elites", kind="archive")[0]["fitness"])
    generator = ldpol.load(run / "model")
    assert generator.precision == "int8"
    numbers = sum(np.asarray(leaf).size for leaf in jax.tree.leaves(generator))
    assert metrics["generator_bytes"] == (run / "model").stat().st_size
    assert metrics["generator_params"] == numbers
    assert metrics["compression_params"] == pytest.approx(metrics["policies"] * metrics["policy_params"] / numbers)
    assert {"config", "seed", "commit", "versions", "machine"} <= set(metrics)


def test_metrics_of_the_suites(run):
    metrics = storage.read_json(run / "eval" / "metrics.json")
    assert list(metrics["suite_seconds"]) == [
        *("reconstruction", "guidance", "composition", "language", "sequencing", "held_out_region", "steadiness"),
        "damage",  # of each of the toy's two actuators
    ]
    language = metrics["language"]
    assert {"train", "held_out", "train_satisfaction", "held_out_satisfaction", "ceiling", "chance"} <= set(language)
    assert 0 <= language["train_satisfaction"] <= 1 and len(metrics["quality"]) == 2
    assert [row["scale"] for row in metrics["guidance"]] == [1.0, 2.0]
    for row in metrics["guidance"]:
        assert all(math.isfinite(row[name]) for name in ("mem", "reward_ratio", "coverage_ratio", "diversity"))
    assert metrics["composition"]["and"]["mem"] >= 0 and metrics["free"]["error"] >= 0
    for way in ("generated", "lookahead", "nearest_elite"):
        assert {"survival", "mem", "fitness"} <= set(metrics["sequencing"][way])
    if metrics["held_out_region"]:  # a smoke archive may have no elite in the box
        assert set(metrics["held_out_region"]["rows"]) == {"generated", "blind", "nearest", "ceiling"}
    assert [row["episodes"] for row in metrics["steadiness"]["rows"]] == [2, 4]
    damage = metrics["damage"]
    assert len(damage["damages"]) == 2 and damage["ways"]["archive"]["policies"] == metrics["policies"]
    assert all(len(way["curve"]) == 4 and way["bytes"] > 0 for way in damage["ways"].values())


def test_training_used_what_was_not_held_out(run):
    train = storage.read_json(run / "train" / "metrics.json")
    total = storage.read_json(run / "eval" / "metrics.json")["policies"]
    assert train["policies"] + train["held_out"] == total and train["held_out"] > 0
    data, _ = storage.load(run / "train" / "data", kind="result")
    assert len(data["states"]) == len(data["actions"]) == train["policies"]


def test_the_report_is_one_page(run):
    page = (run / "report.html").read_text()
    assert "<html" in page and "data:image/" in page
    assert 'src="http' not in page and "<link" not in page


def test_curves_are_kept(run):
    phases = {row["phase"] for row in storage.read_json(run / "train" / "history.json")}
    assert phases == {"autoencoder", "reader", "verify", "diffusion"}
    assert [row["iteration"] for row in storage.read_json(run / "archive" / "history.json")] == [1, 2, 3, 4]
    for folder in ("archive", "train"):
        assert list((run / folder / "tensorboard").glob("events*"))


def test_a_finished_stage_does_nothing_again(run):
    for stage, digest in (
        ("archive", lambda: storage.fingerprint(run / "archive" / "elites")),
        ("train", lambda: storage.digest(run / "model")),
    ):
        before = digest()
        assert "already done" in succeed(stage, run)
        assert digest() == before
    before = storage.read_json(run / "eval" / "metrics.json")
    passes = (
        6 + 1 + 2 + 3 + 3 + 4 * bool(before["held_out_region"]) + 3 + 1
    )  # of the suites in order; the sixth is blind
    assert succeed("evaluate", run).count("already done") == passes
    assert without_time(storage.read_json(run / "eval" / "metrics.json")) == without_time(before)


def test_what_another_version_measured_does_not_count(run, tmp_path):
    folder = copied(run / "eval", tmp_path, "suites") / "suites"
    found = storage.read_json(folder / "composition.json")
    identity = {name: found["about"][name] for name in ("archive", "model", "method")}
    assert identity["method"] == method.digest()
    with contextlib.chdir(ROOT):
        config = configs.load_config(SMOKE, [])
    assert "composition" in evaluate.gather(config, identity, folder)
    storage.write_json(folder / "composition.json", found | {"about": found["about"] | {"method": "another"}})
    assert "composition" not in evaluate.gather(config, identity, folder)


def test_kill_archive(run, tmp_path):
    checkpoint = tmp_path / "archive" / "checkpoint"
    kill_when(lambda: about(checkpoint) is not None, "archive", tmp_path)
    assert not (tmp_path / "archive" / "metrics.json").exists()
    assert "resuming after iteration" in succeed("archive", tmp_path)
    same_arrays(tmp_path / "archive" / "elites", run / "archive" / "elites", "archive")
    same_arrays(tmp_path / "archive" / "again", run / "archive" / "again", "result")


def test_kill_train(run, tmp_path):
    """Killed between autoencoder steps, again when the decoded policies are about to play, and among denoiser steps."""
    copied(run, tmp_path, "archive")

    def steps(phase):
        said = about(tmp_path / "train" / phase)
        return said["history"][-1]["step"] if said else 0

    kill_when(lambda: steps("autoencoder") > 0, "train", tmp_path)
    assert steps("autoencoder") < 30
    kill_when(lambda: steps("autoencoder") >= 30, "train", tmp_path)
    kill_when(lambda: steps("diffusion") > 0, "train", tmp_path)
    assert not (tmp_path / "train" / "metrics.json").exists()
    succeed("train", tmp_path)
    for part in ("data", "dagger-0", "verify-0"):
        same_arrays(tmp_path / "train" / part, run / "train" / part, "result")
    histories = [storage.read_json(folder / "train" / "history.json") for folder in (tmp_path, run)]
    resumed, whole = ([(row["phase"], row["step"]) for row in history] for history in histories)
    assert resumed == whole
    assert storage.digest(tmp_path / "model") == storage.digest(run / "model")


def test_kill_evaluate(run, tmp_path):
    copied(run, tmp_path, "archive", "train", "model")
    kill_when(lambda: about(tmp_path / "eval" / "passes" / "ceiling") is not None, "evaluate", tmp_path)
    assert not (tmp_path / "eval" / "metrics.json").exists()
    assert "evaluate: ceiling: already done" in succeed("evaluate", tmp_path)
    ours, theirs = (storage.read_json(w / "eval" / "metrics.json") for w in (tmp_path, run))
    assert without_time(ours) == without_time(theirs)


def test_sample(walk, tmp_path):
    line = [sys.executable, "-m", "ldpol.sample", "--model", str(walk / "model"), "--out", str(tmp_path / "policy")]
    done = subprocess.run([*line, "--measures", "0.2,nan"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "right foot 0.200, left foot free" in done.stdout and "fitness" in done.stdout
    assert "http" not in (tmp_path / "policy.html").read_text()

    from ldpol.sample import load_policy

    params, shape, about = load_policy(tmp_path / "policy")
    assert shape.apply(params, np.zeros(17)).shape == (6,) and about["episodes"] == 10
    done = subprocess.run([*line, "--measures", "2,nan"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and "allowed 0 to 1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["experiments", "sample"])
def test_help(module):
    line = [sys.executable, "-m", f"ldpol.{module}", "--help"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    words = (*STAGES, "smoke", "--config.seed=1") if module == "experiments" else ("--measures", "load_policy")
    for word in (*words, "example:"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: STAGE, --config"),
        (["tain", "--config", SMOKE, "--workdir", "x"], "invalid choice: 'tain'"),
        (["train", "--config", SMOKE], "required: --workdir"),
        (["train", "--config", SMOKE, "--workdir", "x", "--sed=1"], "unrecognized arguments: --sed=1"),
    ],
)
def test_wrong_command_lines(arguments, said, tmp_path):
    line = [sys.executable, "-m", "ldpol.experiments", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2 and said in done.stderr


def test_show_prints_the_config(tmp_path):
    done = call("archive", tmp_path / "none", "--show", "--config.seed=11")
    assert done.returncode == 0 and "seed: 11" in done.stdout
    assert not (tmp_path / "none").exists()


def test_unknown_key_and_variant(tmp_path):
    done = call("archive", tmp_path, "--config.archive.iteration=3")  # a process of its own, as a user sees it
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "did you mean 'archive.iterations'?" in done.stderr.splitlines()[-1]
    assert "did you mean 'smoke'" in refuse("archive", tmp_path, config="experiments/walker2d.py:smokey")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["train", "evaluate", "report"])
def test_a_stage_whose_files_are_missing(stage, tmp_path):
    line = refuse(stage, tmp_path)
    assert line.startswith(f"{stage}: ") and str(tmp_path) in line


def test_evaluate_before_train(run, tmp_path):
    assert "generator" in refuse("evaluate", copied(run, tmp_path, "archive"))


def test_other_settings_in_the_same_folder(run):
    assert "archive.map_elites.batch: 64 -> 32" in refuse("archive", run, "--config.archive.map_elites.batch=32")
    assert "archive.cells: 10 -> 11" in refuse("archive", run, "--config.archive.cells=11")
    assert "seed: 0 -> 1" in refuse("train", run, "--config.seed=1")
    assert "eval.episodes: 2 -> 3" in refuse("evaluate", run, "--config.eval.episodes=3")


def test_an_unknown_suite(run):
    line = refuse("evaluate", run, "--config.eval.suites=reconstruction,guidence")
    assert "unknown suite 'guidence'; the suites are reconstruction, guidance" in line


@pytest.mark.parametrize("override", ["train.autoencoder.optimiser.steps=0", "archive.checkpoint_every=0", "seed=-1"])
def test_a_refused_run_leaves_nothing_behind(override, tmp_path):
    for stage in ("archive", "train", "evaluate"):
        assert override.partition("=")[0] in refuse(stage, tmp_path / "run", f"--config.{override}")
    assert not (tmp_path / "run").exists()


def test_nothing_to_evaluate(run):
    assert "eval.unseen" in refuse("evaluate", run, "--config.eval.unseen=0")


def test_archive_of_another_task_or_policy(run, tmp_path):
    copied(run, tmp_path, "archive")
    line = refuse("train", tmp_path, config="experiments/halfcheetah.py:smoke")
    assert "'walker2d'" in line and "'halfcheetah'" in line
    line = refuse("train", tmp_path, "--config.policy.hidden=(8,)")
    assert "MLP(3 -> 16 -> 16 -> 2" in line and "MLP(3 -> 8 -> 2" in line


def test_archive_changed_since_training(run, tmp_path):
    copied(run, tmp_path, "archive", "train", "model")
    arrays, said = storage.load(tmp_path / "archive" / "elites", kind="archive")
    arrays["fitness"][0] += 1.0
    storage.save(tmp_path / "archive" / "elites", arrays, kind="archive", about=said)
    assert "another archive" in refuse("train", tmp_path)
    assert "another archive" in refuse("evaluate", tmp_path)


@pytest.mark.parametrize(
    ("stage", "part"),
    [("archive", "archive/checkpoint"), ("train", "train/data"), ("evaluate", "model"), ("evaluate", "archive/again")],
)
def test_truncated_checkpoint(run, tmp_path, stage, part):
    copied(run, tmp_path, "archive", "train", "model")
    victim = tmp_path / part
    os.truncate(victim, victim.stat().st_size // 2)
    line = refuse(stage, tmp_path)
    assert "damaged" in line and part in line


def test_nan_in_the_archive(run, tmp_path):
    copied(run, tmp_path, "archive")
    arrays, said = storage.load(tmp_path / "archive" / "elites", kind="archive")
    arrays["fitness"][3] = np.nan
    storage.save(tmp_path / "archive" / "elites", arrays, kind="archive", about=said)
    assert "NaN or infinite fitness in 1 of" in refuse("train", tmp_path)
