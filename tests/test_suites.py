"""The suites of the evaluate stage on the toy task, where an evaluation takes no physics engine."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import make_generator
from test_reader import make_speaking
from toy import make_toy

from ldpol import storage
from ldpol.archive import Archive, Grid
from ldpol.evaluation.metrics import action_distance
from ldpol.evaluation.reconstruction import sample_policies, score_generated, score_policies
from ldpol.experiments import evaluate, passes, session
from ldpol.experiments.reading import grammar_of
from ldpol.experiments.settings import ConfigError, load_config
from ldpol.experiments.suites import composition, cutout, guidance, language, sequencing, steadiness
from ldpol.experiments.suites.context import Context, renumber
from ldpol.language.captions import captions
from ldpol.language.claims import satisfied
from ldpol.planning.choosing import first, from_archive, from_generator
from ldpol.planning.sequencing import play_sequences
from ldpol.policy import PolicyShape
from ldpol.rollout import copied_to, policy_mesh

SHAPE, GRID = PolicyShape(3, 2, (6,)), Grid((4, 4), (0.0, 0.0), (1.0, 1.0))
ELITES = 12


@pytest.fixture(scope="module")
def config():
    overrides = ["eval.guidance.conditions=5", "eval.composition.conditions=5", "eval.sequencing.sequences=3"]
    walker = Path(__file__).parents[1] / "experiments" / "walker2d.py"
    return load_config(f"{walker}:smoke", [*overrides, "rollout.chunk=16", "eval.sequencing.chunk=2"])


@pytest.fixture(scope="module")
def context(config, tmp_path_factory):
    """Elites that do what the toy's rules say; the last two lie in the box that training left out."""
    workdir = tmp_path_factory.mktemp("suites")
    task = make_toy(episode_length=20, noise=0.2, width=9.0)
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), ELITES))
    play = passes.player(config, task, SHAPE)
    reference = jax.tree.map(np.asarray, play(policies, jax.random.split(jax.random.key(1), ELITES)))
    traits = reference.traits
    reference = dataclasses.replace(reference.score, fitness=reference.score.fitness + 30.0)
    states = np.random.default_rng(0).random((ELITES, 4, 3)).astype(np.float32)
    storage.save(workdir / "train" / "data", {"states": states, "filled": np.asarray(3)}, kind="dataset")
    kind = np.repeat([0, 2], [ELITES - 2, 2])
    return Context(
        config=config,
        workdir=workdir,
        task=task,
        archive=Archive(policies, reference.fitness, reference.measures, grid=GRID, task="toy"),
        generator=jax.device_put(make_generator(SHAPE, GRID), copied_to(policy_mesh())),
        reference=reference,
        traits=traits,
        kind=kind,
        box=((0.25, 0.25), (0.75, 0.5)),
        identity={"archive": "a", "model": "m"},
        play=play,
        timer=session.Timer(),
    )


@pytest.fixture(scope="module")
def speaking(context, tmp_path_factory):
    """The same run with a generator that can read."""
    model = jax.device_put(make_speaking(make_generator(SHAPE, GRID)), copied_to(policy_mesh()))
    return dataclasses.replace(context, generator=model, workdir=tmp_path_factory.mktemp("speaking"))


def test_guidance(context, config):
    """Scale 1 is the generator as it is, on the random numbers of its pair; metrics and diversity by a second way."""
    rows = guidance.run(context)["guidance"]
    assert [row["scale"] for row in rows] == [1.0, 2.0]
    chosen = context.choose(5, 4)
    wanted = context.reference.measures[chosen]
    keys = renumber(context.key(9), jnp.arange(5))
    score = score_generated(context.generator, context.task, wanted, keys, episodes=2).score
    assert rows[0]["mem"] == pytest.approx(float(np.linalg.norm(score.measures - wanted, axis=1).mean()), abs=1e-5)
    worth = score.fitness.mean() / context.reference.fitness[chosen].mean()
    assert rows[0]["reward_ratio"] == pytest.approx(float(worth), abs=1e-4)
    assert rows[0]["diversity"] > 0 and rows[0]["diversity"] != rows[1]["diversity"]
    json.dumps(rows, allow_nan=False)


