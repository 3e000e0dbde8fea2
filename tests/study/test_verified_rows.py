"""What a sceptic would verify instead of draws of a diffusion model: tables that answer with what came nearest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import make_generator
from test_study import TINY, in_memory
from toy import make_toy

from ldpol import precision, storage, study
from ldpol.archive import Archive, Grid
from ldpol.baselines import cloned, verified
from ldpol.baselines.cloned import ClonedConfig
from ldpol.distillation import DistillConfig
from ldpol.distillation.config import VerifyConfig
from ldpol.errors import UserError
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.model.answering import Kernel
from ldpol.model.verified import make_bank, round_draws
from ldpol.networks import MLP
from ldpol.player import make_player
from ldpol.reference import split
from ldpol.settings import revise
from ldpol.study import StudyConfig, StudyContext, methods
from ldpol.study.context import Trained, as_score, digest
from ldpol.study.run import evaluate_model
from ldpol.study.verified import VerifiedClone, VerifiedElites, VerifiedLatents, plays
from ldpol.train_loop import OptimiserConfig

SHAPE, GRID = MLP(3, 2, (20, 20)), Grid((4, 4), (0.0, 0.0), (1.0, 2.0))
BASE = revise(DistillConfig(), verify={"rounds": 2, "further": 1})


@pytest.fixture(scope="module")
def context():
    """Random policies on the toy task whose stored measures are anything; nothing is ever trained on them."""
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), 20))
    policies = jax.tree.map(lambda leaf: 3.0 * leaf, policies)
    measures = jax.random.uniform(jax.random.key(1), (20, 2))
    archive = Archive(policies, jnp.linspace(1.0, 2.0, 20), measures, GRID, "toy", SHAPE)
    task = make_toy(noise=0.5)
    player = make_player(task, SHAPE.apply, episodes=2, chunk=8)
    config = StudyConfig(base=BASE, fraction=0.2)
    parts, key = split(archive, fraction=config.fraction), jax.random.key(3)
    return StudyContext(config, parts, task, player, as_score(archive), key, lambda name: Hooks())


@pytest.fixture(scope="module")
def generator():
    """One with three verified draws, each of which did something else than was asked for."""
    plain = make_generator(SHAPE, GRID)
    latents = jax.random.normal(jax.random.key(7), (3, *plain.autoencoder.latent))
    draws = round_draws(latents, jnp.array([[0.2, 0.2], [0.4, 0.4], [0.6, 0.6]]), jnp.full(latents.shape[-1], 0.0625))
    achieved = np.array([[0.6, 0.8], [0.2, 0.8], [0.2, 0.2]])
    how = {"quality": np.zeros(3), "log_weight": np.zeros(3), "trait_names": ("speed", "height")}
    return dataclasses.replace(plain, bank=make_bank(draws, achieved, np.ones((3, 2)), **how), kernel=Kernel(0.1, 0.6))


@pytest.mark.parametrize(("wanted", "row"), [((0.62, 1.7), 0), ((0.3, 1.5), 1), ((0.1, 0.1), 2)])
def test_the_latent_that_came_nearest_is_decoded(generator, wanted, row):
    """Nearest in what was achieved, scaled to the grid, not in what the decoder was given."""
    table = verified.fit_latents(generator)
    found = jax.jit(verified.generate_from_latents)(table, jax.random.key(0), jnp.array(wanted))
    bank = generator.bank
    latent, given = bank.levels[row] * bank.step[None, None], bank.given[row] / 255
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, generator.decode(latent, given))


def test_a_table_of_latents_keeps_no_more_than_it_needs(generator, context):
    """No denoiser and no traits; a row of it is as the study stores any other."""
    made = dataclasses.replace(context, kept={f"training-{digest(BASE)}": Trained(generator, None, 7.0)})
    model = VerifiedLatents(BASE, "int8").fit(made)
    assert model.bytes == storage.nbytes(model.tree) < generator.nbytes and model.seconds == 7.0
    assert model.tree.bank.table.shape == (3, 0) and model.tree.bank.achieved.dtype == jnp.uint16
    wide = precision.expand(model.tree)
    np.testing.assert_array_equal(wide.bank.measures, generator.bank.measures)
    np.testing.assert_array_equal(wide.bank.step, generator.bank.step)  # a number that float16 holds
    without = dataclasses.replace(generator, bank=None)
    with pytest.raises(UserError, match="kept no verified draws"):
        verified.fit_latents(without)


def test_rounded_elites_are_chosen_by_what_they_did(context):
    """Labels are means over as many plays as the training spends, of the policies as they are stored.

    Three rounds, of which all draws are kept and so evaluated once more.
    """
    like = methods.LatentDiffusion(BASE, "int8")
    row, trained = VerifiedElites(like, "int8"), context.split.trained
    rounded = jax.vmap(lambda one: precision.expand(precision.compress(one, "int8")))(trained.policies)
    key = key_for(context.key, "verified elites")
    plays = [context.player(rounded, jax.random.fold_in(key, number)).score for number in range(6)]
    fitness, measures = row.labels(context)
    np.testing.assert_allclose(measures, np.mean([one.measures for one in plays], 0), atol=1e-6)
    np.testing.assert_allclose(fitness, np.mean([one.fitness for one in plays], 0), rtol=1e-5)
    assert not np.allclose(measures, trained.measures, atol=0.05) and not np.allclose(plays[0].measures, measures)
    budget = 6 * storage.nbytes(precision.compress(SHAPE.init(key), "int8"))
    generator = make_generator(SHAPE, GRID)
    made = dataclasses.replace(context, kept={f"training-{digest(BASE)}": Trained(generator, None, 0.0)})
    whole = like.fit(made).bytes
    model = row.fit(made)
    assert model.bytes <= whole and len(model.tree.measures) <= len(trained) and whole > budget
    kept = {tuple(one) for one in np.asarray(model.tree.measures).tolist()}
    assert kept <= {tuple(one) for one in np.asarray(measures).tolist()}


def test_a_training_that_verifies_nothing_has_no_equal(context):
    row = VerifiedElites(methods.LatentDiffusion(revise(BASE, verify={"rounds": 0})), "int8")
    with pytest.raises(UserError, match="set verify.rounds"):
        row.labels(context)


def test_a_clone_that_is_never_verified_is_refused(clone_row):
    row, _, _, context = clone_row
    with pytest.raises(UserError, match="set verify.rounds"):
        dataclasses.replace(row, verify=VerifyConfig(rounds=0, rows=40)).fit(context)


def test_plays_by_hand():
    """Four rounds, and 3,072 of 6,400 draws once more, twice more, or none."""
    for again, expected in ((0, 4), (1, 6), (2, 8)):
        assert plays(VerifyConfig(again=again), 1600) == expected
    assert plays(VerifyConfig(), 100) == 8  # there are no more draws than 400


@pytest.fixture(scope="module")
def clone_row(context):
    """A row of a clone that was never trained, what its rounds left, and its model."""
    sizes = ClonedConfig((8,), embedding=8, octaves=2, joint=4, noise=0.1)
    params = cloned.ConditionedPolicy(2, sizes).init(jax.random.key(2), jnp.ones(2), jnp.ones((1, 3)))["params"]
    tree = cloned.Cloned(jax.tree.map(lambda leaf: 3.0 * leaf, params), jnp.zeros(3), jnp.ones(3), sizes, 2, GRID)
    plain, kept = methods.Cloned(sizes, OptimiserConfig(steps=1), "float16"), {}

    def memo(name, depends_on, compute):
        kept[name] = compute()
        return kept[name]

    name = f"clone-{digest(plain.config, plain.optimiser)}"
    made = dataclasses.replace(context, kept={name: (tree, 5.0)}, hooks=lambda name: Hooks(memo=memo))
    row = VerifiedClone(plain, VerifyConfig(rounds=2, further=1, rows=40))
    programs, share = [], StudyContext.play_shared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudyContext, "play_shared", lambda *what: programs.append(share(*what)) or programs[-1])
        model = row.fit(made)
    assert len(programs) == 1  # all rounds are played by one compiled program
    return row, kept, model, made


def test_a_clone_is_evaluated_as_often_as_draws_are(clone_row, context):
    """Three rounds of all trained elites; forty requests are kept, with the mean of what they achieved twice."""
    _, kept, model, _ = clone_row
    assert sorted(kept) == ["verify-0", "verify-1", "verify-2", "verify-3"]
    *rounds, again = (np.asarray(GRID.scaled(kept[name]["score"]["measures"])) for name in sorted(kept))
    achieved = np.concatenate(rounds)
    assert achieved.shape == (3 * len(context.split.trained), 2) and len(achieved) > 40
    requests = model.tree.requests
    assert requests.given.shape == requests.achieved.shape == again.shape == (40, 2)
    first = 2.0 * np.asarray(requests.achieved) / 60000 - again
    assert (np.abs(first[:, None] - achieved[None]).max(-1).min(1) < 1e-4).all()
    assert np.abs(again - first).max() > 0.01
    assert model.bytes == storage.nbytes(model.tree) and model.seconds == 5.0


def test_a_clone_answers_with_the_request_that_came_nearest(clone_row):
    """What is given to the clone is what achieved the target, not the target."""
    _, _, model, _ = clone_row
    requests = model.tree.requests
    own = GRID.unscaled(np.asarray(requests.achieved[7], np.float32) / 60000)
    first = int(np.flatnonzero((np.asarray(requests.achieved) == np.asarray(requests.achieved[7])).all(1))[0])
    style = jax.jit(model.generate)(model.tree, jax.random.key(0), jnp.asarray(own, jnp.float32))
    clone = precision.expand(model.tree.clone)
    expected = cloned.generate(clone, None, jnp.asarray(GRID.unscaled(np.asarray(requests.given[first]) / 255)))
    for one, other in zip(style, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    seen = jnp.array([0.1, -0.3, 0.7])
    action = model.apply(precision.expand(model.tree), style, seen)
    np.testing.assert_allclose(action, cloned.apply(clone, expected, seen), atol=1e-5)


def test_all_rows_can_be_evaluated(clone_row):
    _, _, model, context = clone_row
    score = evaluate_model(model, context)
    assert score.measures.shape == (20, 2) and np.isfinite(score.fitness).all()


def test_a_whole_study_of_rows_that_verify():
    """One training for generator and table; what is kept is not evaluated again; a table has one answer each."""
    plain, task = MLP(3, 2, (8,)), make_toy(noise=0.2)
    policies = jax.vmap(plain.init)(jax.random.split(jax.random.key(0), 24))
    policies = jax.tree.map(lambda leaf: 3.0 * leaf, policies)
    grid = Grid((4, 4), (0.0, 0.0), (1.0, 1.0))
    archive = Archive(policies, jnp.zeros(24), jnp.zeros((24, 2)), grid, "toy", plain)
    base = revise(TINY, verify={"rounds": 1, "further": 1})
    ours = methods.LatentDiffusion(base)
    clone = methods.Cloned(ClonedConfig((8,), 8, 2, 4, 8, 4), TINY.autoencoder.optimiser)
    rows = {"ours": ours, "table": VerifiedLatents(base), "elites": VerifiedElites(ours)}
    rows["clone"] = VerifiedClone(clone, base.verify)
    config, kept = StudyConfig(base=base, fraction=0.2, conditions=4, samples=2, states=4), {}
    first = list(study.run(rows, archive, task, config, seeds=(0,), hooks=in_memory(kept)))
    numbers = {one.name: one.numbers for one in first}
    assert list(numbers) == ["ceiling", *rows] and numbers["ours"]["seconds"] == numbers["table"]["seconds"] > 0
    assert max(numbers["table"]["bytes"], numbers["elites"]["bytes"]) <= numbers["ours"]["bytes"]
    for name in ("table", "elites", "clone"):
        assert numbers[name]["diversity"] == pytest.approx(0.0, abs=1e-6) and np.isfinite(numbers[name]["mem"])
    rounds = ["verify-0", "verify-1"]
    for start, more in (("training-", "again-0"), ("verified-elites-", "2 verify-3"), ("verified-clone-", "2")):
        parts = [part for name, part, _ in kept if name.startswith(f"seed0/{start}") and "verify" in part]
        assert sorted(parts) == [*rounds, *f"verify-{more}".split()]
    made = set(kept)
    assert list(study.run(rows, archive, task, config, seeds=(0,), hooks=in_memory(kept))) == first
    assert set(kept) == made
