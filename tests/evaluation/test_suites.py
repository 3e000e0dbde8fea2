"""The suites on the toy task, where an evaluation takes no physics engine."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language.test_reader import make_speaking
from test_generator import make_generator
from toy import make_toy

from ldpol.archive import Archive, Grid
from ldpol.distillation.reader import grammar_of
from ldpol.evaluation.metrics import action_distance
from ldpol.evaluation.protocol import evaluate, open_context
from ldpol.evaluation.suites import (
    ALL,
    Composition,
    Damages,
    Guidance,
    HeldOutRegion,
    Reconstruction,
    Sentences,
    Sequencing,
    Steadiness,
)
from ldpol.evaluation.tables import as_markdown, as_text
from ldpol.hooks import Hooks
from ldpol.language.captions import captions
from ldpol.language.claims import satisfied
from ldpol.model.answering import Kernel
from ldpol.model.verified import make_bank, round_draws
from ldpol.networks import MLP
from ldpol.planning.choosing import first, from_archive, from_generator
from ldpol.planning.sequencing import draw_sequences, play_sequences
from ldpol.player import make_player, sample_policies, score_policies
from ldpol.reference import Split, reevaluate
from ldpol.regions import Region
from ldpol.rollout import rollout
from ldpol.tasks import damaged

SHAPE, GRID = MLP(3, 2, (6,)), Grid((4, 4), (0.0, 0.0), (1.0, 1.0))
ELITES = 12
TASK = make_toy(episode_length=20, noise=0.2, width=9.0)
RECONSTRUCTION = Reconstruction(unseen=8, uniform=8)
GUIDANCE = Guidance(scales=(1.0, 2.0), conditions=5, diverse=2, samples=2, observations=8)
COMPOSITION = Composition(conditions=5)
REGION = HeldOutRegion(draws=1)
STEADINESS = Steadiness(plays=2)
DAMAGES = Damages(trials=4, repeats=2, episodes=3, strengths=(0.0, 0.5), chunk=16)
SENTENCES = Sentences(elites=8, ranks=2, draws=4, examples=2)
SEQUENCING = Sequencing(
    sequences=3, segments=2, episodes=2, settle=5, candidates=(1, 2), horizon=30, look_ahead_episodes=1, chunk=2
)


def with_bank(model):
    """Six verified draws of random latents, worth 0 to 5."""
    random = np.random.default_rng(3)
    latents, achieved = random.normal(size=(6, *model.autoencoder.latent)), random.random((6, 2)).astype(np.float32)
    draws = round_draws(jnp.asarray(latents, jnp.float32), jnp.asarray(achieved), jnp.full(1, 0.02))
    zero = np.zeros(6, np.float32)
    how = {"quality": zero, "log_weight": zero, "fitness": np.arange(6, dtype=np.float32)}
    bank = make_bank(draws, achieved, random.random((6, 1)).astype(np.float32), trait_names=["speed"], **how)
    return dataclasses.replace(model, bank=bank, kernel=Kernel(0.05, 0.3))


def renumber(key, numbers):
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


class Kept:
    """A memo in memory, which counts what it did not have."""

    def __init__(self):
        self.results, self.computed = {}, []

    def __call__(self, name, depends_on, compute):
        place = json.dumps([name, depends_on], sort_keys=True)
        if place not in self.results:
            self.computed.append(name)
            self.results[place] = compute()
        return self.results[place]


@pytest.fixture(scope="module")
def context():
    """Elites that do what the toy's rules say; the last two lie in the region that training left out."""
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), ELITES))
    player = make_player(TASK, SHAPE.apply, episodes=2, chunk=16)
    blank = Archive(policies, jnp.zeros(ELITES), jnp.zeros((ELITES, 2)), grid=GRID, task="toy", network=SHAPE)
    archive = reevaluate(blank, TASK, key=jax.random.key(1), player=player)
    archive = dataclasses.replace(archive, fitness=archive.fitness + 30.0)
    region = Region(((0.25, 0.25),), ((0.75, 0.5),))
    split = Split(archive, np.repeat([0, 2], [ELITES - 2, 2]), region)
    seen = np.random.default_rng(0).random((ELITES * 3, 3)).astype(np.float32)
    how = {"key": jax.random.key(0), "split": split, "player": player, "observations": lambda: seen}
    return open_context(make_generator(SHAPE, GRID), archive, TASK, **how)


@pytest.fixture(scope="module")
def speaking(context):
    """The same with a generator that can read."""
    return dataclasses.replace(context, generator=make_speaking(make_generator(SHAPE, GRID)))


