"""Stored in fewer bits: how far rounding moves a number, what a file weighs, and what comes back from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import make_generator

from ldpol import precision, storage


@pytest.fixture(scope="module")
def generator():
    return make_generator()


@pytest.mark.parametrize("shape", [(3, 100), (100, 3), (3, 3, 4, 16), (40, 40), (64,)])
def test_int8_error_is_half_a_step_of_the_block(shape):
    sizes = 10.0 ** jax.random.uniform(jax.random.key(1), shape[:-1] + (1,), minval=-3)
    tensor = np.asarray(jax.random.normal(jax.random.key(0), shape) * sizes)
    stored = precision.quantise(tensor)
    assert stored["int8"].dtype == jnp.int8 and stored["int8"].shape == shape
    blocks = [tensor.reshape(-1)[start : start + 64] for start in range(0, tensor.size, 64)]
    assert stored["scale"].shape == (len(blocks),) and stored["scale"].dtype == jnp.float16
    back = np.asarray(precision.expand(stored)).reshape(-1)
    for number, block in enumerate(blocks):
        scale = float(stored["scale"][number])
        np.testing.assert_allclose(scale, np.abs(block).max() / 127, rtol=2.0**-11)
        assert np.abs(back[64 * number : 64 * number + block.size] - block).max() <= 0.5001 * scale
    # The largest number of all is the last level exactly.
    assert np.abs(stored["int8"]).max() == 127


def test_small_weights_of_one_input_keep_their_digits():
    """A kernel whose first input is a hundred times larger than the others, and its weights as much smaller."""
    kernel = jax.random.normal(jax.random.key(0), (17, 64)).at[0].multiply(0.01)
    back = precision.expand(precision.quantise(kernel))
    assert jnp.abs(back - kernel)[0].max() < jnp.abs(kernel[0]).max() / 250 < jnp.abs(kernel).max() / 250 / 30


def test_blocks_of_zeros_stay_zero():
    # 127 steps of 1/64 in one block, nothing in the other twelve: both come back exactly.
    matrix = jnp.zeros((40, 20)).at[1, 3].set(127 / 64)
    np.testing.assert_array_equal(precision.expand(precision.compress(matrix, "int8")), matrix)


@pytest.mark.parametrize(("name", "error"), [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_precision_rounds_by_its_mantissa(name, error):
    tree = {"a": jax.random.normal(jax.random.key(0), (30, 20)), "steps": jnp.arange(3)}
    back = precision.expand(precision.compress(tree, name))
    assert back["a"].dtype == jnp.float32 and back["steps"].dtype == jnp.int32
    assert (jnp.abs(back["a"] - tree["a"]) <= error * jnp.abs(tree["a"])).all()


def test_small_tensors_and_vectors_stay_in_half_precision():
    stored = precision.compress(
        {"vector": jnp.ones(1000), "small": jnp.ones((3, 3)), "big": jnp.ones((20, 20))}, "int8"
    )
    assert stored["vector"].dtype == stored["small"].dtype == jnp.float16
    assert set(stored["big"]) == {"int8", "scale"}


def test_vmap_is_a_loop():
    batch = jax.random.normal(jax.random.key(0), (5, 20, 30))
    together = jax.vmap(precision.quantise)(batch)
    for i in range(5):
        alone = precision.quantise(batch[i])
        np.testing.assert_array_equal(together["int8"][i], alone["int8"])
        np.testing.assert_allclose(together["scale"][i], alone["scale"], rtol=1e-6)


def test_precisions_are_ordered_by_weight(generator):
    four, half, brain, one = (
        storage.nbytes(precision.compress(generator, name)) for name in ("float32", "float16", "bfloat16", "int8")
    )
    assert half > one and abs(half - brain) < 500
    # Two bytes less a number; the names of the types in the header differ by a letter or so a tensor.
    assert abs(four - half - 2 * precision.size(generator)) < 500


def test_unknown_names(generator):
    with pytest.raises(ValueError, match="unknown precision 'int4'; choose one of float32"):
        precision.compress(generator, "int4")
