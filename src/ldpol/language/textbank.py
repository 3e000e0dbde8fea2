"""Captions of an archive as arrays: what a tower learns from, built once on the host."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import NDArray

from ldpol.errors import UserError
from ldpol.language.captions import Caption
from ldpol.language.claims import Claim
from ldpol.language.text import TextEncoder, WordLlamaEncoder
from ldpol.types import Array

CHUNK = 512
"""Captions encoded at a time: their vectors, repeated for every token, never fill the memory."""


@struct.dataclass
class TextBank:
    """C captions, V distinct token vectors.

    Attributes:
      vectors: `[V, d]`; those of the captions, then those of their neighbours.
      ids: `[C, T]` which vector each token has; 0 where there is none.
      mask: `[C, T]` whether there is a token.
      labels: `[C, L]` 1.0 for each claim that the caption makes.
      neighbours: `[V, K]` vectors that may stand in for each; itself where there is none.
    """

    vectors: Array
    ids: Array
    mask: Array
    labels: Array
    neighbours: Array


def make_bank(claims: Sequence[Claim], written: Sequence[Caption], encoder: TextEncoder) -> TextBank:
    """Encode captions and label them.

    Args:
      claims: the L labels, from `base_claims`.
      written: C captions.
      encoder: any; words are swapped only for one that offers its vocabulary.

    Raises:
      ValueError: if there are no captions, or one makes a claim that is not among the labels.
    """
    missing = {claim for caption in written for claim in caption.base_claims} - set(claims)
    if not written or missing:
        raise UserError(f"make_bank: {len(written)} captions, with claims that are not among the labels: {missing}")
    vectors, ids, mask = _tokens(encoder, [caption.text for caption in written])
    table = np.arange(len(vectors))[:, None]
    if isinstance(encoder, WordLlamaEncoder):
        others, table = encoder.neighbours(vectors)
        vectors = np.concatenate([vectors, others])
    return TextBank(*map(jnp.asarray, (vectors, ids, mask, _labels(claims, written), table)))


def _labels(claims: Sequence[Claim], written: Sequence[Caption]) -> NDArray[np.float32]:
    place = {claim: i for i, claim in enumerate(claims)}
    labels = np.zeros((len(written), len(claims)), np.float32)
    for row, caption in zip(labels, written, strict=True):
        row[[place[claim] for claim in caption.base_claims]] = 1.0
    return labels


def _tokens(encoder: TextEncoder, texts: Sequence[str]) -> tuple[NDArray, NDArray, NDArray]:
    """Return the distinct vectors of texts `[V, d]`, which of them each token `[C, T]` is, and whether it is there."""
    places: dict[bytes, int] = {}
    rows: list[list[int]] = []
    for begin in range(0, len(texts), CHUNK):
        found = encoder.tokens(texts[begin : begin + CHUNK])
        for vectors, there in zip(found.embeddings, found.mask, strict=True):
            rows.append([places.setdefault(vector.tobytes(), len(places)) for vector in vectors[there]])
    table = np.stack([np.frombuffer(key, np.float32) for key in places])
    mask = np.arange(max(map(len, rows))) < np.array([len(row) for row in rows])[:, None]
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = np.concatenate(rows)
    return table, ids, mask
