"""The study: its plan, its counting, its figure, and the smoke variant through the command line."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import make_generator
from toy import make_toy

from ldpol import precision, storage
from ldpol.archive import Archive, Grid
from ldpol.baselines import cloned
from ldpol.baselines.cloned import ClonedConfig
from ldpol.distillation.dataset import Dataset
from ldpol.errors import UserError
from ldpol.evaluation import retention
from ldpol.evaluation.intervals import over_seeds
from ldpol.evaluation.metrics import action_distance
from ldpol.experiments import configs
from ldpol.experiments.study import ground, methods, plan
from ldpol.player import make_player, score_policies
from ldpol.policy import PolicyShape
from ldpol.report import render
from ldpol.report.retention import draw_retention
from ldpol.train_loop import OptimiserConfig
from ldpol.types import Score

ROOT = Path(__file__).parents[1]
STUDY = f"{ROOT}/experiments/studies/retention.py"
SHAPE, GRID = PolicyShape(3, 2, (20, 20)), Grid((4, 4), (0.0, 0.0), (1.0, 1.0))


def load(*overrides, variant="smoke"):
    """The study's config, its base found from wherever the tests run."""
    config = configs.load_config(f"{STUDY}:{variant}", overrides)
    config.base = f"{ROOT}/{config.base}"
    for row in config.rows.values():
        row.train = row.train and f"{ROOT}/{row.train}"
    return config


@pytest.mark.parametrize("variant", ["cpu", "smoke"])
def test_every_row_of_the_configs_can_be_read_and_trained(variant):
    config = load(variant=variant)
    rows = plan.read_rows(config)
    assert {row.name for row in rows} == set(config.rows) and rows[0].name == "ours"
    assert {row.method for row in rows} == set(plan.METHODS)
    done = set()
    for row in rows:
        assert {row.training, row.settings.get("match", "")} <= done | {row.name, ""}
        done.add(row.name)
        run = plan.run_config(config, row, 7)
        base = configs.load_config(config.base, ["seed=7"])
        for part in ("seed", "task", "policy", "archive", "rollout", "eval"):
            assert run[part] == base[part]
        assert run.train.held_out == base.train.held_out
        if row.training:  # a row that shares a training must find it as it was made
            maker = next(other for other in rows if other.name == row.training)
            assert run.train == plan.run_config(config, maker, 7).train
    paper = plan.run_config(config, next(row for row in rows if row.name == "paper"), 0)
    assert paper.train.autoencoder.loss.kind == "parameters" and paper.train.sampler.steps == 100


def test_rows_alone_bring_what_they_need():
    names = [row.name for row in plan.read_rows(load("only=subsampled,cloned"))]
    assert names == ["ours", "ours_int8", "subsampled", "cloned"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("only", ("gausian",)), "only: unknown 'gausian'; did you mean 'gaussian'"),
        (("collected", "archive_int8"), "collected = 'archive_int8' names a row without a training"),
        (("rows.cloned.method", "clone"), "rows.cloned.method: unknown 'clone'; did you mean 'cloned'"),
        (("rows.ours_int8.precision", "int4"), "unknown 'int4'; did you mean 'int8'"),
        (("rows.steps_1.parent", "hours"), "rows.steps_1.parent: unknown 'hours'; did you mean 'ours'"),
        (("rows.steps_1.parent", "archive_int8"), "cannot share the training of 'archive_int8'"),
        (("rows.cloned_int8.parent", "ours"), "cloned cannot share the training of 'ours'"),
        (("rows.steps_1.overrides", ("train.steps_per_call=1",)), "shares the training of 'ours' and cannot change"),
        (("rows.gaussian.settings.match", "our"), "settings.match: unknown 'our'"),
        (("rows.gaussian.settings.match", "gaussian"), "rows wait for each other: gaussian -> gaussian"),
        (("rows.ours.overrides", ("eval.episodes=3",)), "'eval.episodes=3' is not for one row alone"),
        (("rows.ours.overrides", ("train.held_out.fraction=0.5",)), "is not for one row alone"),
    ],
)
def test_a_plan_that_makes_no_sense(change, said):
    config, (place, value) = load(), change
    with config.unlocked():
        section, (*parents, last) = config, place.split(".")
        for part in parents:
            section = section[part]
        section[last] = value
    with pytest.raises(UserError, match=said):
        plan.read_rows(config)