def scored(context, targets, keys):
    """One policy per target, sampled and evaluated in one program, without the player."""
    model = context.generator
    program = jax.jit(
        lambda w, k: score_policies(TASK, SHAPE.apply, sample_policies(model.sample, w, k), k, episodes=2)
    )
    return program(targets, keys).score


def test_reconstruction(context):
    """Generated policies by a second way; what is held out and the ceiling are beside them."""
    found, arrays = RECONSTRUCTION.run(context)
    json.dumps(found, allow_nan=False)
    targets = context.reference.measures
    keys = renumber(jax.random.split(context.key_for("reconstruction"), 5)[1], jnp.arange(ELITES))
    score = scored(context, targets, keys)
    assert found["mem"] == pytest.approx(float(np.linalg.norm(score.measures - targets, axis=1).mean()), abs=1e-5)
    assert found["held_out"] == {} and found["held_out_box"]["policies"] == 2 and found["trained"]["policies"] == 10
    assert found["unseen"]["policies"] == 8 and found["uniform"]["policies"] == 8 and found["episodes"] == 2
    np.testing.assert_allclose(arrays["generated_measures"], score.measures, atol=1e-5)
    assert 0 < found["expected_coverage"] <= ELITES
    assert arrays["held_out"].sum() == 2 and arrays["box_low"].tolist() == [[0.25, 0.25]]


def test_guidance(context):
    """Scale 1 is the generator as it is, on the random numbers of its pair; metrics and diversity by a second way."""
    rows = GUIDANCE.run(context).metrics["guidance"]
    assert [row["scale"] for row in rows] == [1.0, 2.0]
    chosen = context.choose(5, "guidance/conditions")
    targets = context.reference.measures[chosen]
    score = scored(context, targets, renumber(context.key_for("guidance"), jnp.arange(5)))
    assert rows[0]["mem"] == pytest.approx(float(np.linalg.norm(score.measures - targets, axis=1).mean()), abs=1e-5)
    worth = score.fitness.mean() / context.reference.fitness[chosen].mean()
    assert rows[0]["reward_ratio"] == pytest.approx(float(worth), abs=1e-4)
    assert rows[0]["diversity"] > 0 and rows[0]["diversity"] != rows[1]["diversity"]
    json.dumps(rows, allow_nan=False)


def test_diversity_by_loop(context):
    seen = context.observations()
    seen = seen[context.random("guidance/observations").integers(0, len(seen), GUIDANCE.observations)]
    values = []
    for number, target in enumerate(context.reference.measures[context.choose(GUIDANCE.diverse, "guidance/diverse")]):
        keys = jax.random.split(jax.random.fold_in(context.key_for("guidance/diversity"), number), GUIDANCE.samples)
        made = [context.generator.sample(key, target, guidance=2.0) for key in keys]
        policies = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
        values.append(action_distance(SHAPE.apply, policies, jnp.asarray(seen)))
    found = dataclasses.replace(GUIDANCE, scales=(2.0,)).diversity(context)
    np.testing.assert_allclose(found, [np.mean(values)], rtol=1e-3)


def test_composition(context):
    found = COMPOSITION.run(context).metrics
    targets = context.reference.measures[context.choose(5, "composition/conditions")]
    score = scored(context, targets, renumber(context.key_for("composition"), jnp.arange(5)))
    expected = float(np.linalg.norm(score.measures - targets, axis=1).mean())
    assert found["composition"]["joint"]["mem"] == pytest.approx(expected, abs=1e-5)
    assert found["free"]["policies"] == 5
    json.dumps(found, allow_nan=False)


def test_composition_of_one_measure_is_left_out(context):
    task = dataclasses.replace(context.task, measure_names=("one",))
    found = COMPOSITION.run(dataclasses.replace(context, task=task)).metrics
    assert found == {"composition": {}, "free": {}}


def test_held_out_region(context):
    """Each way by a second one: what is asked for is what the hidden elites do, and neighbours are trained ones."""
    found = REGION.run(context).metrics["held_out_region"]
    json.dumps(found, allow_nan=False)
    assert (found["elites"], found["draws"], set(found["rows"])) == (2, 1, {"generated", "nearest", "ceiling"})
    labels = context.reference.measures
    targets, known = labels[-2:], labels[:-2]
    gaps = np.linalg.norm(targets[:, None] - known, axis=-1)
    assert found["distance"] == pytest.approx(float(gaps.min(1).mean()))

    def mem(score):
        return pytest.approx(float(np.linalg.norm(score.measures - targets, axis=-1).mean()), abs=1e-5)

    keys = renumber(context.key_for("held out region/generated"), jnp.arange(2))
    assert found["rows"]["generated"]["mem"] == mem(scored(context, targets, keys))
    for way, rows in {"nearest": gaps.argmin(1), "ceiling": np.array([ELITES - 2, ELITES - 1])}.items():
        keys = renumber(context.key_for(f"held out region/{way}"), jnp.arange(2))
        policies = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], context.archive.policies)  # noqa: B023
        played = score_policies(TASK, SHAPE.apply, policies, keys, episodes=2).score
        assert found["rows"][way]["mem"] == mem(played)


