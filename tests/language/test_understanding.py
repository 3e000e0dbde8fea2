"""What a text claims: labels by hand, a bank that says what the encoder says, a step, and a tower that learns."""

import math
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
from language.test_captions import TASKS, grammar_of

from ldpol.language.captions import captions
from ldpol.language.claims import Claim
from ldpol.language.lexicon import vocabulary
from ldpol.language.text import Tokens, wordllama_encoder, words_of
from ldpol.language.textbank import make_bank
from ldpol.language.understanding import (
    TowerConfig,
    base_claims,
    describe_understanding,
    init_tower,
    make_tower,
    tower_step,
)
from ldpol.train_loop import OptimiserConfig, scan_steps, start_state


class HashEncoder(NamedTuple):
    """An encoder without a vocabulary: the vector of a word depends on its letters and its place."""

    width: int = 6

    def tokens(self, texts, length=None):
        rows = [[self.vector(word, i % 2) for i, word in enumerate(words_of(text))] for text in texts]
        longest = length or max(map(len, rows))
        embeddings = np.zeros((len(texts), longest, self.width), np.float32)
        for found, row in zip(embeddings, rows, strict=True):
            found[: len(row)] = row
        return Tokens(embeddings, np.arange(longest) < np.array([len(row) for row in rows])[:, None])

    def vector(self, word, place):
        return np.random.default_rng([place, *word.encode()]).normal(size=self.width).astype(np.float32)


@pytest.fixture(scope="module")
def walker():
    grammar, table = grammar_of("walker2d")
    return grammar, table, base_claims(grammar), wordllama_encoder(known=vocabulary(TASKS["walker2d"]))


def test_base_claims_are_all_that_captions_say(walker):
    grammar, table, claims, _ = walker
    assert len(set(claims)) == len(claims)
    assert claims == base_claims(grammar)
    written = [c for i, row in enumerate(table) for split in ("train", "held_out")
               for c in captions(grammar, row, count=8, seed=i, split=split)]  # fmt: skip
    assert {claim for caption in written for claim in caption.base_claims} == set(claims)
    for caption in written:
        assert len(set(caption.base_claims)) == len(caption.base_claims)
        for trait, low, high in caption.claims:
            mine = [claim for claim in caption.base_claims if claim.trait == trait]
            assert (low, high) == (max(claim.low for claim in mine), min(claim.high for claim in mine))


@pytest.mark.parametrize("static", [True, False])
def test_a_bank_holds_what_the_encoder_says(walker, static):
    grammar, table, claims, encoder = walker
    encoder = encoder if static else HashEncoder()
    written = [c for i in range(30) for c in captions(grammar, table[i], count=3, seed=(5, i))]
    bank = make_bank(claims, written, encoder)
    tokens = encoder.tokens([caption.text for caption in written])
    np.testing.assert_array_equal(bank.mask, tokens.mask)
    np.testing.assert_array_equal(np.asarray(bank.vectors[bank.ids])[tokens.mask], tokens.embeddings[tokens.mask])
    assert len(np.unique(np.asarray(bank.vectors), axis=0)) == len(bank.vectors)
    for labels, caption in zip(np.asarray(bank.labels), written, strict=True):
        assert {claim for claim, label in zip(claims, labels, strict=True) if label} == set(caption.base_claims)
    again = make_bank(claims, written, encoder)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), bank, again))
    if not static:
        np.testing.assert_array_equal(bank.neighbours, np.arange(len(bank.vectors))[:, None])


def test_neighbours_are_like_one_word_in_use_alone(walker):
    """Checked against all cosines, computed one word at a time."""
    encoder = walker[3]
    words = ["slow", "fast", "high", "low", "never", "ground"]
    used = np.concatenate([encoder.tokens([word]).embeddings[0] for word in words])
    others, table = encoder.neighbours(used, 5)
    assert table.shape == (len(words) + len(others), 5)
    both = np.concatenate([used, others])
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    assert (table[: len(words)] >= len(words)).any()
    for i, row in enumerate(table):
        if i >= len(words):
            assert (row == i).all()
            continue
        for j in set(row.tolist()) - {i}:
            assert j >= len(words)
            near = [cosine(both[j], word) for word in used]
            assert np.argmax(near) == i
            assert 0.4 < near[i] < 1.0 - 1e-4


def test_claims_that_are_not_labels(walker):
    grammar, table, claims, encoder = walker
    with pytest.raises(ValueError, match="not among the labels.*forward speed"):
        make_bank(claims[1:], captions(grammar, table[0], count=9, seed=5), encoder)


@pytest.fixture(scope="module")
def trained(walker):
    grammar, table, claims, encoder = walker
    config = TowerConfig(batch=64, noise=0.2)
    written = [c for i, row in enumerate(table) for c in captions(grammar, row, count=4, seed=i)]
    bank = make_bank(claims, written, encoder)
    optimiser = OptimiserConfig(steps=200, rate=2e-2, warmup=10, ema=0.95)
    tower = make_tower(config, len(claims))
    traces = []

    def step(state, key):
        traces.append(1)
        return tower_step(tower, config, optimiser, bank, state, key)

    run = jax.jit(partial(scan_steps, step), static_argnames="steps")
    state = start_state(optimiser, init_tower(tower, bank, jax.random.key(0)))
    state, first = run(state, jax.random.key(1), steps=50)
    losses = [float(first["loss"])]
    for _ in range(3):
        state, metrics = run(state, jax.random.key(1), steps=50)
        losses.append(float(metrics["loss"]))
    return tower, state, losses, len(traces)


def test_a_tower_learns(trained):
    _, state, losses, traces = trained
    assert traces == 1
    assert int(state.step) == 200
    assert losses[-1] < 0.5 * losses[0]


def test_describe_by_hand():
    claims = [
        Claim("forward speed", 0.1, math.inf),
        Claim("forward speed", 1.2204, math.inf),
        Claim("left foot", -math.inf, 0.15),
        Claim("pitch", -0.1, 0.1),
        Claim("left foot", 0.4, 0.6),
    ]
    say = partial(describe_understanding, claims)
    assert say([0.9, 0.8, 0.7, 0.2, 0.1]) == "forward speed >= 1.22 m/s, left foot < 0.15"
    assert say([0.9, 0.2, 0.1, 0.7, 0.1]) == "forward speed >= 0.1 m/s, -0.1 <= pitch < 0.1 rad"
    assert say([0.9, 0.2, 0.1, 0.7, 0.1], 0.95) == "nothing"
    assert say([0.0, 0.0, 0.9, 0.0, 0.9]) == "left foot contradictory"
    assert say([0.0, 0.0, 0.6, 0.0, 0.9]) == "0.4 <= left foot < 0.6"
    assert say([0.0, 0.0, 0.9, 0.0, 0.6]) == "left foot < 0.15"
    with pytest.raises(ValueError, match=r"expected 5 probabilities, found shape \(2,\)"):
        say([0.5, 0.5])


def test_the_words_of_every_task_can_be_labels():
    for name in TASKS:
        assert len(base_claims(grammar_of(name)[0])) > 10
