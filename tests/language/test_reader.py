"""Sentences through a generator: what is read conditions the sample, and survives saving."""

import dataclasses
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import draw, make_generator, vector
from toy import make_toy

import ldpol
from ldpol.language.claims import Claim
from ldpol.language.lexicon import vocabulary
from ldpol.language.reader import Language, language_from_json, language_to_json, load_encoder, read
from ldpol.language.understanding import TowerConfig, make_tower, understand
from ldpol.model.condition import null_condition
from ldpol.model.denoiser import make_network
from ldpol.model.image import image_shape

CLAIMS = (Claim("forward speed", 1.0, math.inf), Claim("left", -math.inf, 0.2), Claim("right", 0.25, 0.5))
LANGUAGE = Language("wordllama", TowerConfig(hidden=8), CLAIMS, tuple(sorted(vocabulary(make_toy()))))
SAID = ["walk slowly on the left leg", "run"]


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(LANGUAGE)


def make_speaking(base=None):
    """A generator whose reader and text token have random weights."""
    base = make_generator() if base is None else base
    tower = make_tower(LANGUAGE.tower, len(CLAIMS))
    reader = jax.jit(tower.init)(jax.random.key(5), jnp.zeros((4, 256)), jnp.ones(4, bool))
    network = make_network(base.network, image_shape(base.autoencoder))
    inputs = (jnp.zeros(image_shape(base.autoencoder)), jnp.zeros(()), null_condition(2, words=len(CLAIMS)))
    denoiser = jax.jit(network.init)(jax.random.key(6), *inputs)["params"]
    leaves, structure = jax.tree.flatten((reader, denoiser))
    keys = jax.random.split(jax.random.key(7), len(leaves))
    shaken = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    reader, denoiser = jax.tree.unflatten(structure, shaken)
    return dataclasses.replace(base, reader=reader, denoiser=denoiser, language=LANGUAGE)


@pytest.fixture(scope="module")
def speaking():
    return make_speaking()


def test_reading_is_the_tower_on_each_text_alone(speaking, encoder):
    """Padding to the longest of several texts changes nothing; the tower applied by hand to one of them."""
    found = np.asarray(speaking.read(SAID, encoder))
    tower = make_tower(LANGUAGE.tower, len(CLAIMS))
    for row, text in zip(found, SAID, strict=True):
        tokens = encoder.tokens([text])
        alone = understand(tower, speaking.reader, jnp.asarray(tokens.embeddings[0]), jnp.asarray(tokens.mask[0]))
        np.testing.assert_allclose(row, alone, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3 and found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(read(LANGUAGE, speaking.reader, SAID), found, atol=1e-6)  # loads the encoder itself


def test_from_text_samples_what_was_read(speaking, encoder):
    key, text = jax.random.key(0), speaking.read(SAID, encoder)
    sample = jax.jit(lambda model, key, text, wanted: model.sample(key, wanted, text=text))
    for wanted in (None, jnp.array([-0.5, jnp.nan])):
        found = speaking.from_text(key, SAID[0], wanted, encoder=encoder, guidance=1.0)
        np.testing.assert_allclose(vector(found), vector(sample(speaking, key, text[0], wanted)), atol=1e-4)
    strong = jax.jit(lambda key, text: speaking.sample(key, text=text, guidance=2.0))(key, text[0])
    by_default = speaking.from_text(key, SAID[0], encoder=encoder)
    np.testing.assert_allclose(vector(by_default), vector(strong), atol=1e-4)
    one, other = (vector(sample(speaking, key, row, None)) for row in text)
    assert np.abs(one - other).max() > 1e-4
    silent = vector(sample(speaking, key, jnp.full(3, jnp.nan), None))
    np.testing.assert_allclose(silent, vector(draw(speaking, key)), atol=1e-5)


def test_a_batch_of_sentences_inside_jit(speaking, encoder):
    text, keys = speaking.read(SAID, encoder), jax.random.split(jax.random.key(1), 2)
    many = jax.jit(jax.vmap(lambda key, text: speaking.sample(key, text=text, quality=0.9)))(keys, text)
    one = jax.jit(lambda key, text: speaking.sample(key, text=text, quality=0.9))(keys[1], text[1])
    np.testing.assert_allclose(vector(jax.tree.map(lambda leaf: leaf[1], many)), vector(one), atol=1e-4)


def test_language_survives_saving(speaking, encoder, tmp_path):
    speaking.save(tmp_path / "model")
    loaded = ldpol.load(tmp_path / "model")
    assert loaded.language == LANGUAGE and loaded.words == 3
    np.testing.assert_array_equal(loaded.read(SAID, encoder), speaking.read(SAID, encoder))
    assert language_from_json(language_to_json(LANGUAGE)) == LANGUAGE


def test_a_model_that_reads_with_another_encoder(speaking, tmp_path):
    dataclasses.replace(speaking, language=LANGUAGE._replace(encoder="t5")).save(tmp_path / "model")
    with pytest.raises(ValueError, match="trained to read with the encoder 't5'.*it has 'wordllama'"):
        ldpol.load(tmp_path / "model").read(SAID)


def test_sampling_by_measures_needs_no_extra(speaking, monkeypatch):
    """Only sentences do, and say what to install."""
    monkeypatch.setitem(sys.modules, "wordllama", None)
    assert np.isfinite(vector(draw(speaking, jax.random.key(0)))).all()
    with pytest.raises(ImportError, match=r"not installed: pip install 'ldpol\[language\]'"):
        speaking.from_text(jax.random.key(0), "run")


def test_no_module_imports_the_extra():
    """In a process of its own, where wordllama cannot be imported."""
    program = """
import importlib, pkgutil, sys
sys.modules["wordllama"] = None
import ldpol
for module in pkgutil.walk_packages(ldpol.__path__, "ldpol."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_model_without_language():
    silent = make_generator()
    for ask in (lambda: silent.read(["run"]), lambda: silent.sample(jax.random.key(0), text=jnp.ones(3))):
        with pytest.raises(ValueError, match="trained without language; ask for measures"):
            ask()


def test_what_cannot_be_read(speaking, encoder):
    with pytest.raises(ValueError, match="put it into a list"):
        speaking.read("run", encoder)
    with pytest.raises(ValueError, match="no words"):
        speaking.from_text(jax.random.key(0), "  ", encoder=encoder)
    with pytest.raises(ValueError, match="expected the 3 numbers"):
        speaking.sample(jax.random.key(0), text=jnp.ones(4))
    for quality in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"quantile of the archive's fitness in \[0, 1\]"):
            speaking.sample(jax.random.key(0), quality=quality)
    with pytest.warns(UserWarning, match="unknown words in text 0.*qwzkj"):
        speaking.read(["walk qwzkj"], encoder)
