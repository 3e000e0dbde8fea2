"""Sentences to the text token of a model: what a trained reader needs to be used, and stored with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldpol.errors import UserError
from ldpol.language.claims import Claim, bounds_from_json, bounds_to_json
from ldpol.language.text import TextEncoder, wordllama_encoder
from ldpol.language.understanding import TextTower, TowerConfig, make_tower, understand
from ldpol.types import Array, PyTree

WORDLLAMA = "wordllama"


class Language(NamedTuple):
    """What a reader was trained on.

    Attributes:
      encoder: whose token vectors it reads; there is one, `wordllama`.
      tower: architecture of the reader.
      claims: L claims that it can tell from a sentence; its answer is a probability for each.
      known: words of its training captions.
    """

    encoder: str
    tower: TowerConfig
    claims: tuple[Claim, ...]
    known: tuple[str, ...]


def load_encoder(language: Language) -> TextEncoder:
    """Load the encoder that a reader was trained with.

    Raises:
      MissingPackage: if the extra `language` is not installed.
      FileNotFoundError: if the wordllama package lacks its files.
      UserError: if the reader was trained with another encoder.
    """
    if language.encoder != WORDLLAMA:
        raise UserError(
            f"this model was trained to read with the encoder {language.encoder!r}, of which this version of ldpol "
            f"knows nothing; it has {WORDLLAMA!r}"
        )
    return wordllama_encoder(known=frozenset(language.known))


def read(language: Language, params: PyTree, texts: Sequence[str], encoder: TextEncoder | None = None) -> Array:
    """Read sentences, on the host.

    Args:
      language: of the reader.
      params: its parameters.
      texts: n sentences.
      encoder: the one that the reader was trained with; None loads it.

    Returns:
      `[n, L]` probability of each claim.

    Raises:
      MissingPackage: if the encoder has to be loaded and the extra `language` is not installed.
      ValueError: if a text is empty, too long or of unknown words only.
    """
    encoder = load_encoder(language) if encoder is None else encoder
    tokens = encoder.tokens(texts)
    tower = make_tower(language.tower, len(language.claims))
    return _understand_all(tower, params, jnp.asarray(tokens.embeddings), jnp.asarray(tokens.mask))


@partial(jax.jit, static_argnums=0)  # a call on the host; op by op it takes a second for every new length of text
def _understand_all(tower: TextTower, params: PyTree, embeddings: Array, mask: Array) -> Array:
    return jax.vmap(partial(understand, tower, params))(embeddings, mask)


def language_to_json(language: Language) -> dict[str, Any]:
    """Return JSON-able values."""
    claims = [[claim.trait, *bounds_to_json(claim.low, claim.high)] for claim in language.claims]
    return language._asdict() | {
        "tower": dataclasses.asdict(language.tower),
        "claims": claims,
        "known": list(language.known),
    }


def language_from_json(value: Mapping[str, Any]) -> Language:
    """Return what `language_to_json` wrote.

    Raises:
      KeyError, TypeError: if something is missing or of another form.
    """
    claims = tuple(Claim(trait, *bounds_from_json(ends)) for trait, *ends in value["claims"])
    return Language(value["encoder"], TowerConfig(**value["tower"]), claims, tuple(value["known"]))