def test_held_out_region_shows_the_blind_model_beside_verified_draws(context):
    """A bank with one row that is always near: it answers every request, the diffusion model none."""
    shape = context.generator.autoencoder.latent
    draws = round_draws(jnp.zeros((1, *shape)), jnp.full((1, 2), 0.5), jnp.ones(shape[-1]))
    one = np.zeros(1, np.float32)
    bank = make_bank(draws, np.full((1, 2), 0.5), np.zeros((1, 0)), quality=one, log_weight=one, trait_names=())
    generator = dataclasses.replace(context.generator, bank=bank, kernel=Kernel(9.0, 54.0))
    metrics = REGION.run(dataclasses.replace(context, generator=generator)).metrics
    rows = metrics["held_out_region"]["rows"]
    assert (
        list(rows) == ["generated", "blind", "nearest", "ceiling"] and rows["generated"]["mem"] != rows["blind"]["mem"]
    )
    assert set(metrics["held_out_region"]["mem_less_nearest"]) == {"generated", "blind"}
    table = REGION.tables(metrics)[0]
    assert [row.name for row in table.rows] == [
        *("Generated", "by diffusion alone", "Nearest trained elites", "Hidden elites")
    ]


def test_no_held_out_region(context):
    split = dataclasses.replace(context.split, kind=np.zeros(ELITES, int))
    assert REGION.run(dataclasses.replace(context, split=split)).metrics == {"held_out_region": {}}


def test_steadiness(context):
    """Every play is of the same policies; the elites' first is the reference."""
    found = STEADINESS.run(context).metrics["steadiness"]
    assert [row["episodes"] for row in found["rows"]] == [2, 4]
    targets = context.reference.measures
    draws = renumber(context.key_for("steadiness/draws"), jnp.arange(ELITES))
    policies = sample_policies(context.generator.sample, targets, draws)
    plays = []
    for number in range(2):
        keys = renumber(context.key_for(f"steadiness/generated {number}"), jnp.arange(ELITES))
        plays.append(score_policies(context.task, SHAPE.apply, policies, keys, episodes=2).score.measures)
    moved = np.linalg.norm(plays[0] - plays[1], axis=-1).mean()
    assert found["repeat_generated"] == pytest.approx(float(moved), abs=1e-5) and moved > 0
    away = np.linalg.norm((plays[0] + plays[1]) / 2 - targets, axis=-1).mean()
    assert found["rows"][1]["mem"] == pytest.approx(float(away), abs=1e-5)
    json.dumps(found, allow_nan=False)


def test_damage(context):
    """The champion and what a search found again, one damaged task at a time, with the judges' episodes."""
    logged, kept = [], Kept()
    hooks = Hooks(log=lambda *what: logged.append(what), memo=kept)
    context = dataclasses.replace(context, generator=with_bank(context.generator), hooks=hooks)
    found = DAMAGES.run(context).metrics["damage"]
    json.dumps(found, allow_nan=False)
    assert logged == [("damage by gravity and friction", 0, {"left_out": "toy cannot change them"})]
    assert [one["name"] for one in found["damages"]] == [
        f"actuator {i} {how}" for how in ("dead", "at 0.5") for i in (1, 2)
    ]
    assert {name: one["policies"] for name, one in found["ways"].items()} == {"bank": 6, "archive": 12, "same_bytes": 12, "random": 6}  # fmt: skip  # noqa: E501
    best = jax.tree.map(lambda leaf: leaf[np.argmax(context.archive.fitness)], context.archive.policies)
    keys = [jax.random.fold_in(jax.random.fold_in(context.key_for("damage/judges"), i), 0) for i in range(3)]
    for damage, one in zip(DAMAGES.damages(TASK), found["damages"], strict=True):
        worth = [rollout(damaged(TASK, damage), SHAPE.apply, best, key).fitness for key in keys]
        assert one["champion"] == pytest.approx(float(np.mean(worth)), abs=1e-3)
    assert found["healthy"] == pytest.approx(float(context.archive.fitness.max()))
    assert all(len(one["curve"]) == 4 for one in found["ways"].values())
    assert DAMAGES.run(context).metrics["damage"] == found and kept.computed == ["damage_1_1"]


