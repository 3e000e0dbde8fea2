"""Which elites the decoder reproduces: against a decoder and a game that can be written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.archive import Grid
from ldpol.experiments import defaults, session, verifying
from ldpol.types import Behaviour, Score

GRID = Grid((10, 10), (0.0, 0.0), (2.0, 2.0))
COUNT = 12
MEASURES = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (COUNT, 2)), jnp.float32)
POSTERIOR = (
    jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None] * jnp.ones((2, 2, 1)),
    jnp.full((COUNT, 2, 2, 1), 0.3),
)


@pytest.fixture
def config():
    config = defaults.base("walker2d")
    config.rollout.chunk = 8
    config.train.verify.rounds = 2
    return config


@jax.jit
def decode(latents, told):
    return {"latent": latents, "told": told}


@jax.jit
def play(policies, keys):
    """A game in which a policy overshoots what it was told by a hundredth of the mean of its latent."""
    del keys
    over = 0.01 * policies["latent"].mean((1, 2, 3))
    measures = GRID.unscaled(policies["told"] + over[:, None])
    return Behaviour(Score(over, measures, over), jnp.zeros((len(over), 0)))


def verify(config, folder, about=None, done=lambda number, found: None, key=0, play=play):
    return verifying.play_draws(
        config,
        POSTERIOR,
        MEASURES,
        decode,
        play,
        GRID,
        jax.random.key(key),
        folder,
        about or {"a": 1},
        session.Timer(),
        done,
    )


def test_a_miss_is_the_distance_from_told_to_reached(config, tmp_path):
    """Latents are an elite's number and noise; two draws and four places make that small."""
    found = []
    missed = verify(config, tmp_path, done=lambda number, what: found.append((number, what["missed"])))
    np.testing.assert_allclose(missed, 0.01 * np.sqrt(2) * np.arange(COUNT), atol=0.01)
    assert (missed != 0.01 * np.sqrt(2) * np.arange(COUNT)).any()
    assert [number for number, _ in found] == [1, 2]
    np.testing.assert_allclose(np.mean([mean for _, mean in found]), missed.mean(), rtol=1e-5)


def test_kept_rounds_are_not_played_again(config, tmp_path):
    """An interruption after the first round: what follows is bit for bit what it would have been."""
    whole = verify(config, tmp_path / "whole")
    config.train.verify.rounds = 1
    verify(config, tmp_path / "parts")
    config.train.verify.rounds = 2
    np.testing.assert_array_equal(verify(config, tmp_path / "parts"), whole)
    told = []
    kept = verify(config, tmp_path / "parts", play=None, done=lambda number, found: told.append(number))
    np.testing.assert_array_equal(kept, whole)
    assert told == [1, 2]  # the history of an interrupted training lacks nothing
    assert not np.array_equal(verify(config, tmp_path / "other", key=1), whole)


def test_rounds_of_another_decoder_are_played_again(config, tmp_path):
    played = []

    def watched(policies, keys):
        played.append(len(keys))
        return play(policies, keys)

    verify(config, tmp_path, play=watched)
    verify(config, tmp_path, play=watched)
    assert sum(played) == 2 * 16  # two rounds of two chunks
    verify(config, tmp_path, about={"a": 2}, play=watched)
    assert sum(played) == 4 * 16


def test_without_rounds_all_elites_are_trusted_alike(config, tmp_path):
    config.train.verify.rounds = 0
    np.testing.assert_array_equal(verifying.trust(verify(config, tmp_path), 1.0), np.ones(COUNT))
    assert not list(tmp_path.iterdir())


def test_trust_by_hand():
    """Misses of zero, one, and two medians, at a tolerance of one: a Gaussian, and the same in any unit."""
    expected = np.exp([0.0, -0.5, -2.0])
    for unit in (0.01, 7.0):
        found = verifying.trust(unit * np.array([0.0, 1.0, 2.0]), 1.0)
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-6)
    np.testing.assert_allclose(verifying.trust(np.array([0.0, 1.0, 2.0]), 1e3), 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="tolerance of verified elites must be positive, found 0"):
        verifying.trust(np.ones(3), 0.0)
