"""Which elites the decoder reproduces: against a decoder and a game that can be written out by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_toy

from ldpol.archive import Archive, Grid
from ldpol.distillation.bank import choose_draws, keep_draws
from ldpol.distillation.config import VerifyConfig, WeightsConfig
from ldpol.distillation.encoder import Posterior
from ldpol.distillation.reliability import gaps, reliability_weights, thin, verify_again, verify_draws
from ldpol.hooks import Hooks
from ldpol.networks import MLP
from ldpol.player import Player
from ldpol.rollout import policy_mesh
from ldpol.types import Behaviour, Score

GRID = Grid((10, 10), (0.0, 0.0), (2.0, 2.0))
COUNT = 12
MEASURES = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (COUNT, 2)), jnp.float32)
POSTERIOR = Posterior(
    jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None] * jnp.ones((1, 2, 2, 1)),
    jnp.full((COUNT, 2, 2, 1), 0.3),
)

WEIGHTS = jnp.linspace(0.5, 1.5, COUNT)


@jax.jit
def decode(latents, measures):
    return {"latent": latents, "measures": measures}


@jax.jit
def play(policies, keys):
    """A game in which a policy overshoots its measures by a hundredth of the mean of its latent."""
    del keys
    over = 0.01 * policies["latent"].mean((1, 2, 3))
    measures = GRID.unscaled(policies["measures"] + over[:, None])
    single = Score(over[:, None], measures[:, None], over[:, None])
    return Behaviour(Score(over, measures, over), jnp.zeros((len(over), 0)), single)


def errors(**how):
    return verify(**how).errors


def verify(rounds=2, key=0, hooks=Hooks(), play=play, further=0):  # noqa: B008
    return verify_draws(
        POSTERIOR,
        MEASURES,
        WEIGHTS,
        decode=decode,
        player=Player(play, 1, 8, policy_mesh()),
        grid=GRID,
        config=VerifyConfig(rounds=rounds, further=further),
        noise=0.0075,
        key=jax.random.key(key),
        depends_on={},
        hooks=hooks,
    )


def test_an_error_is_the_distance_from_the_given_measures_to_the_achieved():
    """Latents are an elite's number and noise; two draws and four places make that small."""
    logged = []
    found = errors(hooks=Hooks(log=lambda phase, number, metrics: logged.append((phase, number, metrics["error"]))))
    np.testing.assert_allclose(found, 0.01 * np.sqrt(2) * np.arange(COUNT), atol=0.01)
    assert (found != 0.01 * np.sqrt(2) * np.arange(COUNT)).any()
    assert [(phase, number) for phase, number, _ in logged] == [("verify", 1), ("verify", 2)]
    np.testing.assert_allclose(np.mean([mean for *_, mean in logged]), found.mean(), rtol=1e-5)


def test_rounds_that_were_kept_are_not_evaluated_again():
    """A third round after two that were kept: bit for bit what it would have been in one go."""
    kept = {}

    def memo(name, depends_on, compute):
        place = (name, depends_on["round"])
        kept[place] = kept[place] if place in kept else compute()
        return kept[place]

    whole = errors(rounds=3)
    errors(rounds=2, hooks=Hooks(memo=memo))
    np.testing.assert_array_equal(errors(rounds=3, hooks=Hooks(memo=memo)), whole)
    told = []
    log = lambda phase, number, metrics: told.append(number)  # noqa: E731
    np.testing.assert_array_equal(errors(rounds=3, hooks=replace(Hooks(memo=memo), log=log), play=None), whole)
    assert told == [1, 2, 3]  # the history of an interrupted training lacks nothing
    assert not np.array_equal(errors(rounds=3, key=1), whole)


def test_without_rounds_there_is_nothing_to_know():
    assert verify(rounds=0, play=None) is None


def test_kept_draws_are_what_was_evaluated():
    """Every row's policy is decoded again from what is kept, plays the game, and does what its row says."""
    verified = verify()
    fitness = jnp.arange(COUNT, dtype=jnp.float32) / 100
    archive = Archive({}, fitness, GRID.unscaled(MEASURES), grid=GRID, task="toy", network=MLP(3, 2, (4,)))
    config, weights = VerifyConfig(rows=15), WeightsConfig()
    kept = choose_draws(verified, archive, config, weights)
    bank = keep_draws(verified, kept, archive, make_toy(), config, weights)
    assert len(bank) == 15
    policies = decode(bank.levels * bank.step[None, None, None], bank.given / 255)
    again = GRID.scaled(play(policies, None).score.measures)
    np.testing.assert_allclose(bank.measures, np.clip(again, 0, 1), atol=0.51 / 255)
    # Fitness of the game is the overshoot, 0 ... 0.11; the elites' are 0.00, 0.01, ..., 0.11.
    overshoot = np.asarray(play(policies, None).score.fitness)
    np.testing.assert_allclose(bank.fitness, overshoot, atol=0.12 / 255)
    quality = np.asarray(bank.values)[:, bank.columns.index("quality")]
    np.testing.assert_allclose(quality, np.ceil(np.clip(overshoot * 100, 0, COUNT)) / COUNT, atol=1 / COUNT)