def test_damage_needs_verified_draws(context):
    assert DAMAGES.run(context).metrics == {"damage": {}}
    blind = dataclasses.replace(context, generator=with_bank(context.generator))
    assert dataclasses.replace(DAMAGES, strengths=()).run(blind).metrics == {"damage": {}}


def test_sequencing(context):
    """Both halves of the shared program are what the library rolls out when asked for each alone."""
    kept = Kept()
    found, arrays = SEQUENCING.run(dataclasses.replace(context, hooks=Hooks(memo=kept)))
    found = found["sequencing"]
    json.dumps(found, allow_nan=False)
    assert (found["sequences"], found["segments"], found["steps"], found["settle"]) == (3, 2, 10, 5)
    scores = next(iter(kept.results.values()))["score"]
    targets = jnp.asarray(draw_sequences(context.key_for("sequencing/sequences"), context.reference.measures, 3, 2))
    keys = renumber(context.key_for("sequencing"), jnp.arange(3))
    model, archive = context.generator, context.archive
    ways = {
        0: first(from_generator(model.sample, 1)),
        3: first(from_archive(archive.policies, jnp.asarray(context.reference.measures))),
    }
    for start, choose in ways.items():
        play = jax.jit(
            lambda w, k: play_sequences(context.task, model.apply, choose, w, k, episodes=2, settle=5)  # noqa: B023
        )
        alone = play(targets, keys)
        np.testing.assert_allclose(scores["fitness"][start : start + 3], alone.fitness, atol=1e-3)
        np.testing.assert_array_equal(scores["length"][start : start + 3], alone.length)
    assert found["nearest_elite"]["fitness"] == pytest.approx(float(alone.fitness.mean()), abs=1e-3)
    assert found["generated_less_nearest_elite"]["fitness"]["value"] == pytest.approx(
        found["generated"]["fitness"] - found["nearest_elite"]["fitness"], abs=1e-3
    )
    first_episodes = np.asarray(scores["length"])[3:6, :1].mean()
    assert found["lookahead_less_nearest_elite"]["length"]["value"] == pytest.approx(
        found["lookahead"]["length"] - first_episodes, abs=1e-3
    )
    assert found["lookahead"]["episodes"] == 1 and found["lookahead"]["look_ahead"] == 2 * 2 * 30
    assert [row["candidates"] for row in found["lookahead_by_candidates"]] == [1, 2]
    assert found["lookahead_by_candidates"][0]["look_ahead"] == 0  # one candidate needs none
    assert found["lookahead_by_candidates"][1]["survival"] == found["lookahead"]["survival"]
    assert arrays["generated_measures"].shape == (20, 2) and arrays["nearest_elite_alive"].shape == (20,)
    np.testing.assert_array_equal(arrays["targets"], targets[0])


def test_sequences_need_means_over_steps(context):
    """What cannot be told of a part of an episode is left out, with a line that says so, before any work."""
    said = []
    task = dataclasses.replace(context.task, reduce="last", episode_length=7)
    SEQUENCING.check_task(task)
    hooks = Hooks(log=lambda suite, step, metrics: said.append((suite, metrics["left_out"])))
    found = SEQUENCING.run(dataclasses.replace(context, task=task, hooks=hooks)).metrics
    assert found == {"sequencing": {}} and SEQUENCING.tables(found) == []
    assert said == [("sequencing", "the measures of toy are not means over steps: a segment has none")]


