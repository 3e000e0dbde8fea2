"""The text encoder and the tower: known vectors, offline loading, bad prompts, padding that must not matter."""

import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from language.test_captions import TASKS, grammar_of

from ldpol.language.captions import captions
from ldpol.language.lexicon import vocabulary
from ldpol.language.text import TextEncoder, clean, is_word, wordllama_encoder, words_of
from ldpol.language.tower import TextTower


def means(encoder, texts):
    """The mean vector of each text's tokens `[n, d]`."""
    return np.stack([rows[there].mean(0) for rows, there in zip(*encoder.tokens(texts), strict=True)])


TEXTS = ["hop on the left foot, fast", "walk", "The robot moves slowly without ever leaving the ground."]


@pytest.fixture(scope="module")
def encoder():
    """Loaded while every attempt to reach the network fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("something tried to reach the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        return wordllama_encoder(known=vocabulary(TASKS["walker2d"]))


def test_an_encoder_keeps_the_protocol(encoder):
    checked: TextEncoder = encoder  # for the type checker
    assert checked.width == 256
    tokens = checked.tokens(TEXTS)
    assert tokens.embeddings.shape == (3, tokens.mask.sum(1).max(), 256)
    assert tokens.embeddings.dtype == np.float32
    assert checked.tokens([]).mask.shape == (0, 1)


def test_vectors_are_those_of_wordllama(encoder):
    """Its own embedding of the same texts, in lower case."""
    import wordllama

    package = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=package, disable_download=True)
    texts = [text.lower() for text in TEXTS]
    np.testing.assert_allclose(means(encoder, TEXTS), model.embed(texts), rtol=1e-5, atol=1e-6)
    table = model.embedding
    ids = model.tokenizer.encode("hop", add_special_tokens=False).ids
    np.testing.assert_array_equal(encoder.tokens(["hop"]).embeddings[0], table[ids])


def test_case_and_blanks_do_not_matter(encoder):
    one, other = encoder.tokens(["Walk  FAST\n"]), encoder.tokens(["walk fast"])
    np.testing.assert_array_equal(one.embeddings, other.embeddings)


def test_padding_is_zero(encoder):
    short, long = encoder.tokens(TEXTS), encoder.tokens(TEXTS, 64)
    assert long.embeddings.shape == (3, 64, 256)
    np.testing.assert_array_equal(long.mask.sum(1), short.mask.sum(1))
    assert not long.embeddings[~long.mask].any()
    np.testing.assert_array_equal(long.embeddings[long.mask], short.embeddings[short.mask])


def test_similar_words_are_near(encoder):
    """What makes held-out synonyms possible at all."""
    fast, quickly, left = (vector / np.linalg.norm(vector) for vector in means(encoder, ["fast", "quickly", "left"]))
    assert fast @ quickly > fast @ left + 0.2


def test_loading_leaves_logging_alone():
    """In a process of its own, where nothing has configured the root logger before."""
    program = """
import logging
from ldpol.language.text import wordllama_encoder
wordllama_encoder()
root = logging.getLogger()
assert (root.handlers, root.level) == ([], logging.WARNING), (root.handlers, root.level)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("name", TASKS)
def test_captions_are_understood(name, split, encoder):
    """No warning of an unknown word, held-out synonyms included; none is too long."""
    grammar, table = grammar_of(name)
    reader = wordllama_encoder(known=vocabulary(TASKS[name]))
    texts = [c.text for i, row in enumerate(table[:100]) for c in captions(grammar, row, count=6, seed=i, split=split)]
    assert reader.tokens(texts).mask.any(1).all()


def test_unknown_words_are_named(encoder):
    with pytest.warns(
        UserWarning, match=r"unknown words in text 1, .* understood: xqzzv, fsat \(in 'Walk xqzzv, fsat'\)"
    ):
        found = encoder.tokens(["walk", "Walk xqzzv, fsat"])
    assert found.mask.any(1).all()
    with pytest.raises(ValueError, match="no word of text 0 is known: 'xqzzv blorp'"):
        encoder.tokens(["xqzzv blorp"])


@pytest.mark.parametrize("empty", ["", "  \n", "!?", "12 34", "😀"])
def test_empty_prompts(encoder, empty):
    with pytest.raises(ValueError, match="text 1 has no words: .*describe a behaviour, such as"):
        encoder.tokens(["walk", empty])


def test_prompts_of_another_kind(encoder):
    with pytest.raises(ValueError, match="expected a list of texts, found the single text 'walk'"):
        encoder.tokens("walk")
    with pytest.raises(ValueError, match="text 0 is not a string but float: 1.0"):
        encoder.tokens([1.0])
    with pytest.raises(ValueError, match="text 0 is not a string but NoneType"):
        encoder.tokens([None])


