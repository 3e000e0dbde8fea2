"""The part of the train stage that learns to read: captions of the elites, the reader, and what it makes of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.experiments import session, settings
from ldpol.experiments.settings import Config
from ldpol.language import lexicon
from ldpol.language.captions import Caption, Grammar, captions, make_grammar
from ldpol.language.claims import measure_levels
from ldpol.language.reader import Language, make_encoder
from ldpol.language.textbank import TextBank, make_bank
from ldpol.language.tower import TextTower
from ldpol.language.understanding import TowerConfig, base_claims, init_tower, make_tower, tower_step, understand
from ldpol.model.bank import CaptionBank, Claimed
from ldpol.model.optimiser import OptimiserConfig, TrainState, start_state
from ldpol.tasks import Task
from ldpol.traits import columns
from ldpol.types import Array, Key, PyTree

SOFTNESS = 0.01
"""Width over which a claim turns from true to false, in spans of its trait: traits are means of a few episodes."""
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
    claimed = jax.tree.map(lambda *rows: np.stack(rows), *(_bounds(of_one, grammar.levels.names) for of_one in said))
    spans = np.asarray([high - low for low, high in (grammar.levels.spans[name] for name in grammar.levels.names)])
    softness = jnp.asarray(np.maximum(SOFTNESS * spans, 1e-6), jnp.float32)
    shape = (len(said), config.captions, len(claims))
    return language, params, CaptionBank(texts.reshape(shape), claimed, jnp.asarray(traits), softness)


def _read(tower: TextTower, params: PyTree, bank: TextBank, row: Array) -> Array:
    return understand(tower, params, bank.vectors[bank.ids[row]], bank.mask[row])


def _bounds(said: list[Caption], names: tuple[str, ...]) -> Claimed:
    """Return what the P captions of an elite claim of each trait, `[P, C]`."""
    low = np.full((len(said), len(names)), -np.inf, np.float32)
    high = -low
    for i, caption in enumerate(said):
        for claim in caption.claims:
            place = names.index(claim.trait)
            low[i, place], high[i, place] = claim.low, claim.high
    return Claimed(jnp.asarray(low), jnp.asarray(high))