def test_language(speaking):
    """Every claim again, one policy at a time: the sentence read, a policy evaluated with its pair's keys."""
    found = SENTENCES.run(speaking).metrics
    json.dumps(found, allow_nan=False)
    rows, model, traits = speaking.choose(8, "language/elites"), speaking.generator, np.asarray(speaking.archive.traits)
    grammar = grammar_of(TASK, traits[:-2])  # the last two lie in the region
    names, draw = grammar.levels.names, jax.jit(lambda model, key, text: model.sample(key, text=text, guidance=2.0))
    play = jax.jit(lambda policy, keys: score_policies(TASK, SHAPE.apply, policy, keys, episodes=2).traits)
    for split in ("train", "held_out"):
        hold, chance, made = 0, 0.0, 0
        for i, row in enumerate(rows):
            said = captions(grammar, traits[row], count=1, seed=(21, int(row)), split=split)[0]
            keys = renumber(speaking.key_for("language"), jnp.array([i]))
            policy = draw(model, jax.random.split(keys[0])[0], model.read([said.text])[0])
            reached = play(jax.tree.map(lambda leaf: leaf[None], policy), keys)[0]
            hold += satisfied(said.claims, names, reached).sum()
            chance += np.mean([satisfied(said.claims, names, one) for one in traits], 0).sum()
            made += len(said.claims)
        assert found["language"][f"{split}_satisfaction"] == pytest.approx(hold / made)
        assert found["language"][split]["chance"]["value"] == pytest.approx(chance / made)
        assert found["language"][split]["ceiling"]["value"] > found["language"][split]["chance"]["value"]
    assert len(found["language"]["examples"]) == 2 * 2 and len(found["language"]["examples"][0]["claims"]) >= 1
    assert [row["asked"] for row in found["quality"]] == [0.25, 0.75]


def test_a_model_without_language_has_nothing_to_say(context):
    assert SENTENCES.run(context).metrics == {"language": {}, "quality": []}


def test_sequences_of_sentences(speaking):
    """Sentences and the elites they are true of are rolled out beside the rest, which they do not change."""
    kept = Kept()
    found = SEQUENCING.run(dataclasses.replace(speaking, hooks=Hooks(memo=kept))).metrics["sequencing"]
    json.dumps(found, allow_nan=False)
    fitness = next(iter(kept.results.values()))["score"]["fitness"]
    assert len(fitness) == 4 * 3
    means = np.asarray(fitness).reshape(4, -1).mean(1)
    assert found["language"]["generated"]["fitness"]["value"] == pytest.approx(means[2], abs=1e-3)
    assert found["language"]["elite"]["fitness"]["value"] == pytest.approx(means[3], abs=1e-3)
    assert found["nearest_elite"]["fitness"] == pytest.approx(means[1], abs=1e-3)


def test_what_is_kept_is_not_computed_again(context):
    """A suite is its settings: an equal one finds its results, one with other settings does not."""
    kept, suites = Kept(), (GUIDANCE, COMPOSITION, REGION)
    context = dataclasses.replace(context, hooks=Hooks(memo=kept))
    before = [suite.run(context).metrics for suite in suites]
    assert len(kept.computed) == 1 + 2 + 3
    blind = dataclasses.replace(context, player=dataclasses.replace(context.player, play=None))
    assert [dataclasses.replace(suite).run(blind).metrics for suite in suites] == before
    assert len(kept.computed) == 6
    HeldOutRegion(draws=2).run(context)
    assert kept.computed[6:] == [f"held_out_region_{way}" for way in ("generated", "nearest", "ceiling")]


def test_every_suite_writes_its_tables(speaking):
    """On a console and in a document the same rows; a suite that was not run writes none."""
    suites = (RECONSTRUCTION, GUIDANCE, COMPOSITION, SENTENCES, SEQUENCING, REGION, STEADINESS, DAMAGES)
    assert tuple(map(type, suites)) == ALL
    speaking = dataclasses.replace(speaking, generator=with_bank(speaking.generator))
    for suite in suites:
        assert suite.tables({}) == []
        tables = suite.tables(suite.run(speaking).metrics)
        assert tables
        for table in tables:
            lines, rows = as_text(table).splitlines(), as_markdown(table).splitlines()
            assert lines[0].startswith(table.title)
            for number, row in enumerate(table.rows):
                assert lines[1 + number].startswith(row.name) and rows[2 + number].startswith(f"| {row.name} |")


def test_evaluate_merges_the_suites(context):
    how = {"key": context.key, "split": context.split, "player": context.player}
    found = evaluate(context.generator, context.archive, TASK, suites=(RECONSTRUCTION, REGION), **how)
    assert found["policies"] == ELITES and found["held_out_region"]["elites"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "walker"}, "this archive is of task 'walker'"),
        ({"grid": Grid((2, 2), (0.0, 0.0), (1.0, 1.0))}, "does not belong to the archive"),
    ],
)
def test_what_does_not_belong_together(context, change, said):
    archive = dataclasses.replace(context.archive, **change)
    with pytest.raises(ValueError, match=said):
        evaluate(context.generator, archive, TASK, key=context.key, player=context.player)


def test_suites_that_do_not_fit_the_task(context):
    with pytest.raises(ValueError, match="does not split into 7 equal segments"):
        evaluate(context.generator, context.archive, TASK, key=context.key, suites=(Sequencing(segments=7),))