def test_a_typo_in_a_row_names_the_nearest_key():
    config = load()
    with config.unlocked():
        config.rows.ours.overrides = ("train.autoencoder.architecture.ranks=3",)
    with pytest.raises(UserError, match=r"did you mean train\.autoencoder\.architecture\.rank\?"):
        plan.run_config(config, plan.read_rows(config)[0], 0)


def test_over_seeds_is_students_interval():
    found = over_seeds([1.0, 2.0, 4.0])
    half = 4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert found["mean"] == pytest.approx(7 / 3) and found["high"] - found["mean"] == pytest.approx(half, rel=1e-5)
    assert over_seeds([3.0]) == {"mean": 3.0, "low": None, "high": None}


def test_numbers_of_a_row_by_hand():
    """Four elites: trained in two cells, one held out, one in the box; generated policies miss by 0.1 and earn 0.9."""
    wanted = np.array([[0.1, 0.1], [0.4, 0.1], [0.6, 0.6], [0.9, 0.9]], np.float32)
    reference = Score(np.array([10.0, 20.0, 30.0, 40.0]), wanted, np.ones(4))
    generated = Score(0.9 * reference.fitness, wanted + np.array([[0.0, 0.1]], np.float32), np.ones(4))
    found = retention.measure(GRID, reference, generated, np.array([0, 0, 1, 2]), 0.0)
    assert found["reward_ratio"] == pytest.approx(0.9) and found["coverage_ratio"] == 1.0
    assert found["held_out_mem"] == pytest.approx(0.1, abs=1e-5)
    assert found["held_out_reward_ratio"] == pytest.approx(0.9)
    assert found["box_cells"] == 1 and found["box_mem"] == pytest.approx(0.1, abs=1e-5)
    moved = Score(generated.fitness, generated.measures - 0.5, np.ones(4))
    assert retention.measure(GRID, reference, moved, np.array([0, 0, 1, 2]), 0.0)["box_cells"] == 0
    without = retention.measure(GRID, reference, generated, np.zeros(4, int), 0.0)
    assert without["held_out_mem"] is None and without["box_cells"] is None


def test_summary_over_seeds_leaves_out_what_no_seed_has():
    numbers = dict.fromkeys(retention.NUMBERS, 2.0) | {"seconds": 3.0}
    row = retention.summarise([numbers, numbers | {"mem": 4.0, "box_mem": None}])
    assert row["mem"]["mean"] == 3.0 and row["box_mem"] == {"mean": 2.0, "low": None, "high": None}
    assert row["seeds"] == 2 and row["seconds"] == 3.0
    assert retention.summarise([numbers | {"box_mem": None}])["box_mem"] is None
    assert "| x | 2.0 ± 0.0 |" in retention.markdown([{"variant": "x", **row}])


