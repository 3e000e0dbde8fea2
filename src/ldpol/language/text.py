"""Text to vectors: what an encoder offers, how prompts are checked, and the encoder.

Vectors are the static token embeddings of WordLlama (https://github.com/dleemiller/WordLlama, MIT). They come with its
wheel, so nothing is downloaded, ever; the package is the extra `ldpol[language]`, imported when an encoder is loaded.
Encoders run on the host; a trained `tower.TextTower` turns their tokens into a condition.
"""

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ldpol.errors import MissingPackage, UserError

LONGEST = 64
"""Tokens a prompt may have by default; the longest captions have about 50."""
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_MARKS = re.compile(r"^(▁|Ġ|##)+")
_BEGINNINGS = ("▁", "Ġ")
LIKE = 0.4
"""Cosine from which a word is like another."""
_ENDINGS = frozenset("s es ed d ing ly y er ers est ful fully ness less ness n".split())


class Tokens(NamedTuple):
    """Texts as sequences of vectors.

    Attributes:
      embeddings: `[n, T, d]` float32, zero where there is no token.
      mask: `[n, T]` whether there is a token; those of a text come first.
    """

    embeddings: NDArray[np.float32]
    mask: NDArray[np.bool_]


class TextEncoder(Protocol):
    """Anything that turns texts into vectors, and the same text into the same vectors every time."""

    @property
    def width(self) -> int:
        """Size of a vector, d."""
        ...

    def tokens(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        """Return one vector per token.

        Args:
          texts: n texts.
          length: T; None makes it as long as the longest of these texts. A compiled program wants one T for all.

        Raises:
          ValueError: for an empty text, one of unknown words only, or one that is too long.
        """
        ...


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without numbers and punctuation."""
    return _WORD.findall(text.lower())


def clean(texts: Sequence[str], known: Callable[[str], bool]) -> list[str]:
    """Check prompts and bring them into the form that encoders see: lower case, single blanks.

    Args:
      texts: prompts.
      known: tells whether the encoder has a notion of a word.

    Raises:
      ValueError: if `texts` is a single string, a text has no words, or none of its words is known. Where only some are
        unknown there is a warning that names them.
    """
    if isinstance(texts, str):
        raise UserError(f"expected a list of texts, found the single text {texts!r}; put it into a list")
    unknown = {word for word in {word for text in texts for word in words_of(str(text))} if not known(word)}
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"text {i} is not a string but {type(text).__name__}: {text!r}")
        words = words_of(text)
        if not words:
            raise UserError(f"text {i} has no words: {text!r}; describe a behaviour, such as 'walk forward slowly'")
        strange = [word for word in dict.fromkeys(words) if word in unknown]
        if len(strange) == len(set(words)):
            raise UserError(f"no word of text {i} is known: {text!r}; describe a behaviour in plain English")
        if strange:
            warnings.warn(
                f"unknown words in text {i}, which will hardly be understood: {', '.join(strange)} (in {text!r})",
                UserWarning,
                stacklevel=4,
            )
    return [" ".join(text.lower().split()) for text in texts]


def is_word(pieces: Sequence[str]) -> bool:
    """Tell whether a tokenizer took a word as a word: in one piece, or as a stem of four letters and known endings.

    A tokenizer of word pieces spells any string, so that nothing is ever missing from its vocabulary; but what it
    spells in fragments has no vector that means the word.
    """
    stem, *endings = [_MARKS.sub("", piece) for piece in pieces] or [""]
    return not endings or (len(stem) >= 4 and all(ending in _ENDINGS for ending in endings))


def check_lengths(texts: Sequence[str], counts: Sequence[int], longest: int, length: int | None) -> int:
    """Return T, the number of tokens to pad to.

    Raises:
      ValueError: if a text has more tokens than `longest` or `length`.
    """
    limit = longest if length is None else min(longest, length)
    for i, (text, count) in enumerate(zip(texts, counts, strict=True)):
        if count > limit:
            raise UserError(f"text {i} has {count} tokens, at most {limit} are read; shorten it: {text[:80]!r}...")
    return max(counts, default=1) if length is None else length


@dataclass(frozen=True)
class WordLlamaEncoder:
    """Static embeddings: one vector per token, whatever stands around it.

    Attributes:
      vectors: `[V, d]` of the vocabulary.
      tokenizer: a `tokenizers.Tokenizer`.
      longest: tokens a text may have.
      known: words that count as known beside those of the vocabulary: a model's training captions teach them.
    """

    vectors: NDArray[np.float32] = field(repr=False)
    tokenizer: Any = field(repr=False)
    longest: int = LONGEST
    known: frozenset[str] = frozenset()

    @property
    def width(self) -> int:
        """Size of a vector, d."""
        return self.vectors.shape[1]

    def knows(self, word: str) -> bool:
        """Tell whether there is a vector that means the word."""
        return word in self.known or is_word(self.tokenizer.encode(word, add_special_tokens=False).tokens)

    def neighbours(self, used: NDArray[np.float32], count: int = 8) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
        """Find words that may stand in for words in use: like them, and like no other word in use.

        A word is a neighbour of the one in use that is nearest to it, so that none of "low" is nearer to "high".

        Args:
          used: `[n, d]` distinct vectors of the vocabulary.
          count: K.

        Returns:
          Vectors `[m, d]` of all neighbours, none of them in use, and the table `[n + m, K]` of what may stand in for
          each of `used` and then each neighbour: rows of the two together, itself where there is none.
        """
        unit = lambda rows: rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)  # noqa: E731
        likeness = unit(self.vectors) @ unit(used).T
        nearest, highest = likeness.argmax(1), likeness.max(1)
        # What begins a word, less the words in use themselves; an ending has no meaning of its own.
        begins = [(self.tokenizer.id_to_token(i) or "")[:1] in _BEGINNINGS for i in range(len(self.vectors))]
        usable = np.array(begins) & (highest > LIKE) & (highest < 1.0 - 1e-4)
        table, found = np.tile(np.arange(len(used))[:, None], count), []
        for i in range(len(used)):
            near = np.flatnonzero(usable & (nearest == i))
            near = near[np.argsort(-highest[near])][:count]
            if len(near):
                table[i] = np.resize(len(used) + len(found) + np.arange(len(near)), count)
                found += near.tolist()
        itself = np.tile(len(used) + np.arange(len(found))[:, None], count)
        return self.vectors[found], np.concatenate([table, itself])

    def tokens(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        """Return one vector per token; see `TextEncoder`."""
        texts = clean(texts, self.knows)
        ids = [self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        longest = check_lengths(texts, [len(row) for row in ids], self.longest, length)
        embeddings = np.zeros((len(texts), longest, self.width), np.float32)
        mask = np.zeros((len(texts), longest), bool)
        for i, row in enumerate(ids):
            embeddings[i, : len(row)] = self.vectors[row]
            mask[i, : len(row)] = True
        return Tokens(embeddings, mask)


def check_installed() -> None:
    """Check that the extra `language` is installed, before minutes are spent on what comes ahead of it.

    Raises:
      MissingPackage: if it is not.
    """
    if importlib.util.find_spec("wordllama") is None:
        raise MissingPackage(
            "sentences need the package wordllama, which is not installed: pip install 'ldpol[language]'"
        )


def wordllama_encoder(*, longest: int = LONGEST, known: frozenset[str] = frozenset()) -> WordLlamaEncoder:
    """Load the encoder (256 numbers per token) from the files inside the wordllama package; offline.

    Args:
      longest: tokens a text may have.
      known: words not to warn of, see `lexicon.vocabulary`.

    Raises:
      MissingPackage: if the extra `language` is not installed.
      FileNotFoundError: if the installed wordllama lacks its files.
    """
    check_installed()
    with _logging_untouched():
        import wordllama

    package = Path(wordllama.__file__).parent
    # The cache folder is named, though unused, because the default one is in the user's home.
    model = wordllama.WordLlama.load(cache_dir=package, disable_download=True)
    return WordLlamaEncoder(model.embedding, model.tokenizer, longest, known)


@contextlib.contextmanager
def _logging_untouched() -> Iterator[None]:
    """Importing wordllama configures the root logger, which is the application's business."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in handlers]:
            root.removeHandler(handler)
        root.setLevel(level)
