"""The study: its rows, its counting, its figure, a whole one on the toy task, and one through the command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines.test_baselines import fold
from campaign.stages import WITH_TESTS
from test_generator import make_generator
from toy import make_toy, traced_once

from ldpol import distillation, precision, storage, study
from ldpol.archive import Archive, Grid
from ldpol.baselines import cloned
from ldpol.baselines.cloned import ClonedConfig
from ldpol.distillation.dataset import Dataset
from ldpol.errors import UserError
from ldpol.evaluation import retention
from ldpol.evaluation.intervals import over_seeds
from ldpol.evaluation.metrics import action_distance
from ldpol.experiments import configs
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.model.sampler import SamplerConfig
from ldpol.networks import MLP
from ldpol.player import make_player, score_policies
from ldpol.reference import split
from ldpol.report import render
from ldpol.report.retention import STYLES, draw_retention
from ldpol.settings import revise
from ldpol.study import StudyConfig, StudyContext, methods
from ldpol.study.context import Trained, as_score, digest
from ldpol.study.run import diversities, evaluate_model
from ldpol.types import Score

ROOT = Path(__file__).parents[2]
STUDY = f"{ROOT}/experiments/studies/retention.py"
SHAPE, GRID = MLP(3, 2, (20, 20)), Grid((4, 4), (0.0, 0.0), (1.0, 1.0))
TINY = revise(
    distillation.DistillConfig(),
    precision="float32",
    episodes=2,
    chunk=8,
    collect={"repeats": 1, "episodes": 2, "states": 4},
    autoencoder={
        "architecture": {"latent": (2, 2, 1), "rank": 4, "context": 16, "hidden": 8, "octaves": 2, "joint": 4}
        | {"coordinates": 6, "encoder_hidden": 16},
        "loss": {"policies": 8, "states": 4},
        "optimiser": {"steps": 10},
        "dagger_rounds": 1,
    },
    verify={"rounds": 0},
    denoiser={
        "architecture": {"hidden": 8, "layers": 1, "embedding": 8, "joint": 4},
        "loss": {"batch": 16},
        "optimiser": {"steps": 10},
    },
    language={"captions": 0},
)


def rows_of(variant="cpu"):
    config = configs.load_config(f"{STUDY}:{variant}")
    base = configs.load_config(f"{ROOT}/{config.base}", config.overrides)
    return configs.load_module(STUDY).rows(config, configs.distill_of(base)), configs.distill_of(base)


def test_rows_of_the_config():
    """Every published row can be made again; what shares a training says so by equal settings."""
    rows, base = rows_of()
    results = (ROOT / "results").glob("*-*.json")
    tables = [json.loads(path.read_text()) for path in results if path.stem.startswith(("retention", "ablations"))]
    assert len(tables) == 4
    assert {row["variant"] for table in tables for row in table["rows"]} <= set(rows)
    assert {row.kind for row in rows.values()} == set(STYLES)
    assert rows["ours"].config == base == rows["ours_int8"].config == rows["ddim_4"].config == rows["latents"].config
    assert rows["rank_12_int8"].config == rows["rank_12"].config != base
    assert rows["ddim_4"].sampler == SamplerConfig(**dataclasses.asdict(base.sampler) | {"steps": 4, "method": "ddim"})
    changed = [row.config for name, row in rows.items() if isinstance(row, methods.LatentDiffusion)]
    assert len({digest(config) for config in changed}) == len(set(changed)) > 20
    paper = rows["paper"].config
    assert paper.autoencoder.loss.kind == "parameters" and paper.sampler.steps == 100
    assert (paper.autoencoder.optimiser.steps, paper.denoiser.optimiser.steps) == (1200, 2000)
    assert paper.language.captions == 0 and paper.precision == "float32"
    assert {row.kind for row in rows_of("smoke")[0].values()} == set(STYLES)


def test_a_typo_names_the_nearest():
    rows, base = rows_of()
    assert list(study.choose(rows, ("ours_int8", "ours"))) == ["ours", "ours_int8"]
    assert study.choose(rows, ("all",)) == rows
    with pytest.raises(UserError, match="unknown row 'our_int8'; did you mean 'ours_int8'"):
        study.choose(rows, ("our_int8",))
    with pytest.raises(TypeError, match="ranks"):
        revise(base, autoencoder={"architecture": {"ranks": 3}})


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


@pytest.fixture(scope="module")
def setting():
    """A context of random policies that nothing is ever trained on."""
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), 30))
    measures = jax.random.uniform(jax.random.key(1), (30, 2))
    archive = Archive(policies, jnp.linspace(1.0, 2.0, 30), measures, GRID, "toy", SHAPE)
    return context_of(archive, make_toy(noise=0.2))


def context_of(archive, task):
    config = StudyConfig(base=TINY, fraction=0.2, conditions=4, samples=2, states=8)
    player = make_player(task, archive.network.apply, episodes=2, chunk=8)
    parts, key = split(archive, fraction=config.fraction), jax.random.key(3)
    return StudyContext(config, parts, task, player, as_score(archive), key, lambda name: Hooks())


def test_the_largest_model_that_fits():
    weigh = lambda count: 10 * count + 7  # noqa: E731
    assert [methods.largest(weigh, 9, budget) for budget in (17, 26, 27, 5000)] == [1, 1, 2, 9]
    with pytest.raises(UserError, match="weighs 17 bytes, over the 16"):
        methods.largest(weigh, 9, 16)


@pytest.mark.parametrize("method", [methods.Subsampled, methods.PrincipalGaussian])
def test_matched_models_keep_to_the_budget(setting, method):
    like = methods.Quantised("int8")
    own = {"regression": methods.Regression(directions=3)} if method is methods.PrincipalGaussian else {}
    budget, model = like.fit(setting).bytes, method(like, **own).fit(setting)
    assert 0.7 * budget <= model.bytes <= budget
    assert model.bytes == storage.nbytes(model.tree) and model.size == precision.size(model.tree)
    policy = jax.jit(model.generate)(model.tree, jax.random.key(0), jnp.array([0.2, 0.3]))
    assert jax.tree.map(jnp.shape, policy) == jax.tree.map(jnp.shape, SHAPE.abstract())


def test_diversity_by_hand(setting):
    """Of the elites: those nearest to a condition, in its own elite's states; of a look-up: none."""
    config, trained = setting.config, setting.split.trained
    assert len(trained) == 24
    states = np.random.default_rng(0).normal(size=(24, 12, 3)).astype(np.float32)
    data = Dataset(None, trained.measures, jnp.ones(24), states, None, np.asarray(6))
    context = dataclasses.replace(setting, kept={"dataset": data})
    row_key = key_for(setting.key, "diversity/conditions")
    expected = []
    for number in np.sort(jax.random.permutation(row_key, 24)[: config.conditions]):
        away = np.linalg.norm(np.asarray(trained.measures) - np.asarray(trained.measures[number]), axis=1)
        near = np.argsort(away)[: config.samples]
        policies = jax.tree.map(lambda leaf: leaf[near], trained.policies)  # noqa: B023
        expected.append(action_distance(SHAPE.apply, policies, jnp.asarray(states[number, :6])))
    elites, look_up = diversities(methods.Quantised("int8").fit(context), context)
    assert elites == pytest.approx(float(np.mean(expected)), rel=1e-4)
    assert look_up == pytest.approx(0.0, abs=1e-6)