def test_diversity_by_loop(context):
    section = context.config.eval.guidance
    seen = storage.load(context.workdir / "train" / "data", kind="dataset")[0]["states"][:, :3].reshape(-1, 3)
    seen = seen[np.random.default_rng([0, 6]).integers(0, len(seen), section.observations)]
    values = []
    for number, wanted in enumerate(context.reference.measures[context.choose(section.diverse, 5)]):
        keys = jax.random.split(jax.random.fold_in(context.key(5), number), section.samples)
        made = [context.generator.sample(key, wanted, guidance=2.0) for key in keys]
        policies = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
        values.append(action_distance(SHAPE.apply, policies, jnp.asarray(seen)))
    found = guidance._diversity(context, np.array([2.0], np.float32))
    np.testing.assert_allclose(found, [np.mean(values)], rtol=1e-3)


def test_composition(context):
    found = composition.run(context)
    wanted = context.reference.measures[context.choose(5, 7)]
    keys = renumber(context.key(9), jnp.arange(5))
    score = score_generated(context.generator, context.task, wanted, keys, episodes=2).score
    expected = float(np.linalg.norm(score.measures - wanted, axis=1).mean())
    assert found["composition"]["joint"]["mem"] == pytest.approx(expected, abs=1e-5)
    assert found["free"]["policies"] == 5
    json.dumps(found, allow_nan=False)


def test_composition_of_one_measure_is_left_out(context):
    task = dataclasses.replace(context.task, measure_names=("one",))
    assert composition.run(dataclasses.replace(context, task=task)) == {"composition": {}, "free": {}}


def test_cutout(context):
    found = cutout.run(context)["cutout"]
    assert (found["cells"], found["originals"], found["draws"]) == (2, 2, 1)
    json.dumps(found, allow_nan=False)


def test_cutout_without_a_box(context):
    assert cutout.run(dataclasses.replace(context, box=((), ()))) == {"cutout": {}}
    assert cutout.run(dataclasses.replace(context, kind=np.zeros(ELITES, int))) == {"cutout": {}}


def test_steadiness(context):
    """Every play is of the same policies; the elites' first is the reference."""
    found = steadiness.run(context)["steadiness"]
    assert [row["episodes"] for row in found["rows"]] == [2, 4]
    key, wanted = context.key(30), context.reference.measures
    draws = renumber(context.key(31), jnp.arange(ELITES))
    policies = sample_policies(context.generator.sample, wanted, draws)
    plays = []
    for number in range(2):
        keys = renumber(jax.random.fold_in(jax.random.fold_in(key, number), 1), jnp.arange(ELITES))
        plays.append(score_policies(context.task, SHAPE.apply, policies, keys, episodes=2).score.measures)
    moved = np.linalg.norm(plays[0] - plays[1], axis=-1).mean()
    assert found["repeat_generated"] == pytest.approx(float(moved), abs=1e-5) and moved > 0
    away = np.linalg.norm((plays[0] + plays[1]) / 2 - wanted, axis=-1).mean()
    assert found["rows"][1]["mem"] == pytest.approx(float(away), abs=1e-5)
    json.dumps(found, allow_nan=False)


