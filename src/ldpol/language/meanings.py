"""What a meaning is: something that can be said, when it is true, and its wordings."""

import math
from typing import Literal, NamedTuple

Split = Literal["train", "held_out"]
Grade = Literal["very low", "low", "middle", "high", "very high"]
STILL = 0.1
"""Metres a second below which a body stays where it is."""
LEAN = 0.1
"""Radians of pitch from which a body leans."""
NEVER = 1e-6
"""A fraction of steps below which something never happened; one step of fifty long episodes is 2e-5."""


class Bound(NamedTuple):
    """`low <= value < high`, and within the grade's interval of the archive if a grade is given."""

    trait: str
    low: float = -math.inf
    high: float = math.inf
    grade: Grade | None = None


class Meaning(NamedTuple):
    """Something that can be said.

    Attributes:
      topics: what it speaks of; a caption speaks of a topic once.
      bounds: what must hold for it to be true.
      train, held_out: wordings. Those of a verb give its inflections first: "go/goes/going forward".
    """

    topics: tuple[str, ...]
    bounds: tuple[Bound, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def wordings(self, split: Split) -> tuple[str, ...]:
        """Return the wordings of one split."""
        return self.train if split == "train" else self.held_out


class Scale(NamedTuple):
    """Where grades of a trait make sense: values from `low`, differing by `smallest` at least (in its unit)."""

    smallest: float
    low: float = -math.inf


SCALES: dict[str, Scale] = {
    "forward speed": Scale(0.1, STILL),
    "height": Scale(0.02),
    "height variation": Scale(0.01),
    "airborne": Scale(0.05),
    "cadence": Scale(0.5),
    "effort": Scale(0.02),
}
