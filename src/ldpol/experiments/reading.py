"""The part of the train stage that learns to read: captions of the elites, the reader, and what it makes of them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.experiments import session, settings
from ldpol.experiments.settings import Config
from ldpol.language import lexicon
from ldpol.language.captions import Grammar, captions, make_grammar
from ldpol.language.claims import Claim, Levels, measure_levels
from ldpol.language.reader import Language, make_encoder
from ldpol.language.textbank import TextBank, make_bank
from ldpol.language.tower import TextTower
from ldpol.language.understanding import TowerConfig, base_claims, init_tower, make_tower, tower_step, understand
from ldpol.model.bank import CaptionBank
from ldpol.model.optimiser import OptimiserConfig, TrainState, start_state
from ldpol.tasks import Task
from ldpol.traits import columns
from ldpol.types import Array, Key, PyTree

SOFTNESS = 0.01
"""Width over which a claim turns from true to false, in spans of its trait: traits are means of a few episodes."""
LEAST = 50.0
"""A claim that is false is as unlikely as this, in nats, so that sums of them stay finite."""
Train = Callable[[Callable[..., tuple[TrainState, dict[str, Array]]], TrainState, Key, int, PyTree], TrainState]
"""`(step, state, key, steps, inputs) -> state` with checkpoints and progress."""


def grammar_of(task: Task, traits: np.ndarray) -> Grammar:
    """Return what can be said of the behaviours `[N, C]` that a model was trained on."""
    return make_grammar(task, measure_levels([column.name for column in columns(task)], traits))


def train_reader(
    config: Config, task: Task, traits: np.ndarray, key: Key, train: Train
) -> tuple[Language, PyTree, CaptionBank]:
    """Write captions of all elites, learn to read them, and read them.

    Args:
      config: section `train.language`.
      task: the task.
      traits: `[N, C]` of the elites that training sees.
      key: decides initialisation and training.
      train: runs the gradient steps.

    Returns:
      What the reader was trained on, its parameters, and the elites' captions as it reads them.
    """
    grammar = grammar_of(task, traits)
    claims = base_claims(grammar)
    architecture = settings.build(TowerConfig, config.tower)
    descent = settings.build(OptimiserConfig, config.optimiser)
    language = Language(config.encoder, architecture, claims, tuple(sorted(lexicon.vocabulary(task))))
    with session.working("train: captions of the archive"):
        encoder = make_encoder(language.encoder, language.known)
        said = [captions(grammar, row, count=config.captions, seed=i) for i, row in enumerate(traits)]
        bank = make_bank(claims, [caption for of_one in said for caption in of_one], encoder)
    tower = make_tower(architecture, len(claims))
    init_key, train_key = jax.random.split(key)
    state = start_state(descent, init_tower(tower, bank, init_key))

    def step(state: TrainState, key: Key, bank: TextBank) -> tuple[TrainState, dict[str, Array]]:
        return tower_step(tower, architecture, descent, bank, state, key)

    params = train(step, state, train_key, descent.steps, bank).ema
    read = jax.jit(lambda rows: jax.lax.map(lambda row: _read(tower, params, bank, row), rows, batch_size=256))
    texts = read(jnp.arange(bank.ids.shape[0]))
    shape = (len(traits), config.captions, len(claims))
    truth = _truth(grammar.levels, claims, traits)
    return language, params, CaptionBank(texts.reshape(shape), bank.labels.reshape(shape), jnp.asarray(truth))


def _read(tower: TextTower, params: PyTree, bank: TextBank, row: Array) -> Array:
    return understand(tower, params, bank.vectors[bank.ids[row]], bank.mask[row])


def _truth(levels: Levels, claims: Sequence[Claim], traits: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of each claim for each elite `[N, L]`: a logistic function at either end."""
    truth = np.zeros((len(traits), len(claims)))
    for one, (trait, low, high) in zip(truth.T, claims, strict=True):
        first, last = levels.spans[trait]
        values, width = traits[:, levels.names.index(trait)], max(SOFTNESS * (last - first), 1e-6)
        for distance in ((values - low) / width, (high - values) / width):
            one -= np.logaddexp(0.0, -distance)
    return np.maximum(truth, -LEAST).astype(np.float32)
