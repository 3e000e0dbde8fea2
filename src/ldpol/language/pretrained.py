"""Pretrained language models as text encoders, from a local folder: T5, MiniLM, BERT, ...

Needs the extra `ldpol[transformers]`. Nothing is downloaded: give a folder that holds a model and its tokenizer,
as `save_pretrained` writes it.
"""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldpol.errors import UserError
from ldpol.language.text import LONGEST, Tokens, check_lengths, clean, is_word, pool

BATCH = 64


@dataclass(frozen=True)
class TransformersEncoder:
    """Last hidden state of a transformer's encoder; a text's vector is the mean over its tokens.

    Attributes:
      model: a `transformers` encoder in evaluation mode.
      tokenizer: its tokenizer.
      longest: tokens a text may have, special ones included.
      known: words that count as known beside those of the vocabulary.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    longest: int = LONGEST
    known: frozenset[str] = frozenset()

    @property
    def width(self) -> int:
        """Size of a vector, d."""
        return int(self.model.config.hidden_size)

    def knows(self, word: str) -> bool:
        """Tell whether the vocabulary has the word, if only as a stem with an ending."""
        pieces = self.tokenizer.tokenize(word)
        return word in self.known or (self.tokenizer.unk_token not in pieces and is_word(pieces))

    def tokens(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        """Return a vector a token; see `TextEncoder`."""
        torch = importlib.import_module("torch")
        texts = clean(texts, self.knows)
        counts = [len(ids) for ids in self.tokenizer(texts)["input_ids"]] if texts else []
        longest = check_lengths(texts, counts, min(self.longest, self.tokenizer.model_max_length), length)
        embeddings = np.zeros((len(texts), longest, self.width), np.float32)
        mask = np.arange(longest) < np.array(counts, int)[:, None]
        for begin in range(0, len(texts), BATCH):
            part = slice(begin, begin + BATCH)
            batch = self.tokenizer(texts[part], padding=True, padding_side="right", return_tensors="pt")
            with torch.no_grad():
                found = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            states = found.last_hidden_state.float().numpy()
            embeddings[part, : states.shape[1]] = states
        return Tokens(embeddings * mask[..., None], mask)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean vector of each text `[n, d]`; see `TextEncoder`."""
        return pool(self.tokens(texts))


def transformers_encoder(
    folder: Path, *, longest: int = LONGEST, known: frozenset[str] = frozenset()
) -> TransformersEncoder:
    """Load a pretrained encoder from a local folder; of an encoder-decoder such as T5, the encoder alone.

    Args:
      folder: with `config.json`, the weights as safetensors and the tokenizer. No code in it is executed.
      longest: tokens a text may have.
      known: words not to warn of, see `lexicon.vocabulary`.

    Raises:
      ImportError: if `transformers` or `torch` is not installed.
      FileNotFoundError: if the folder holds no model.
      ValueError: if what it holds cannot be loaded.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model: expected config.json, model.safetensors and a tokenizer, as save_pretrained of "
            "transformers writes them; nothing is downloaded"
        )
    try:
        importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            f"a pretrained text encoder needs {error.name}, which is not installed: pip install 'ldpol[transformers]', "
            "or use wordllama_encoder, which needs neither"
        ) from error
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _no_progress_bar(transformers):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            model = transformers.AutoModelForTextEncoding.from_pretrained(folder, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"the model in {folder} cannot be loaded as a text encoder: {error}") from error
    return TransformersEncoder(model.eval(), tokenizer, longest, known)


@contextlib.contextmanager
def _no_progress_bar(transformers: Any) -> Iterator[None]:
    settings = transformers.utils.logging
    shown = settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            settings.enable_progress_bar()
