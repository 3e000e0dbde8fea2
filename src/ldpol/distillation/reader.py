"""The seam to language: captions of the elites, a reader that learns from them, and what it makes of them."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive import Archive
from ldpol.distillation.config import LanguageConfig
from ldpol.distillation.targets import CaptionDataset
from ldpol.errors import UserError
from ldpol.hooks import Hooks
from ldpol.language import lexicon
from ldpol.language.captions import Grammar, captions, make_grammar
from ldpol.language.claims import Claim, Levels, measure_levels
from ldpol.language.reader import WORDLLAMA, Language, load_encoder
from ldpol.language.text import check_installed
from ldpol.language.textbank import TextBank, make_bank
from ldpol.language.tower import TextTower
from ldpol.language.understanding import TowerConfig, base_claims, init_tower, make_tower, tower_step, understand
from ldpol.model.answering import LEAST
from ldpol.tasks import Task
from ldpol.train_loop import OptimiserConfig, TrainState, start_state
from ldpol.traits import columns, has_traits
from ldpol.types import Array, Key, PyTree

SOFTNESS = 0.01
"""Width over which a claim about an elite turns from true to false, in spans of its trait."""


def grammar_of(task: Task, traits: np.ndarray) -> Grammar:
    """Return what can be said of the behaviours `[N, C]` that a model was trained on."""
    return make_grammar(task, measure_levels([column.name for column in columns(task)], traits))


def learns_to_read(config: LanguageConfig, archive: Archive, task: Task | None) -> bool:
    """Return whether a model of this archive gets a reader; to be asked before minutes are spent on the rest of it.

    Raises:
      UserError: if it should, but the archive has no traits to speak of, or the extra `language` is not installed.
    """
    if not config.captions or task is None or not has_traits(task):
        return False
    if archive.traits is None:
        raise UserError(
            "captions speak of what the elites do, which this archive does not hold: pass it through "
            "`ldpol.reevaluate` first, or set language.captions to 0"
        )
    check_installed()
    return True


def train_reader(
    config: LanguageConfig, archive: Archive, task: Task | None, *, hooks: Hooks, key: Key
) -> tuple[Language | None, PyTree, CaptionDataset | None]:
    """Write captions of all elites, learn to read them, and read them.

    Args:
      config: settings.
      archive: the elites that training sees, re-evaluated: captions speak of their traits.
      task: the task; None: there is nothing to say.
      hooks: of the caller.
      key: decides initialisation and training.

    Returns:
      What the reader was trained on, its parameters, and the elites' captions as it reads them; None, nothing and None
      for a model without language.

    Raises:
      UserError: see `learns_to_read`.
    """
    if task is None or not learns_to_read(config, archive, task):
        return None, {}, None
    traits = np.asarray(archive.traits)
    grammar = grammar_of(task, traits)
    claims = base_claims(grammar)
    language = Language(WORDLLAMA, config.tower, claims, tuple(sorted(lexicon.vocabulary(task))))
    with hooks.progress("captions of the archive", 1, "step"):
        encoder = load_encoder(language)
        written = [captions(grammar, row, count=config.captions, seed=i) for i, row in enumerate(traits)]
        bank = make_bank(claims, [caption for of_one in written for caption in of_one], encoder)
    tower = make_tower(config.tower, len(claims))
    init_key, train_key = jax.random.split(key)
    state = start_state(config.optimiser, init_tower(tower, bank, init_key))
    step = partial(_step, tower, config.tower, config.optimiser)
    params = hooks.fit("reader", step, state, train_key, bank, config.optimiser.steps, hooks.log).ema
    read = jax.jit(lambda rows: jax.lax.map(lambda row: _read(tower, params, bank, row), rows, batch_size=256))
    texts = read(jnp.arange(bank.ids.shape[0]))
    shape = (len(traits), config.captions, len(claims))
    truth = claim_likelihoods(grammar.levels, claims, traits)
    return language, params, CaptionDataset(texts.reshape(shape), bank.labels.reshape(shape), jnp.asarray(truth))


def _step(
    tower: TextTower, config: TowerConfig, descent: OptimiserConfig, state: TrainState, key: Key, bank: TextBank
) -> tuple[TrainState, dict[str, Array]]:
    return tower_step(tower, config, descent, bank, state, key)


def _read(tower: TextTower, params: PyTree, bank: TextBank, row: Array) -> Array:
    return understand(tower, params, bank.vectors[bank.ids[row]], bank.mask[row])


def claim_likelihoods(levels: Levels, claims: Sequence[Claim], traits: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of each claim for each elite `[N, L]`: a logistic function at either end."""
    truth = np.zeros((len(traits), len(claims)))
    for one, (trait, low, high) in zip(truth.T, claims, strict=True):
        first, last = levels.spans[trait]
        values, width = traits[:, levels.names.index(trait)], max(SOFTNESS * (last - first), 1e-6)
        for distance in ((values - low) / width, (high - values) / width):
            one -= np.logaddexp(0.0, -distance)
    return np.maximum(truth, -LEAST).astype(np.float32)