def test_a_row_may_sample_otherwise_than_it_was_trained_to(setting, tmp_path):
    generator = make_generator(SHAPE, GRID)
    made = Trained(generator, None, 7.0)
    context = dataclasses.replace(setting, kept={f"training-{digest(TINY)}": made})
    sampler = SamplerConfig(steps=2, method="heun")
    model = methods.LatentDiffusion(TINY, "int8", sampler).fit(context)
    again = dataclasses.replace(generator, **dataclasses.asdict(sampler)).save(tmp_path / "again", "int8")
    assert model.bytes == again and model.tree.steps == 2 and model.seconds == 7.0
    key, wanted = jax.random.key(0), jnp.array([0.2, 0.3])
    found = jax.jit(model.generate)(model.tree, key, wanted)
    expected = jax.jit(lambda model: model.sample(key, wanted, steps=2, method="heun"))(precision.expand(model.tree))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_clone_scores_as_the_plain_policies_it_is():
    """Rolled out through its own apply on two devices, against its folded policies one after the other."""
    task, plain = make_toy(noise=0.2), MLP(3, 2, (8,))
    measures = jax.random.uniform(jax.random.key(1), (6, 2))
    policies = jax.vmap(plain.init)(jax.random.split(jax.random.key(0), 6))
    context = context_of(Archive(policies, jnp.ones(6), measures, GRID, "toy", SHAPE), task)
    sizes = ClonedConfig((8,), embedding=8, octaves=2, joint=4)
    params = cloned.ConditionedPolicy(2, sizes).init(jax.random.key(2), measures[0], jnp.ones((1, 3)))["params"]
    tree = cloned.Cloned(jax.tree.map(lambda leaf: 3.0 * leaf, params), jnp.zeros(3), jnp.ones(3), sizes, 2, GRID)
    tree = precision.compress(tree, "float16")
    found = evaluate_model(study.Model(tree, cloned.generate, 0, 0, 0.0, cloned.apply), context)
    wide = precision.expand(tree)
    keys = jax.vmap(lambda i: jax.random.fold_in(key_for(context.key, "evaluate"), i))(jnp.arange(6))
    styles = jax.vmap(lambda wanted: cloned.generate(wide, jax.random.key(0), wanted))(measures)
    policies = jax.vmap(lambda style: fold(wide, style))(styles)
    expected = jax.jit(lambda them: score_policies(task, plain.apply, them, keys, episodes=2).score)(policies)
    np.testing.assert_allclose(found.fitness, expected.fitness, atol=1e-3)
    np.testing.assert_allclose(found.measures, expected.measures, atol=1e-5)


