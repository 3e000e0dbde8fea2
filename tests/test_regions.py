"""Regions of the measure space: what lies in them, and that no elite in one is trained on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.archive import Archive, Grid
from ldpol.errors import UserError
from ldpol.networks import MLP
from ldpol.reference import split
from ldpol.regions import Region, checkerboard, make_region, square

GRID = Grid((20, 20), (0.0, 0.0), (1.0, 1.0))
SHAPE = MLP(3, 2, (2,))
BOUNDS = ((0.0, 0.0), (1.0, 1.0))


def in_blocks(x, y):
    """The checkerboard's blocks by hand: NumPy's permutation of 16 numbers, the first eight of them."""
    hidden = {divmod(int(one), 4) for one in np.random.default_rng(5).permutation(16)[:8]}
    return np.array([(math.floor(4 * a), math.floor(4 * b)) in hidden for a, b in zip(x, y, strict=True)])


SHAPES = {
    "square": (square((0.55, 0.3), 0.3), lambda x, y: (abs(x - 0.55) <= 0.15) & (abs(y - 0.3) <= 0.15)),
    "l": (
        ([(0.3, 0.3), (0.3, 0.3)], [(0.5, 0.8), (0.8, 0.5)]),
        lambda x, y: (x >= 0.3) & (y >= 0.3) & (x <= 0.8) & (y <= 0.8) & ((x <= 0.5) | (y <= 0.5)),
    ),
    "half": (((0.55, 0.0), (1.0, 1.0)), lambda x, y: x >= 0.55),
    "checkerboard": (checkerboard((0.0, 0.0), (1.0, 1.0), blocks=4, seed=5), in_blocks),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_trained_label_lies_inside(shape):
    """Whatever the search stored: the labels decide, and all of those inside are hidden."""
    box, inside = SHAPES[shape]
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), 400))
    stored, labels = np.random.default_rng(1).uniform(0, 1, (2, 400, 2)).astype(np.float32)
    archive = Archive(policies, jnp.zeros(400), jnp.asarray(stored), grid=GRID, task="toy", network=SHAPE)
    found = split(dataclasses.replace(archive, measures=jnp.asarray(labels)), fraction=0.1, box=box, seed=3)
    for part in (found.trained, found.held_out):
        assert len(part) > 10 and not inside(*np.asarray(part.measures).T).any()
    assert inside(*np.asarray(found.in_box.measures).T).all()
    assert len(found.in_box) == inside(*labels.T).sum() > 10
    assert len(found.trained) + len(found.held_out) + len(found.in_box) == 400


def test_a_label_on_the_border_is_inside():
    """0.6 in float32 is more than 0.6; 0.7 is less."""
    region = Region(((0.3, 0.7),), ((0.6, 0.9),))
    assert region.holds(np.array([[0.6, 0.8], [0.5, 0.7], [0.601, 0.8], [0.5, 0.699]], np.float32)).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_a_square_by_hand():
    assert square((0.55, 0.55), 0.3) == Region(((0.4, 0.4),), ((0.7, 0.7),))


def test_a_checkerboard_hides_half_of_its_blocks_by_seed():
    board = checkerboard((0.0, 10.0), (1.0, 12.0), blocks=5, seed=0)
    assert len(set(board.low)) == 13 and set(board.low) <= {(a / 5, 10 + 2 * b / 5) for a in range(5) for b in range(5)}
    np.testing.assert_allclose(np.asarray(board.high) - np.asarray(board.low), [[0.2, 0.4]] * 13, atol=1e-6)
    assert board == checkerboard((0.0, 10.0), (1.0, 12.0), blocks=5, seed=0)
    assert board != checkerboard((0.0, 10.0), (1.0, 12.0), blocks=5, seed=1)


def test_one_box_and_several_are_written_alike():
    one = make_region((0.5, 0.5), (0.6, 0.6), BOUNDS)
    assert one == make_region([[0.5, 0.5]], [[0.6, 0.6]], BOUNDS) == Region(((0.5, 0.5),), ((0.6, 0.6),))
    assert make_region((), (), BOUNDS) == Region() and not Region().holds(np.zeros((2, 2))).any()


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (((0.1, 0.1), (0.2, 0.2)), ((0.3, 0.3),), "several boxes as many low corners as high ones"),
        (((0.1, 0.1), (0.2,)), ((0.3, 0.3), (0.3, 0.3)), "needs 2 bounds per corner"),
        (((0.1, 0.1), (0.4, 0.2)), ((0.3, 0.3), (0.3, 0.3)), "low to high"),
        ((math.nan, 0.1), (0.3, 0.3), "low to high"),
        ((0.1, 1.2), (0.3, 1.3), r"from \(0.1, 1.2\) to \(0.3, 1.3\) lies outside the measures"),
    ],
)
def test_boxes_that_do_not_fit(low, high, said):
    with pytest.raises(UserError, match=said):
        make_region(low, high, BOUNDS)


def test_shapes_that_cannot_be():
    with pytest.raises(UserError, match="side of a held-out square must be positive, found 0"):
        square((0.5, 0.5), 0.0)
    with pytest.raises(UserError, match="at least 2 blocks along a measure, found 1"):
        checkerboard((0.0, 0.0), (1.0, 1.0), blocks=1, seed=0)
