"""What may be asked of a generator: measures, ranks and sentences, checked as far as their values are known."""

from collections.abc import Sequence

import jax.core
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Tessellation
from ldpol.errors import UserError
from ldpol.types import Array, PyTree


def scale_measures(measures: Array, names: Sequence[str], grid: Tessellation) -> Array:
    """Scale measures `[M]` in task units to [0, 1]; NaN stays NaN.

    Raises:
      UserError: for the wrong shape or, outside of jit, values outside their bounds.
    """
    measures = jnp.asarray(measures, jnp.float32)
    if measures.shape != (len(names),):
        raise UserError(
            f"expected {len(names)} measures ({', '.join(names)}), found shape {measures.shape}; "
            "for a batch, jax.vmap over keys and measures"
        )
    if not isinstance(measures, jax.core.Tracer):
        # NumPy's, because an element of a constant is a tracer inside of jit.
        found = zip(names, np.asarray(measures).tolist(), grid.low, grid.high, strict=True)
        outside = [
            f"{name} = {value:g} (allowed {low:g} to {high:g})"
            for name, value, low, high in found
            if value < low or value > high
        ]
        if outside:
            raise UserError(f"measures outside their bounds: {'; '.join(outside)}")
    return grid.scaled(measures)


def check_quality(quality: float | Array | None) -> None:
    """Refuse a quantile of fitness outside [0, 1], as far as it is known; NaN and None leave it free."""
    if quality is None or isinstance(quality, jax.core.Tracer):
        return
    if not (np.isnan(float(quality)) or 0 <= float(quality) <= 1):
        raise UserError(f"quality is a quantile of the archive's fitness in [0, 1], found {float(quality):g}")


def check_text(text: Array, words: int, task: str) -> None:
    """Refuse what `read` did not make: anything but `[L]` numbers, L = `words`, 0 for a model without language."""
    if text.shape == (words,):
        return
    if not words:
        raise UserError(f"this model of {task} was trained without language; ask for measures")
    raise UserError(f"expected the {words} numbers that `read` makes of one sentence, found shape {text.shape}")


def check_count(count: int, rows: int | None) -> None:
    """Raise `UserError` unless a set can be drawn of so many policies; `rows`: verified draws there are, if any."""
    if count < 1:
        raise UserError(f"a set has at least 1 policy, found count = {count}")
    if rows is not None and count > rows:
        raise UserError(
            f"a set of {count} policies was asked for, but this model has {rows} verified draws; ask for at most as "
            "many, or use verified=False"
        )


def check_denoiser(denoiser: PyTree, task: str) -> None:
    """Raise `UserError` for a model without its denoiser."""
    if not denoiser:
        raise UserError(
            f"this model of {task} is without its denoiser: it answers single requests from its verified draws; "
            "verified=False and compositions need the whole model"
        )


def check_composition(measures: Array, scales: Array, count: int) -> None:
    """Raise `UserError` unless conditions are `[K, M]`, M = `count`, and have one scale each."""
    if measures.ndim != 2 or scales.shape != measures.shape[:1]:
        raise UserError(
            f"expected conditions [K, {count}] and one scale each, found shapes {measures.shape} and {scales.shape}; "
            "for a batch, jax.vmap over keys and conditions"
        )
