"""A generator's file: read and checked, so that what loads also samples."""

import dataclasses
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
        # A model without language has no arrays of a reader, one without verified draws none of a bank.
        parts: dict[str, Any] = {"reader": {}, "bank": None} | jax.tree.map(jnp.asarray, expand(arrays))
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
    bank = generator.bank
    if bank is None:
        check_finite(generator)
    else:
        check_finite((dataclasses.replace(generator, bank=None), bank.step, bank.low, bank.high))
        found = tuple(str(leaf.dtype) for leaf in (bank.levels, bank.given, bank.achieved, bank.table))
        if found != ("int8", "uint8", "uint16", "uint8") or len(bank.columns) != bank.table.shape[1]:
            raise UserError(f"verified draws of {len(bank.columns)} columns in {found}, {bank.table.shape}")
    check_grid(generator.grid, len(generator.measure_names))
    measures = jax.ShapeDtypeStruct((len(generator.measure_names),), jnp.float32)
    drawn = jax.eval_shape(generator.sample, jax.random.key(0), measures)
    if jax.tree.map(jnp.shape, drawn) != jax.tree.map(jnp.shape, generator.shape.abstract()):
        raise UserError(f"it draws no policies {generator.shape}")
    if not max(abs(generator.guidance), abs(generator.text_guidance)) <= STRONGEST:
        raise UserError(f"guidance {generator.guidance} and {generator.text_guidance}")
    return generator