def test_very_long_prompts(encoder):
    with pytest.raises(ValueError, match=r"text 1 has 200 tokens, at most 64 are read; shorten it: 'walk walk"):
        encoder.tokens(["walk", "walk " * 200])
    with pytest.raises(ValueError, match=r"text 0 has 7 tokens, at most 4 are read"):
        encoder.tokens(["walk on the left foot very slowly"], 4)
    assert wordllama_encoder(longest=300).tokens(["walk " * 200]).mask.sum() == 200


def test_words_by_hand():
    assert words_of("Don't hop, left-leaning robot2!") == ["don't", "hop", "left", "leaning", "robot"]
    assert is_word(["▁walk"])
    assert is_word(["▁swift", "ly"])
    assert is_word(["walk", "##er"])
    assert not is_word(["▁x", "q", "zz", "v"])
    assert not is_word(["▁flor", "bin", "ate"])
    assert clean(["A  b"], {"a", "b"}.__contains__) == ["a b"]


# Tower


@pytest.fixture(scope="module")
def tower():
    module = TextTower(16, hidden=32)
    rng = np.random.default_rng(0)
    embeddings = jnp.asarray(rng.normal(size=(5, 9, 24)), jnp.float32)
    mask = jnp.arange(9)[None] < jnp.array([9, 1, 4, 7, 2])[:, None]
    params = module.init(jax.random.key(0), embeddings[0], mask[0])
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    return jax.jit(module.apply), module, params, embeddings, mask


def test_padding_does_not_matter(tower):
    apply, _, params, embeddings, mask = tower
    for i, length in enumerate([9, 1, 4, 7, 2]):
        alone = apply(params, embeddings[i, :length], jnp.ones(length, bool))
        assert alone.shape == (16,)
        np.testing.assert_allclose(apply(params, embeddings[i], mask[i]), alone, rtol=1e-5, atol=1e-6)
        longer = jnp.pad(embeddings[i, :length], ((0, 20), (0, 0)), constant_values=jnp.nan)
        there = jnp.arange(length + 20) < length
        np.testing.assert_allclose(apply(params, longer, there), alone, rtol=1e-5, atol=1e-6)


def test_tower_vmap_is_loop_and_jit_is_eager(tower):
    apply, module, params, embeddings, mask = tower
    batch = jax.vmap(partial(module.apply, params))(embeddings, mask)
    assert batch.shape == (5, 16)
    for i in range(5):
        np.testing.assert_allclose(batch[i], apply(params, embeddings[i], mask[i]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            batch[i], module.apply(params, embeddings[i], mask[i].astype(jnp.float32)), rtol=1e-5, atol=1e-6
        )


def test_the_order_of_words_matters(tower):
    apply, _, params, embeddings, mask = tower
    swapped = embeddings[0][jnp.array([4, 1, 2, 3, 0, 5, 6, 7, 8])]
    assert np.abs(apply(params, swapped, mask[0]) - apply(params, embeddings[0], mask[0])).max() > 1e-2


def test_gradients_are_finite_and_empty_texts_are_constant(tower):
    _, module, params, embeddings, _ = tower

    @jax.jit
    def loss(params, embeddings, mask):
        return (module.apply(params, embeddings, mask) ** 2).sum()

    for count in (0, 1, 9):
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, embeddings[0], jnp.arange(9) < count)
        chex.assert_tree_all_finite(gradients)
        assert not np.asarray(gradients[1])[count:].any()
    empty = jnp.zeros(9, bool)
    assert float(loss(params, embeddings[0], empty)) == float(loss(params, embeddings[1], empty))


def test_what_a_tower_does_not_take(tower):
    _, module, params, embeddings, mask = tower
    with pytest.raises(ValueError, match=r"takes one text: .*found \(5, 9, 24\) and \(5, 9\); for a batch, jax.vmap"):
        module.apply(params, embeddings, mask)
    with pytest.raises(ValueError, match="window = 4 has no middle; choose an odd number"):
        TextTower(16, window=4).init(jax.random.key(0), embeddings[0], mask[0])


def test_a_tower_learns_which_foot(encoder):
    """A mean of static vectors cannot tell the two texts apart; the tower must."""
    texts = [
        "with the left foot in the air and the right foot on the ground",
        "with the right foot in the air and the left foot on the ground",
    ]
    tokens = encoder.tokens(texts)
    np.testing.assert_allclose(*means(encoder, texts), atol=1e-5)
    module = TextTower(1, window=5)
    embeddings, mask, target = jnp.asarray(tokens.embeddings), jnp.asarray(tokens.mask), jnp.array([[1.0], [-1.0]])

    def loss(params):
        return ((jax.vmap(partial(module.apply, params))(embeddings, mask) - target) ** 2).mean()

    @jax.jit
    def fit(params):
        def step(params, _):
            value, gradients = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients), value

        return jax.lax.scan(step, params, None, length=100)[1]

    losses = fit(module.init(jax.random.key(0), embeddings[0], mask[0]))
    assert losses[-1] < 0.05 < 0.5 < losses[0]