def test_sequencing(context):
    """Both halves of the shared program are what the library plays when asked for each alone."""
    found = sequencing.run(context)["sequencing"]
    json.dumps(found, allow_nan=False)
    assert (found["sequences"], found["segments"], found["steps"], found["settle"]) == (3, 2, 10, 5)
    arrays = storage.load(context.workdir / "eval" / "passes" / "sequences", kind="scores")[0]
    wanted = jnp.asarray(sequencing.draw_sequences(context.key(10), context.reference.measures, 3, 2))
    keys = renumber(context.key(12), jnp.arange(3))
    model, archive = context.generator, context.archive
    ways = {
        0: first(from_generator(model.sample, 1)),
        3: first(from_archive(archive.policies, jnp.asarray(context.reference.measures))),
    }
    for start, choose in ways.items():
        play = jax.jit(
            lambda w, k: play_sequences(context.task, model.apply, choose, w, k, episodes=2, settle=5)  # noqa: B023
        )
        alone = play(wanted, keys)
        np.testing.assert_allclose(arrays["score"]["fitness"][start : start + 3], alone.fitness, atol=1e-3)
        np.testing.assert_array_equal(arrays["score"]["length"][start : start + 3], alone.length)
    assert found["nearest_elite"]["fitness"] == pytest.approx(float(alone.fitness.mean()), abs=1e-3)
    assert found["generated_less_nearest_elite"]["fitness"]["value"] == pytest.approx(
        found["generated"]["fitness"] - found["nearest_elite"]["fitness"], abs=1e-3
    )
    first_episodes = np.asarray(arrays["score"]["length"])[3:6, :1].mean()
    assert found["lookahead_less_nearest_elite"]["length"]["value"] == pytest.approx(
        found["lookahead"]["length"] - first_episodes, abs=1e-3
    )
    assert found["lookahead"]["episodes"] == 1 and found["lookahead"]["look_ahead"] == 2 * 2 * 30
    assert [row["candidates"] for row in found["lookahead_by_candidates"]] == [1, 2]
    assert found["lookahead_by_candidates"][0]["look_ahead"] == 0  # one candidate needs none
    assert found["lookahead_by_candidates"][1]["survival"] == found["lookahead"]["survival"]
    with np.load(context.workdir / "eval" / "sequencing.npz") as traces:
        assert traces["generated_measures"].shape == (20, 2) and traces["nearest_elite_alive"].shape == (20,)
        np.testing.assert_array_equal(traces["targets"], wanted[0])


def test_language(speaking):
    """Every claim again, one policy at a time: the sentence read, a policy sampled and played with its pair's keys."""
    found = language.run(speaking)
    json.dumps(found, allow_nan=False)
    rows, model, task = speaking.choose(8, 20), speaking.generator, speaking.task
    grammar = grammar_of(task, speaking.traits[:-2])  # the last two lie in the box
    names, draw = grammar.levels.names, jax.jit(lambda model, key, text: model.sample(key, text=text, guidance=2.0))
    play = jax.jit(lambda policy, keys: score_policies(task, SHAPE.apply, policy, keys, episodes=2).traits)
    for split in ("train", "held_out"):
        hold, chance, made = 0, 0.0, 0
        for i, row in enumerate(rows):
            said = captions(grammar, speaking.traits[row], count=1, seed=(21, int(row)), split=split)[0]
            keys = renumber(speaking.key(9), jnp.array([i]))
            policy = draw(model, jax.random.split(keys[0])[0], model.read([said.text])[0])
            traits = play(jax.tree.map(lambda leaf: leaf[None], policy), keys)[0]
            hold += satisfied(said.claims, names, traits).sum()
            chance += np.mean([satisfied(said.claims, names, one) for one in speaking.traits], 0).sum()
            made += len(said.claims)
        assert found["language"][f"{split}_satisfaction"] == pytest.approx(hold / made)
        assert found["language"][split]["chance"]["value"] == pytest.approx(chance / made)
        assert found["language"][split]["ceiling"]["value"] > found["language"][split]["chance"]["value"]
    assert len(found["language"]["examples"]) == 2 * 2 and len(found["language"]["examples"][0]["claims"]) >= 1
    assert [row["asked"] for row in found["quality"]] == [0.25, 0.75]


def test_a_model_without_language_has_nothing_to_say(context):
    assert language.run(context) == {"language": {}, "quality": []}