def in_memory(kept):
    """Hooks that keep everything in a dict, and refuse to compute what is there."""

    def memo(name):
        def keep(part, depends_on, compute):
            place = name, part, json.dumps(depends_on)
            if place not in kept:
                kept[place] = compute()
            return kept[place]

        return keep

    return lambda name: Hooks(memo=memo(name))


def test_a_whole_study_of_the_toy_task():
    """In memory, no folder: three rows, of which two share a training; what is kept is not made again.

    Another version of the code measures again, and trains nothing. One player evaluates all of it, and is traced once.
    """
    plain, task = MLP(3, 2, (8,)), make_toy(noise=0.2)
    policies = jax.vmap(plain.init)(jax.random.split(jax.random.key(0), 24))
    policies = jax.tree.map(lambda leaf: 3.0 * leaf, policies)
    archive = Archive(policies, jnp.zeros(24), jnp.zeros((24, 2)), GRID, "toy", plain)
    config = StudyConfig(base=TINY, fraction=0.2, conditions=4, samples=2, states=4)
    rows = {
        "ours": methods.LatentDiffusion(TINY),
        "table": methods.LatentTable(TINY, "int8"),
        "clone": methods.Cloned(ClonedConfig((8,), 8, 2, 4, 8, 4), TINY.autoencoder.optimiser),
    }
    kept = {}
    player = make_player(task, plain.apply, episodes=TINY.episodes, rollout=TINY.rollout, chunk=TINY.chunk)
    how = {"seeds": (0,), "player": traced_once(player), "hooks": in_memory(kept)}
    first = list(study.run(rows, archive, task, config, **how))
    assert [(one.name, one.seed) for one in first] == [(name, 0) for name in ("ceiling", *rows)]
    table = study.tabulate(rows, first)
    ours, latents, clone = table["rows"]
    assert (ours["seeds"], ours["method"], latents["method"], clone["method"]) == (1, "ours", "latents", "cloned")
    assert latents["diversity"]["mean"] == clone["diversity"]["mean"] == 0.0 < ours["diversity"]["mean"]
    assert ours["seconds"] == latents["seconds"] > 0 and ours["box_mem"] is None
    assert 0 < table["ceiling"]["mem"]["mean"] < ours["mem"]["mean"]
    trainings = {name for name, *_ in kept if "training" in name or "clone-" in name}
    assert len(trainings) == 2
    made = set(kept)
    again = list(study.run(rows, archive, task, config, **how))
    assert again == first and set(kept) == made
    measured = list(study.run({"table": rows["table"]}, archive, task, config, version="another", **how))
    assert measured == [first[0], first[2]] and {name for name, *_ in set(kept) - made} == {"seed0/row-table"}


