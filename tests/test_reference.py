"""Elites evaluated again, and which of them training may see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import make_toy

from ldpol.archive import Archive, Grid, take
from ldpol.networks import MLP
from ldpol.player import make_player
from ldpol.reference import IN_BOX, TRAINED, reevaluate, split

GRID = Grid((10, 10), (0.0, 0.0), (1.0, 1.0))
SHAPE = MLP(3, 2, (6,))
BOX = ((0.3, 0.3), (0.6, 0.7))


@pytest.fixture(scope="module")
def archive():
    """Elites whose stored measures are luck: anything in the unit square."""
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), 60))
    measures = jax.random.uniform(jax.random.key(1), (60, 2))
    return Archive(policies, jnp.zeros(60), measures, grid=GRID, task="toy", network=SHAPE)


def inside(measures):
    low, high = np.asarray(BOX)
    return ((np.asarray(measures) >= low) & (np.asarray(measures) <= high)).all(1)


def test_no_trained_label_lies_in_the_box(archive):
    """The labels are the re-evaluated means: a split of them leaves none inside, a split of the stored draws does."""
    labels = np.random.default_rng(0).uniform(0, 1, (60, 2)).astype(np.float32)
    again = dataclasses.replace(archive, measures=jnp.asarray(labels))
    found = split(again, fraction=0.1, box=BOX, seed=3)
    assert not inside(found.trained.measures).any() and not inside(found.held_out.measures).any()
    assert inside(found.in_box.measures).all() and (found.kind == IN_BOX).sum() == inside(labels).sum() > 0
    assert len(found.trained) + len(found.held_out) + len(found.in_box) == 60
    leaky = split(archive, fraction=0.1, box=BOX, seed=3)
    assert inside(take(again, leaky.kind == TRAINED).measures).any()


def test_the_random_part_depends_on_the_seed_alone(archive):
    one, same, other = (split(archive, fraction=0.25, seed=seed).kind for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one == 1).sum() == 15 and not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"box": ((0.5,), (0.6,))}, "needs 2 bounds per corner"),
        ({"box": ((0.6, 0.6), (0.5, 0.7))}, "low to high"),
        ({"fraction": 1.0}, r"fraction must be in \[0, 1\)"),
        ({"fraction": 0.99}, "only 1 of 60 elites are left"),
        ({"box": ((0.0, 0.0), (1.0, 1.0))}, "only 0 of 60 elites are left"),
    ],
)
def test_splits_that_cannot_be(archive, settings, said):
    with pytest.raises(ValueError, match=said):
        split(archive, **settings)


def test_reevaluated_elites_are_what_they_do(archive):
    """Other numbers, the same policies; the player is traced once, however often it is asked."""
    task = make_toy(noise=0.2, width=9.0)
    player = make_player(task, SHAPE.apply, episodes=3, chunk=16)
    found = reevaluate(archive, task, key=jax.random.key(2), player=player)
    expected = player(archive.policies, jax.random.key(2))
    np.testing.assert_array_equal(found.measures, expected.score.measures)
    np.testing.assert_array_equal(found.fitness, expected.score.fitness)
    np.testing.assert_array_equal(found.traits, expected.traits)
    jax.tree.map(np.testing.assert_array_equal, found.policies, archive.policies)
    assert player.play._cache_size() == 1
    assert not np.array_equal(reevaluate(archive, task, key=jax.random.key(3), player=player).fitness, found.fitness)
    with pytest.raises(ValueError, match="of task 'toy'"):
        reevaluate(archive, make_toy(name="other"), key=jax.random.key(0), player=player)
