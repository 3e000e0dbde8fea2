"""Sentences to the text token of a model: what a trained reader needs to be used, and stored with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldpol.language.claims import Claim, bounds_from_json, bounds_to_json
from ldpol.language.pretrained import transformers_encoder
from ldpol.language.text import TextEncoder, wordllama_encoder
from ldpol.language.understanding import TowerConfig, make_tower, understand
from ldpol.types import Array, PyTree

WORDLLAMA = "wordllama"


class Language(NamedTuple):
    """What a reader was trained on.

    Attributes:
      encoder: `wordllama`, or the folder of a pretrained model.
      tower: architecture of the reader.
      claims: L claims that it can tell from a sentence; its answer is a probability for each.
      known: words of its training captions.
    """

    encoder: str
    tower: TowerConfig
    claims: tuple[Claim, ...]
    known: tuple[str, ...]


def make_encoder(name: str, known: Sequence[str] = ()) -> TextEncoder:
    """Load an encoder by its name in a config: `wordllama`, or the folder of a pretrained model.

    Raises:
      FileNotFoundError: if there is no such folder, or the wordllama package lacks its files.
      ImportError: if a package is missing.
    """
    words = frozenset(known)
    return wordllama_encoder(known=words) if name == WORDLLAMA else transformers_encoder(Path(name), known=words)


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
      ValueError: if a text is empty, too long or of unknown words only.
    """
    encoder = make_encoder(language.encoder, language.known) if encoder is None else encoder
    tokens = encoder.tokens(texts)
    tower = make_tower(language.tower, len(language.claims))
    one = partial(understand, tower, params)
    return jax.vmap(one)(jnp.asarray(tokens.embeddings), jnp.asarray(tokens.mask))


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
