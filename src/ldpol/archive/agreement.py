"""How far scores that policies get agree with those stored for them, and what that says of an import."""

import dataclasses
import math
from typing import Literal

import numpy as np

from ldpol.archive.archive import Archive

Verdict = Literal["same", "doubtful", "wrong"]
RANKS = (0.9, 0.5)
"""Rank correlation of fitness from which on policies count as the same, and below which as wrong."""
MISS = 0.05
"""Part of a measure's range by which the same policies may miss what is stored, half of them; or a cell, if larger."""
WRONG_MISS = 2.0
"""Times that much, they are wrong."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far replayed scores agree with stored ones.

    Attributes:
      rank: Spearman's correlation of fitness; NaN where all of it is the same.
      ratio: mean fitness replayed by stored.
      miss: median over elites of the largest difference of a measure, of a range of 1.
      miss_90: the same, the 90th percentile.
    """

    rank: float
    ratio: float
    miss: float
    miss_90: float

    def verdict(self, side: float) -> Verdict:
        """Judge, where a cell is `side` wide of a range of 1."""
        limit = max(side, MISS)
        if self.rank < RANKS[1] or self.miss > WRONG_MISS * limit:
            return "wrong"
        alike = not self.rank < RANKS[0]  # NaN: nothing to rank
        return "same" if alike and self.miss <= limit else "doubtful"

    @property
    def quality(self) -> float:
        """One number to compare readings of the same parameters by: 1 where nothing differs."""
        return (0.0 if math.isnan(self.rank) else self.rank) - self.miss / (WRONG_MISS * MISS)


def agreement_of(archive: Archive, fitness: np.ndarray, measures: np.ndarray) -> Agreement:
    """Compare fitness `[N]` and measures `[N, M]` with those stored for an archive's elites."""
    stored = np.asarray(archive.fitness)
    apart = np.abs(archive.grid.scaled(measures) - archive.grid.scaled(np.asarray(archive.measures))).max(-1)
    ratio = float(fitness.mean() / stored.mean()) if stored.mean() else math.nan
    return Agreement(spearman(stored, fitness), ratio, float(np.median(apart)), float(np.quantile(apart, 0.9)))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Return the rank correlation of two vectors `[N]`, ties at their mean rank; NaN where either is constant."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    if len(np.unique(one)) < 2 or len(np.unique(other)) < 2:
        return math.nan
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])
