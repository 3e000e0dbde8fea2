"""What a sceptic would verify instead of draws of a diffusion model: latents of elites, or requests to a clone.

Both keep what each of their answers achieved, as `model/verified.py` does, and answer with whatever came nearest.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ldpol.archive import Tessellation
from ldpol.baselines import cloned
from ldpol.baselines.cloned import Cloned, Style
from ldpol.errors import UserError
from ldpol.generator import PolicyGenerator
from ldpol.measures import distance
from ldpol.model.answering import row_content
from ldpol.model.condition import make_condition
from ldpol.model.decoder import AutoencoderConfig, Decoder
from ldpol.model.verified import VerifiedBank, in_cell, of_levels
from ldpol.networks import Network
from ldpol.precision import expand
from ldpol.types import Array, Key, Params, PyTree

FAR = 1e3
"""Farther than any two measures in [0, 1]."""


@struct.dataclass
class VerifiedLatents:
    """A decoder and latents drawn around the elites', with what their policies achieved.

    Attributes:
      decoder: parameters of the hypernetwork.
      bank: the rows, of which only latents and measures are kept.
      shape: architecture of the policies.
      autoencoder: architecture of the decoder.
      grid: bounds of the measures.
    """

    decoder: PyTree
    bank: VerifiedBank
    shape: Network = struct.field(pytree_node=False)
    autoencoder: AutoencoderConfig = struct.field(pytree_node=False)
    grid: Tessellation = struct.field(pytree_node=False)


def fit_latents(generator: PolicyGenerator) -> VerifiedLatents:
    """Keep decoder and verified draws of a trained generator: they were drawn before there was a denoiser.

    Raises:
      UserError: for a generator without verified draws.
    """
    bank = generator.bank
    if bank is None:
        raise UserError("this training kept no verified draws; set verify.rounds and verify.rows")
    kept = dataclasses.replace(bank, table=bank.table[:, :0], low=bank.low[:0], high=bank.high[:0], columns=())
    return VerifiedLatents(generator.decoder, kept, generator.shape, generator.autoencoder, generator.grid)


def generate_from_latents(model: VerifiedLatents, key: Key, measures: Array) -> Params:
    """Decode the latent whose policy came nearest to `measures` `[M]`; the key decides nothing."""
    del key
    model = expand(model)
    row = nearest_row(model.grid, measures, model.bank.measures)
    latent, given = row_content(model.bank, row)
    decoder = Decoder(model.shape, model.autoencoder)
    return decoder.apply({"params": model.decoder}, latent, make_condition(given))  # type: ignore[return-value]


def nearest_row(grid: Tessellation, measures: Array, achieved: Array) -> Array:
    """Return which row of `achieved` `[R, M]`, in [0, 1], answers `measures` `[M]`: of their cell's if it has any."""
    place = grid.scaled(measures)
    return (distance(place[None], achieved) + jnp.where(in_cell(grid, achieved, place), 0.0, FAR)).argmin()


class Requests(NamedTuple):
    """What a clone was asked for and what it did, R rows.

    Attributes:
      given: uint8 `[R, M]` measures that were asked for, in 255ths of their range.
      achieved: uint16 `[R, M]` measures of the policies, in 60000ths.
    """

    given: Array
    achieved: Array


@struct.dataclass
class VerifiedClone:
    """A cloned policy, and which request to it achieves what.

    Attributes:
      clone: the policy of all measures.
      requests: the rows.
    """

    clone: Cloned
    requests: Requests


def style_of(clone: Cloned, given: Array) -> Style:
    """Return the clone's policy for measures `[M]` in 255ths."""
    return cloned.generate(clone, None, clone.grid.unscaled(of_levels(given)))


def generate_from_clone(model: VerifiedClone, key: Key, measures: Array) -> Style:
    """Return the clone's policy for the request that came nearest to `measures` `[M]`; the key decides nothing."""
    del key
    row = nearest_row(model.clone.grid, measures, of_levels(model.requests.achieved))
    return style_of(model.clone, model.requests.given[row])


def apply_clone(model: VerifiedClone, style: Style, observation: Array) -> Array:
    """Return the action `[A]` of the policy in a style at an observation `[O]`; see `cloned.apply`."""
    return cloned.apply(model.clone, style, observation)


styles_of = jax.jit(jax.vmap(style_of, (None, 0)))
"""`style_of` for R requests."""