def test_the_largest_model_that_fits():
    row = plan.Row("one", "gaussian", "", "float32", "", (), {})
    weigh = lambda count: 10 * count + 7  # noqa: E731
    assert [methods._largest(weigh, 9, budget, row) for budget in (17, 26, 27, 5000)] == [1, 1, 2, 9]
    with pytest.raises(UserError, match="weighs 17 bytes, over 16"):
        methods._largest(weigh, 9, 16, row)
    with pytest.raises(UserError, match="has no size of its own"):
        methods._largest(weigh, 9, 0, row)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A ground of random policies on which nothing is ever played."""
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), 30))
    measures = np.asarray(jax.random.uniform(jax.random.key(1), (30, 2)))
    archive = Archive(policies, jnp.zeros(30), jnp.asarray(measures), grid=GRID, task="toy")
    score = Score(np.linspace(1.0, 2.0, 30, dtype=np.float32), measures, np.ones(30))
    kind = np.repeat([0, 1], [25, 5])
    folder = tmp_path_factory.mktemp("study")
    config = configs.load_config(f"{ROOT}/experiments/walker2d.py:smoke")
    return ground.Ground(config, folder, None, archive, "a", kind, score, score, None)


@pytest.mark.parametrize("method", ["subsampled", "gaussian"])
def test_matched_models_keep_to_the_budget(setting, method):
    own = dict(plan.METHODS[method]) | {"match": "ours"}
    if method == "gaussian":
        own |= {"directions": 3}
    row = plan.Row("one", method, "", "float32", "", (), own)
    budget = 10 * SHAPE.size * 4
    model = methods.fit(setting, row, setting.config, budget, "ours")
    assert 0.7 * budget <= model.bytes <= budget
    assert model.bytes == storage.nbytes(model.tree) and model.size == precision.size(model.tree)
    policy = jax.jit(model.sample)(model.tree, jax.random.key(0), jnp.array([0.2, 0.3]))
    assert jax.tree.map(jnp.shape, policy) == jax.tree.map(jnp.shape, SHAPE.abstract())


def test_diversity_by_hand(setting):
    """Of the elites: those nearest to a condition, in its own elite's states; of a look-up: none."""
    section = configs.load_config(f"{STUDY}:smoke").diversity
    trained = setting.trained
    assert len(trained) == 25 and float(trained.fitness[3]) == pytest.approx(float(setting.reference.fitness[3]))
    states = np.random.default_rng(0).normal(size=(25, 12, 3)).astype(np.float32)
    data = Dataset(None, trained.measures, jnp.ones(25), states, None, np.asarray(6))
    rows = np.sort(np.random.default_rng([0, 7]).permutation(25)[: section.conditions])
    expected = []
    for number in rows:
        away = np.linalg.norm(np.asarray(trained.measures) - np.asarray(trained.measures[number]), axis=1)
        near = np.argsort(away)[: section.samples]
        policies = jax.tree.map(lambda leaf: leaf[near], trained.policies)  # noqa: B023
        expected.append(action_distance(SHAPE.apply, policies, jnp.asarray(states[number, :6])))
    found = ground.diversity(setting, section, data, None)
    assert found == pytest.approx(float(np.mean(expected)), rel=1e-4)
    row = plan.Row("one", "quantised", "", "int8", "", (), {})
    table = methods.fit(setting, row, setting.config, 0, "ours")
    assert ground.diversity(setting, section, data, table) == pytest.approx(0.0, abs=1e-6)


def test_a_stored_generator_samples_as_it_was_told(setting):
    generator = make_generator(SHAPE, GRID)
    generator.save(setting.folder / "ours" / "model")
    row = plan.Row("one", "ours", "ours", "int8", "", (), {"steps": 2, "sampler": "heun", "guidance": 1.0})
    model = methods._generator(setting, row)
    again = dataclasses.replace(generator, steps=2, method="heun").save(setting.folder / "again", "int8")
    assert model.bytes == again and model.tree.steps == 2
    key, wanted = jax.random.key(0), jnp.array([0.2, 0.3])
    found = jax.jit(model.sample)(model.tree, key, wanted)
    expected = jax.jit(lambda model: model.sample(key, wanted, steps=2, method="heun"))(precision.expand(model.tree))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_clone_scores_as_the_plain_policies_it_is(tmp_path):
    """Played through its own apply on two devices, against its folded policies one after the other."""
    config = configs.load_config(f"{ROOT}/experiments/walker2d.py:smoke")
    task, grid = make_toy(noise=0.2), Grid((4, 4), (0.0, 0.0), (1.0, 1.0))
    measures = np.asarray(jax.random.uniform(jax.random.key(1), (6, 2)))
    score = Score(np.ones(6), measures, np.ones(6))
    archive = Archive(None, jnp.ones(6), jnp.asarray(measures), grid=grid, task="toy")
    player = make_player(task, SHAPE.apply, episodes=2, chunk=64)
    stand = ground.Ground(config, tmp_path, task, archive, "a", np.zeros(6), score, score, player)
    sizes = ClonedConfig((8,), embedding=8, octaves=2, joint=4)
    data = Dataset(None, jnp.asarray(measures), jnp.ones(6), jnp.ones((6, 4, 3)), jnp.ones((6, 4, 2)), jnp.asarray(4))
    params = cloned.start(sizes, OptimiserConfig(1), data, jax.random.key(2)).params
    tree = cloned.Cloned(jax.tree.map(lambda leaf: 3.0 * leaf, params), jnp.zeros(3), jnp.ones(3), sizes, 2, grid)
    tree = precision.compress(tree, "float16")
    model = ground.Model(tree, cloned.generate, 0, 0, 0.0, cloned.apply)
    found, _ = stand.score("clone", model)
    wide, plain = precision.expand(tree), PolicyShape(3, 2, (8,))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.split(stand.key("reconstruction"), 5)[1], i))(jnp.arange(6))
    styles = jax.vmap(lambda wanted: cloned.generate(wide, jax.random.key(0), wanted))(jnp.asarray(measures))
    policies = jax.vmap(lambda style: cloned.fold(wide, style))(styles)
    play = jax.jit(lambda policies: score_policies(task, plain.apply, policies, keys, episodes=2).score)
    expected = play(policies)
    np.testing.assert_allclose(found.fitness, expected.fitness, atol=1e-3)
    np.testing.assert_allclose(found.measures, expected.measures, atol=1e-5)


