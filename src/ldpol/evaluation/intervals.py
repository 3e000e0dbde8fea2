"""Means with intervals: everything measured on sequences is a ratio of two sums over them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from ldpol.errors import UserError


class Ratio(NamedTuple):
    """What every sequence adds to the two sums whose ratio is reported.

    The mean over sequences of unequal weight (some episodes never reach a segment) is such a ratio; with equal
    denominators it is the plain mean.

    Attributes:
      numerator: `[S, ...]`.
      denominator: `[S, ...]`, of the same shape, not negative.
    """

    numerator: np.ndarray
    denominator: np.ndarray


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, or an array of them, with its interval.

    Attributes:
      value: `[...]`; NaN where nothing was observed.
      low, high: `[...]` ends of the interval; NaN where fewer than two sequences were observed.
      count: `[...]` the sum of the denominators: how many observations stand behind the value.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """Return the fields as floats and nested lists, with None in place of NaN, which JSON lacks."""
        return {name: _plain(np.asarray(value, float).tolist()) for name, value in dataclasses.asdict(self).items()}


def estimate(ratio: Ratio, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return the ratio of the sums with a percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    Whole sequences are drawn again, because episodes of one sequence are alike. With few sequences (under about 20) the
    interval is too narrow; with one there is none.

    Args:
      ratio: what each of S sequences adds.
      level: probability that the interval covers.
      resamples: bootstrap samples.
      seed: of the resampling.
    """
    value, count = _divide(ratio.numerator.sum(0), ratio.denominator.sum(0)), ratio.denominator.sum(0)
    seen = (ratio.denominator > 0).sum(0)
    return Estimate(value, *_ends(_resampled(ratio, resamples, seed), seen, level), count)


def difference(one: Ratio, other: Ratio, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return `one` less `other`, two methods on the same sequences, with a paired bootstrap interval.

    Both are resampled together, so that what makes a sequence hard for both cancels. Arguments as in `estimate`; the
    count is the smaller of the two.

    Raises:
      ValueError: if the two were not measured on the same number of sequences.
    """
    if one.numerator.shape != other.numerator.shape:
        raise UserError(
            f"a paired difference needs two methods on the same sequences, found results of shape "
            f"{one.numerator.shape} and {other.numerator.shape}"
        )
    values = [_divide(ratio.numerator.sum(0), ratio.denominator.sum(0)) for ratio in (one, other)]
    resampled = _resampled(one, resamples, seed) - _resampled(other, resamples, seed)
    seen = np.minimum(*((ratio.denominator > 0).sum(0) for ratio in (one, other)))
    count = np.minimum(one.denominator.sum(0), other.denominator.sum(0))
    return Estimate(values[0] - values[1], *_ends(resampled, seen, level), count)


def paired(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Return the mean of `one` less `other`, both `[N]`, with its paired interval, as JSON values."""
    return difference(Ratio(one, np.ones(len(one))), Ratio(other, np.ones(len(other)))).as_json()


def over_seeds(values: Sequence[float], level: float = 0.95) -> dict[str, float | None]:
    """Return `mean`, `low` and `high` of the mean of independent runs (Student's t); a single value has no interval."""
    data = np.asarray(values, float)
    mean = float(data.mean())
    if len(data) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(student.ppf(0.5 + level / 2, len(data) - 1) * data.std(ddof=1) / np.sqrt(len(data)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def show(value: dict[str, float | None] | None, form: str = ".3f") -> str:
    """Write what `over_seeds` found as mean ± half its width, numbers in the format `form`; nothing as a dash."""
    if value is None:
        return "–"
    mean, high = value["mean"], value["high"]
    return f"{mean:{form}}" + ("" if high is None or mean is None else f" ± {high - mean:{form}}")


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), np.nan)


def _resampled(ratio: Ratio, resamples: int, seed: int) -> np.ndarray:
    """Return the ratio `[resamples, ...]` of bootstrap samples; how often a sequence is drawn is multinomial."""
    count = ratio.numerator.shape[0]
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return _divide(*(np.tensordot(times, part.astype(float), 1) for part in ratio))


def _ends(resampled: np.ndarray, seen: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    if not 0.0 < level < 1.0:
        raise UserError(f"level must be between 0 and 1, found {level}")
    # Samples without a single observation say nothing; those rows are filled in only to keep NumPy quiet.
    known = np.where(seen >= 2, resampled, 0.0)
    low, high = np.nanquantile(known, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.where(seen >= 2, low, np.nan), np.where(seen >= 2, high, np.nan)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if np.isnan(value) else value