def test_kept_draws_are_known_by_the_means_of_all_their_episodes():
    """Played twice more, with a luck of .03 and of .06: .03 more measures and less fitness than at first."""
    first, rows, asked = verify(), np.array([1, 5, 20]), []

    def memo(name, depends_on, compute):
        found = compute()
        asked.append((name, depends_on, len(found["traits"])))
        score, luck = found["score"], 0.03 * len(asked)
        return found | {"score": score | {"measures": score["measures"] + luck, "fitness": score["fitness"] - luck}}

    how = {"decode": decode, "player": Player(play, 1, 8, policy_mesh()), "key": jax.random.key(0), "depends_on": {}}
    known = verify_again(first, rows, config=VerifyConfig(again=2), hooks=Hooks(memo=memo), **how)
    assert asked == [(f"verify-again-{number}", {"again": number}, 3) for number in range(2)]
    before, after = first.behaviour.score, known.behaviour.score
    luck = np.where(np.isin(np.arange(2 * COUNT), rows), 0.03, 0.0)
    np.testing.assert_allclose(after.measures, before.measures + luck[:, None], atol=1e-6)
    np.testing.assert_allclose(after.fitness, before.fitness - luck, atol=1e-6)
    np.testing.assert_array_equal(known.errors, first.errors)
    jax.tree.map(np.testing.assert_array_equal, first, verify())  # as it was
    same = verify_again(first, rows, config=VerifyConfig(again=0), hooks=Hooks(), **how)
    jax.tree.map(np.testing.assert_array_equal, same, first)


def test_further_rounds_draw_around_elites_that_no_draw_reaches():
    """Elite 11's latents overshoot by .11 sqrt(2), elite 0's by nothing: its neighbours need no more draws."""
    logged = []
    verified = verify(rounds=1, further=2, hooks=Hooks(log=lambda *one: logged.append(one)))
    assert [number for _, number, _ in logged] == [1, 2, 3] and verified.around.shape == (3 * COUNT,)
    np.testing.assert_array_equal(verified.around[:COUNT], np.arange(COUNT))
    reached = np.asarray(GRID.scaled(verified.behaviour.score.measures))
    targets = np.asarray(MEASURES)
    gap = np.linalg.norm(targets[:, None] - reached[:COUNT], axis=-1).min(1)
    often = np.bincount(verified.around[COUNT : 2 * COUNT], minlength=COUNT)
    np.testing.assert_allclose(often, COUNT * WEIGHTS * gap / (WEIGHTS * gap).sum(), atol=1.0)
    # Rows stand where they say: decoded once more, they do what their behaviour says.
    again = GRID.scaled(play(decode(verified.draws.latents, verified.draws.measures), None).score.measures)
    np.testing.assert_allclose(again, reached, atol=1e-6)
    missed = np.linalg.norm(reached - np.asarray(verified.draws.measures), axis=-1)
    np.testing.assert_allclose(verified.errors, [missed[verified.around == i].mean() for i in range(COUNT)], rtol=1e-5)
    gaps = [one["nearest"] for *_, one in logged]
    assert gaps[0] == pytest.approx(gap.mean(), rel=1e-5) and gaps[0] >= gaps[1] >= gaps[2]


def test_further_rounds_that_were_kept_are_the_same():
    kept = {}

    def memo(name, depends_on, compute):
        kept[name] = kept[name] if name in kept else compute()
        return kept[name]

    whole = verify(rounds=1, further=2)
    verify(rounds=1, further=1, hooks=Hooks(memo=memo))
    resumed = verify(rounds=1, further=2, hooks=Hooks(memo=memo))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert sorted(kept) == ["verify-0", "verify-1", "verify-2"]


def test_thin_by_hand():
    """Gaps 0, 1 and 2 at weights 5, 2 and 4: as often as 0 : 2 : 8, so the second not or once, else the third."""
    targets, achieved = np.array([[0.0], [3.0], [9.0]]), np.array([[0.0], [2.0], [7.0]])
    weights = np.array([5.0, 2.0, 4.0])
    np.testing.assert_array_equal(gaps(achieved, targets), [0.0, 1.0, 2.0])
    for seed in range(10):
        assert thin(gaps(achieved, targets), weights, jax.random.key(seed)).tolist() in ([1, 2, 2], [2, 2, 2])
    np.testing.assert_array_equal(np.sort(thin(gaps(targets, targets), np.ones(3), jax.random.key(0))), [0, 1, 2])


def test_weights_by_hand():
    """Errors of zero, one, and two medians, at a tolerance of one: a Gaussian, and the same in any unit."""
    expected = np.exp([0.0, -0.5, -2.0])
    for unit in (0.01, 7.0):
        found = reliability_weights(unit * np.array([0.0, 1.0, 2.0]), 1.0)
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-6)
    np.testing.assert_allclose(reliability_weights(np.array([0.0, 1.0, 2.0]), 1e3), 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="tolerance of verified elites must be positive, found 0"):
        reliability_weights(np.ones(3), 0.0)