def test_figure_holds_every_row():
    def row(method, size, ratio, width=0.02):
        ratios = {"mean": ratio, "low": ratio - width, "high": ratio + width}
        size = {"mean": size, "low": size, "high": size}
        return {"method": method, "variant": f"{method}_1", "compression_bytes": size} | dict.fromkeys(
            ("reward_ratio", "coverage_ratio", "qd_ratio"), ratios
        )

    rows = [row(method, 10.0 * 2**i, 1.0 - 0.1 * i) for i, method in enumerate(plan.METHODS)]
    ceiling = dict.fromkeys(("reward_ratio", "qd_ratio"), {"mean": 1.0, "low": None, "high": None})
    figure = draw_retention(rows, ceiling)
    assert len(figure.axes) == 3 and render(figure)[:4] == b"\x89PNG"
    assert render(draw_retention([], {}))[:4] == b"\x89PNG"


def call(workdir, *more):
    command = [sys.executable, "-m", "ldpol.experiments", "study", "--config", "experiments/studies/retention.py:smoke"]
    return subprocess.run(
        [*command, "--workdir", str(workdir), *more],
        cwd=ROOT, capture_output=True, text=True, timeout=1800, env=os.environ,
    )  # fmt: skip


def test_smoke_study_through_the_command_line(tmp_path):
    """A few rows of one seed, kept, taken up again, refused when changed; all rows and seeds are a slow test."""
    few = ("--config.seeds=0", "--config.only=ours_int8,archive_int8")
    done = call(tmp_path, *few)
    assert done.returncode == 0, done.stderr[-3000:]
    table = storage.read_json(tmp_path / "retention.json")
    assert [row["variant"] for row in table["rows"]] == ["ours", "ours_int8", "archive_int8"]
    assert {"ceiling", "study", "config", "commit", "versions", "machine"} <= set(table)
    ours, int8, stored = table["rows"]
    assert int8["compression_bytes"]["mean"] > ours["compression_bytes"]["mean"]
    assert stored["diversity"]["mean"] == pytest.approx(0.0, abs=1e-6) and ours["diversity"]["mean"] > 0
    assert (tmp_path / "retention.png").read_bytes()[:4] == b"\x89PNG"
    json.dumps(table, allow_nan=False)
    kept = (tmp_path / "rows" / "ours-seed0.json").stat().st_mtime_ns
    (tmp_path / "rows" / "archive_int8-seed0.json").unlink()
    again = call(tmp_path, *few)
    assert again.returncode == 0 and "ours_int8, seed 0: already done" in again.stderr
    assert "study: archive_int8: already done" in again.stderr
    assert (tmp_path / "rows" / "ours-seed0.json").stat().st_mtime_ns == kept
    same = storage.read_json(tmp_path / "retention.json")["rows"][2]
    assert same["qd_ratio"] == stored["qd_ratio"]
    changed = call(tmp_path, *few, "--config.rows.ours_int8.precision=float16")
    assert changed.returncode == 2 and "row.precision: 'int8' -> 'float16'" in changed.stderr
    unknown = call(tmp_path, "--config.only=our_int8")
    assert unknown.returncode == 2 and "did you mean 'ours_int8'" in unknown.stderr


@pytest.mark.slow
def test_whole_smoke_study(tmp_path):
    done = call(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = storage.read_json(tmp_path / "retention.json")["rows"]
    assert {row["method"] for row in rows} == set(plan.METHODS)
    for row in rows:
        assert row["seeds"] == 2 and row["qd_ratio"]["low"] <= row["qd_ratio"]["mean"] <= row["qd_ratio"]["high"]