def test_figure_holds_every_row():
    def row(method, size, ratio, width=0.02):
        ratios = {"mean": ratio, "low": ratio - width, "high": ratio + width}
        size = {"mean": size, "low": size, "high": size}
        return {"method": method, "variant": f"{method}_1", "compression_bytes": size} | dict.fromkeys(
            ("reward_ratio", "coverage_ratio", "qd_ratio"), ratios
        )

    rows = [row(method, 10.0 * 2**i, 1.0 - 0.1 * i) for i, method in enumerate(STYLES)]
    ceiling = dict.fromkeys(("reward_ratio", "qd_ratio"), {"mean": 1.0, "low": None, "high": None})
    figure = draw_retention(rows, ceiling)
    assert len(figure.axes) == 3 and render(figure)[:4] == b"\x89PNG"
    assert render(draw_retention([], {}))[:4] == b"\x89PNG"


def call(workdir, *more):
    """Run the study with the toy in place of physics."""
    config = "experiments/studies/retention.py:smoke"
    command = [sys.executable, "-m", "campaign.toy_stage", "study", "--config", config, "--workdir", str(workdir)]
    return subprocess.run([*command, *more], cwd=ROOT, env=WITH_TESTS, capture_output=True, text=True, timeout=1800)


def test_smoke_study_through_the_command_line(tmp_path):
    """A few rows of one seed, kept, taken up again, refused when the base changes; all rows are a slow test."""
    few = ("--config.seeds=0", "--config.only=steps_1,archive_int8")
    done = call(tmp_path, *few)
    assert done.returncode == 0, done.stderr[-3000:]
    table = storage.read_json(tmp_path / "retention.json")
    assert [row["variant"] for row in table["rows"]] == ["steps_1", "archive_int8"]
    assert {"ceiling", "study", "config", "commit", "versions", "machine"} <= set(table)
    drawn, stored = table["rows"]  # one by diffusion: of few verified draws, the nearest would always answer
    assert stored["diversity"]["mean"] == pytest.approx(0.0, abs=1e-6) and drawn["diversity"]["mean"] > 0
    assert (tmp_path / "retention.png").read_bytes()[:4] == b"\x89PNG"
    json.dumps(table, allow_nan=False)
    again = call(tmp_path, *few)
    assert again.returncode == 0 and again.stderr.count("numbers: already done") == 2, again.stderr[-3000:]
    assert storage.read_json(tmp_path / "retention.json")["rows"] == table["rows"]
    changed = call(tmp_path, *few, "--config.overrides=train.language.captions=0,train.precision=int8")
    assert changed.returncode == 2 and "train.precision: 'float32' -> 'int8'" in changed.stderr, changed.stderr[-3000:]
    unknown = call(tmp_path, "--config.only=our_int8")
    assert unknown.returncode == 2 and "did you mean 'ours_int8'" in unknown.stderr


@pytest.mark.slow
def test_whole_smoke_study(tmp_path):
    done = call(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = storage.read_json(tmp_path / "retention.json")["rows"]
    assert {row["method"] for row in rows} == set(STYLES)
    for row in rows:
        assert row["seeds"] == 2 and row["qd_ratio"]["low"] <= row["qd_ratio"]["mean"] <= row["qd_ratio"]["high"]
