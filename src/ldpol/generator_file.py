"""A generator's file: read and checked, so that what loads also samples."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ldpol import models, storage
from ldpol.archive import check_grid
from ldpol.errors import UserError
from ldpol.generator import KIND, PolicyGenerator
from ldpol.generator_settings import parse_settings
from ldpol.model.diffusion import STRONGEST
from ldpol.model.image import Scaling
from ldpol.model.verified import VerifiedBank
from ldpol.networks import Network, check_finite, with_code
from ldpol.precision import expand


def load(path: Path | str, network: Network | None = None) -> PolicyGenerator:
    """Read a generator; never executes anything from the file.

    Args:
      path: a file written by `PolicyGenerator.save`, or one of the names of `ldpol.list_models`.
      network: what the policies belong to, where that is a `CustomNetwork`: files hold no code. Without it the
        generator samples, but its policies cannot act.

    Raises:
      FileNotFoundError: if there is none.
      UserError: if it is damaged, of another kind, or no sound model: its networks do not fit, or hold NaN; or if its
        policies belong to another network than the one passed.
    """
    path = models.resolve(path)
    arrays, about = storage.load(path, kind=KIND)
    try:
        # A model without language has no arrays of a reader, and so on.
        parts: dict[str, Any] = {"reader": {}, "denoiser": {}, "bank": None} | jax.tree.map(jnp.asarray, expand(arrays))
        parts["scaling"] = Scaling(**parts["scaling"])
        settings = parse_settings(about)
        if parts["bank"] is not None:
            parts["bank"] = VerifiedBank(**parts["bank"], columns=tuple(about["columns"]))
        generator = _check(PolicyGenerator(**parts, **settings))
    except Exception as error:  # whatever a network says of parameters that are not its own
        raise UserError(f"the generator at {path} is not sound: {type(error).__name__}: {error}") from error
    return dataclasses.replace(generator, shape=with_code(generator.shape, network))


def _check(generator: PolicyGenerator) -> PolicyGenerator:
    """Return a generator if its numbers are finite and its networks draw policies of its shape, else raise an error."""
    if generator.bank is None:
        check_finite(generator)
    else:
        check_finite(
            (dataclasses.replace(generator, bank=None), generator.bank.step, generator.bank.low, generator.bank.high)
        )
        _check_bank(generator.bank, generator.autoencoder.latent, len(generator.measure_names))
    check_grid(generator.grid, len(generator.measure_names))
    measures = jax.ShapeDtypeStruct((len(generator.measure_names),), jnp.float32)
    for verified in (None, False) if generator.denoiser else (None,):
        drawn = jax.eval_shape(partial(generator.sample, verified=verified), jax.random.key(0), measures)
        if jax.tree.map(jnp.shape, drawn) != jax.tree.map(jnp.shape, generator.shape.abstract()):
            raise UserError(f"it draws no policies {generator.shape}")
    if not max(abs(generator.guidance), abs(generator.text_guidance)) <= STRONGEST:
        raise UserError(f"guidance {generator.guidance} and {generator.text_guidance}")
    return generator


def _check_bank(bank: VerifiedBank, latent: tuple[int, ...], measures: int) -> None:
    """Raise an error unless every array of a bank has its type and, for one number of rows, its shape."""
    rows, columns = len(bank), len(bank.columns)
    expected = {
        "levels": ((rows, *latent), "int8"),
        "step": (latent[-1:], "float32"),
        "given": ((rows, measures), "uint8"),
        "achieved": ((rows, measures), "uint16"),
        "table": ((rows, columns), "uint8"),
        "low": ((columns,), "float32"),
        "high": ((columns,), "float32"),
    }
    for name, (shape, kind) in expected.items():
        array = getattr(bank, name)
        if (array.shape, str(array.dtype)) != (shape, kind):
            raise UserError(f"its verified draws have {name} {array.shape} {array.dtype}, expected {shape} {kind}")
