"""Claims that can be checked against behaviours, and what relative words mean on an archive."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldpol.errors import UserError
from ldpol.language.meanings import SCALES, Grade, Scale

QUANTILES = (0.1, 1 / 3, 2 / 3, 0.9)
COMMON = 0.7
"""A grade that holds of more of the archive than this (values may repeat) tells nothing apart and is not spoken."""


class Claim(NamedTuple):
    """`low <= trait < high`, in the trait's unit; either end may be infinite."""

    trait: str
    low: float
    high: float


def satisfied(
    claims: Sequence[Claim], names: Sequence[str], behaviours: ArrayLike, *, tolerance: ArrayLike = 0.0
) -> NDArray[np.bool_]:
    """Check claims against behaviours.

    Args:
      claims: C claims.
      names: names of the columns.
      behaviours: `[..., K + M]`, for example `[N, K + M]` of N policies; a NaN satisfies nothing.
      tolerance: by how much a value may miss an interval, in units of the columns; a number or `[K + M]`.

    Returns:
      `[..., C]` whether each claim holds.

    Raises:
      ValueError: if a claim is about a trait that is not among the columns, or the columns do not fit.
    """
    table = np.asarray(behaviours, np.float64)
    if table.ndim == 0 or table.shape[-1] != len(names):
        raise UserError(f"satisfied: expected {len(names)} columns ({', '.join(names)}), found shape {table.shape}")
    missing = sorted({claim.trait for claim in claims} - set(names))
    if missing:
        raise UserError(f"satisfied: no column for {', '.join(missing)}; the columns are {', '.join(names)}")
    place = [list(names).index(claim.trait) for claim in claims]
    values, slack = table[..., place], np.broadcast_to(np.asarray(tolerance, np.float64), len(names))[place]
    low, high = np.array([claim.low for claim in claims]), np.array([claim.high for claim in claims])
    return (values >= low - slack) & (values < high + slack)


class Levels(NamedTuple):
    """What relative words mean, measured on an archive.

    Attributes:
      names: the columns of the table of behaviours.
      grades: interval `[low, high)` of each grade that may be spoken, by trait. "very low" lies within "low".
      spans: 5 % and 95 % quantile of each column.
    """

    names: tuple[str, ...]
    grades: Mapping[str, Mapping[Grade, tuple[float, float]]]
    spans: Mapping[str, tuple[float, float]]


def measure_levels(names: Sequence[str], behaviours: ArrayLike) -> Levels:
    """Measure the levels of an archive.

    Args:
      names: `K + M` names of the columns.
      behaviours: `[N, K + M]`, re-evaluated means rather than the lucky draws that entered the archive.

    Raises:
      ValueError: if the table has another shape, is empty or holds NaN or infinity.
    """
    table = np.asarray(behaviours, np.float64)
    if table.ndim != 2 or table.shape[1] != len(names) or len(table) == 0:
        raise UserError(
            f"measure_levels: expected a table [N, {len(names)}], a row an elite, of {', '.join(names)}; "
            f"found shape {table.shape}"
        )
    if not np.isfinite(table).all():
        bad = [name for name, column in zip(names, table.T, strict=True) if not np.isfinite(column).all()]
        raise UserError(f"measure_levels: NaN or infinity in {', '.join(bad)}; remove these elites first")
    by_name = dict(zip(names, table.T, strict=True))
    grades = {name: _grades(by_name[name], SCALES[name]) for name in names if name in SCALES}
    spans = {name: tuple(np.quantile(column, (0.05, 0.95)).tolist()) for name, column in by_name.items()}
    return Levels(tuple(names), {name: found for name, found in grades.items() if found}, spans)


def _grades(values: NDArray, scale: Scale) -> dict[Grade, tuple[float, float]]:
    """Intervals of the grades of a trait, by quantiles over the values on its scale; none if they hardly differ."""
    values = values[values >= scale.low]
    if len(values) == 0:
        return {}
    lowest, low, high, highest = np.quantile(values, QUANTILES).tolist()
    if highest - lowest < scale.smallest:
        return {}
    # A word must never be said of the wrong side of its scale, so the lower grades begin where the scale does.
    intervals = ((scale.low, lowest), (scale.low, low), (low, high), (high, math.inf), (highest, math.inf))
    found: dict[Grade, tuple[float, float]] = {}
    for grade, (begin, end) in zip(get_args(Grade), intervals, strict=True):
        share = np.mean((values >= begin) & (values < end))
        if 0.0 < share <= COMMON:
            found[grade] = (begin, end)
    return found


def bounds_to_json(low: float, high: float) -> list[float | None]:
    """Return the ends of an interval as JSON values; an infinite one is None."""
    return [end if math.isfinite(end) else None for end in (low, high)]


def bounds_from_json(ends: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends that `bounds_to_json` wrote."""
    low, high = ends
    return (-math.inf if low is None else float(low), math.inf if high is None else float(high))