def test_sequences_of_sentences(speaking):
    """Sentences and the elites they are true of are played beside the rest, which they do not change."""
    found = sequencing.run(speaking)["sequencing"]
    json.dumps(found, allow_nan=False)
    arrays = storage.load(speaking.workdir / "eval" / "passes" / "sequences", kind="scores")[0]
    assert len(arrays["score"]["fitness"]) == 4 * 3
    means = np.asarray(arrays["score"]["fitness"]).reshape(4, -1).mean(1)
    assert found["language"]["generated"]["fitness"]["value"] == pytest.approx(means[2], abs=1e-3)
    assert found["language"]["elite"]["fitness"]["value"] == pytest.approx(means[3], abs=1e-3)
    assert found["nearest_elite"]["fitness"] == pytest.approx(means[1], abs=1e-3)


def test_what_is_done_is_not_done_again(context, capsys):
    suites = (guidance, composition, cutout, sequencing)
    before = [suite.run(context) for suite in suites]
    capsys.readouterr()
    again = dataclasses.replace(context, play=None)
    assert [suite.run(again) for suite in suites] == before
    assert capsys.readouterr().err.count("already done") == 8


def test_another_model_is_played_anew(context, capsys):
    other = dataclasses.replace(context, identity={"archive": "a", "model": "other"})
    cutout.run(context)
    capsys.readouterr()
    cutout.run(other)
    assert "already done" not in capsys.readouterr().err
    cutout.run(context)


def test_settings_of_passes(context, config):
    """A pass is bound to its own settings; those of other suites may change."""
    cutout.run(context)
    folder, sections = context.workdir / "eval" / "passes", ("seed", "task", "policy", "eval")
    walker = Path(__file__).parents[1] / "experiments" / "walker2d.py"
    overrides = ["eval.guidance.conditions=5", "eval.composition.conditions=5", "eval.sequencing.sequences=3"]
    overrides.append("eval.sequencing.chunk=2")
    same = load_config(f"{walker}:smoke", [*overrides, "eval.suites=cutout", "eval.unseen=3"])
    passes.check(folder, same, sections)
    changed = load_config(f"{walker}:smoke", [*overrides, "eval.cutout.draws=4"])
    with pytest.raises(ConfigError, match=r"eval\.cutout\.draws: 1 -> 4"):
        passes.check(folder, changed, sections)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("eval.suites=guidence", "unknown suite 'guidence'; the suites are reconstruction, guidance, composition"),
        ("eval.suites=[]", "no suite is named"),
        ("eval.episodes=0", "eval.episodes must be at least 1, found 0"),
        ("eval.guidance.samples=1", "eval.guidance.samples must be at least 2"),
        ("eval.guidance.scales=()", "eval.guidance.scales is empty"),
        ("eval.composition.conditions=0", "eval.composition.conditions must be at least 1"),
        ("eval.cutout.draws=0", "eval.cutout.draws must be at least 1"),
        ("eval.steadiness.plays=1", "eval.steadiness.plays must be at least 2"),
        ("eval.sequencing.look_ahead_episodes=3", "must be at most episodes = 2"),
        ("eval.sequencing.segments=7", "does not split into 7 equal segments"),
        ("eval.sequencing.settle=25", "settle must be at least 0 and less than the 25 steps"),
        ("eval.sequencing.horizon=5", "measures nothing"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(override, said, tmp_path):
    walker = Path(__file__).parents[1] / "experiments" / "walker2d.py"
    with pytest.raises(ValueError, match=said):
        evaluate.run(load_config(f"{walker}:smoke", [override]), tmp_path / "nowhere")


def test_metrics_of_earlier_suites_are_kept(context, tmp_path):
    folder = tmp_path / "suites"
    for name, value in (("guidance", [1]), ("cutout", {"cells": 3})):
        about = context.about(*evaluate.SUITES[name].NEEDS)
        storage.write_json(folder / f"{name}.json", {"about": about, "seconds": 2.0, "metrics": {name: value}})
    found = evaluate.gather(context, folder)
    assert found == {
        "guidance": [1],
        "cutout": {"cells": 3},
        "suite_seconds": {"guidance": 2.0, "cutout": 2.0},
        "seconds": 4.0,
    }
    other = dataclasses.replace(context, identity={"archive": "a", "model": "other"})
    assert evaluate.gather(other, folder) == {"suite_seconds": {}, "seconds": 0}
