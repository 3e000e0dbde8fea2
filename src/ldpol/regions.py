"""Regions of the measure space, to keep from training: one box or several, which make every other shape.

A half-space is a box that ends at the measures' bound, an L is two boxes, a checkerboard is many.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ldpol.errors import UserError

Corner = tuple[float, ...]


class Region(NamedTuple):
    """K boxes, borders included; they may overlap.

    Attributes:
      low, high: two opposite corners `[M]` in task units for each box.
    """

    low: tuple[Corner, ...] = ()
    high: tuple[Corner, ...] = ()

    def holds(self, measures: Any) -> np.ndarray:
        """Return which measures `[N, M]` lie in one of the boxes, `[N]`."""
        found = np.zeros(len(measures), bool)
        # In float32, as measures are: a measure that was rounded to a border lies on it.
        places = np.asarray(measures, np.float32)
        for low, high in zip(self.low, self.high, strict=True):
            found |= ((places >= np.asarray(low, np.float32)) & (places <= np.asarray(high, np.float32))).all(1)
        return found


def make_region(low: Sequence[Any], high: Sequence[Any], bounds: tuple[Sequence[float], Sequence[float]]) -> Region:
    """Return the region of some boxes.

    Args:
      low, high: two opposite corners `[M]` in task units of one box, or `[K, M]` of K boxes; empty for none.
      bounds: `[M]` least and largest measures.

    Raises:
      UserError: if corners do not fit the measures or each other, or a box lies outside the bounds.
    """
    region, width = Region(_corners(low), _corners(high)), len(bounds[0])
    fits = len(region.low) == len(region.high) and all(len(one) == width for one in (*region.low, *region.high))
    # Written so that NaN does not fit either.
    if not fits or not all(a <= b for ends in zip(*region, strict=True) for a, b in zip(*ends, strict=True)):
        raise UserError(
            f"the held-out box needs {width} bounds per corner, low to high (or none), and several boxes as many low "
            f"corners as high ones; found {low}, {high}"
        )
    for ends in zip(*region, strict=True):
        if any(a > most or b < least for a, b, least, most in zip(*ends, *bounds, strict=True)):
            raise UserError(f"the held-out box from {ends[0]} to {ends[1]} lies outside the measures, {bounds}")
    return region


def _corners(values: Sequence[Any]) -> tuple[Corner, ...]:
    if not len(values):
        return ()
    rows = [values] if np.ndim(values[0]) == 0 else values
    return tuple(tuple(float(value) for value in row) for row in rows)


def square(centre: Sequence[float], side: float) -> Region:
    """Return the box of one side length around a centre `[M]`.

    Raises:
      UserError: if the side is not positive.
    """
    if not side > 0:
        raise UserError(f"the side of a held-out square must be positive, found {side}")
    # Rounded, so that 0.55 + 0.15 is 0.7.
    low, high = (tuple(round(one + sign * side / 2, 9) for one in centre) for sign in (-1, 1))
    return Region((low,), (high,))


def checkerboard(low: Sequence[float], high: Sequence[float], blocks: int, seed: int) -> Region:
    """Divide a box into equal blocks and return a random half of them.

    Random elites are no test, for their neighbours stay; blocks of several cells are.

    Args:
      low, high: two opposite corners `[M]` of the box.
      blocks: along each measure.
      seed: decides which.

    Raises:
      UserError: for fewer than two blocks.
    """
    if blocks < 2:
        raise UserError(f"a checkerboard needs at least 2 blocks along a measure, found {blocks}")
    count = blocks ** len(low)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[: math.ceil(count / 2)])
    place = np.stack(np.unravel_index(chosen, (blocks,) * len(low)), -1)
    step = (np.asarray(high, float) - np.asarray(low, float)) / blocks
    ends = (np.round(np.asarray(low) + (place + more) * step, 9) for more in (0, 1))
    return Region(*(tuple(tuple(row) for row in end.tolist()) for end in ends))
