"""Policies: layouts round-trip, and the MLP against a second implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.networks import MLP, fold_normaliser, shape_of, unfold_normaliser

SHAPE = MLP(5, 2, (8, 4))


@pytest.fixture(scope="module")
def params():
    params = jax.jit(SHAPE.init)(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 6))
    return jax.tree.map(lambda leaf: leaf + 0.5 * jax.random.normal(next(keys), leaf.shape), params)


def mlp(params, observation):
    """The policy's mean in NumPy, double precision."""
    x = np.asarray(observation, np.float64)
    layers = params["params"]
    for i in range(len(layers)):
        x = x @ np.asarray(layers[f"Dense_{i}"]["kernel"], np.float64) + np.asarray(layers[f"Dense_{i}"]["bias"])
        if i + 1 < len(layers):
            x = np.tanh(x)
    return x


def test_mlp_agrees_with_numpy(params):
    observations = jax.random.normal(jax.random.key(2), (64, 5))
    expected = mlp(params, observations)
    assert (np.abs(expected) > 1).any()
    assert (np.abs(expected) < 1).any()
    mean = SHAPE.module().apply(params, observations, method="mean")
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(SHAPE.apply(params, observations), np.clip(expected, -1, 1), rtol=1e-5, atol=1e-5)
    apply = jax.jit(SHAPE.apply)
    one_by_one = np.stack([apply(params, row) for row in observations])
    np.testing.assert_allclose(one_by_one, np.clip(expected, -1, 1), rtol=1e-5, atol=1e-5)


def test_sizes_by_hand():
    assert SHAPE.tensors == ((8,), (5, 8), (4,), (8, 4), (2,), (4, 2))
    assert SHAPE.size == 8 + 40 + 4 + 32 + 2 + 8
    assert MLP(3, 1, ()).size == 4


def test_flatten_orders_bias_before_kernel_row_major(params):
    layers = params["params"]
    expected = np.concatenate(
        [np.asarray(layers[f"Dense_{i}"][name]).ravel() for i in range(3) for name in ("bias", "kernel")]
    )
    np.testing.assert_array_equal(SHAPE.flatten(params), expected)


def test_flatten_and_unflatten_are_inverse(params):
    back = SHAPE.unflatten(SHAPE.flatten(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    vector = jnp.arange(SHAPE.size, dtype=jnp.float32)
    np.testing.assert_array_equal(SHAPE.flatten(SHAPE.unflatten(vector)), vector)
    batch = jnp.stack([vector, vector + 1])
    np.testing.assert_array_equal(jax.vmap(SHAPE.flatten)(jax.vmap(SHAPE.unflatten)(batch)), batch)


@pytest.mark.parametrize("shape", [SHAPE, MLP(3, 1, ()), MLP(1, 4, (12,) * 11)])
def test_shape_of_reads_the_shape_back(shape):
    params = jax.jit(shape.init)(jax.random.key(0))
    assert shape_of(params) == shape
    assert shape_of(jax.tree.map(lambda leaf: leaf[None], params), batched=True) == shape


@pytest.mark.parametrize(
    ("params", "batched"),
    [
        ({}, False),
        ({"params": {}}, False),
        (jnp.zeros(3), False),
        ({"params": {"Conv_0": {"kernel": jnp.zeros((3, 2))}}}, False),
        ({"params": {"Dense_0": {"kernel": jnp.zeros((3, 2))}, "Norm": {"kernel": jnp.zeros((3, 2))}}}, False),
        ({"params": {"Dense_0": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}}, True),
        ({"params": {"Dense_0": {"kernel": jnp.zeros((7, 3, 2)), "bias": jnp.zeros((7, 2))}}}, False),
    ],
)
def test_shape_of_refuses_other_trees(params, batched):
    with pytest.raises(ValueError, match="not the parameters of an MLP policy"):
        shape_of(params, batched)


def test_folding_a_normaliser_equals_normalising_first(params):
    mean = jnp.array([1.0, -3.0, 0.0, 10.0, 0.1])
    std = jnp.array([0.5, 2.0, 1.0, 7.0, 0.05])
    before = jax.tree.map(np.array, params)
    folded = fold_normaliser(params, mean, std)
    raw = mean + 2 * std * jax.random.normal(jax.random.key(3), (64, 5))
    np.testing.assert_allclose(mlp(folded, raw), mlp(params, (raw - mean) / std), rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert shape_of(folded) == SHAPE


def test_unfolding_is_the_inverse_of_folding():
    shape = MLP(5, 2, (7,))
    params = shape.init(jax.random.key(0))
    mean, std = jnp.linspace(-3.0, 40.0, 5), jnp.array([0.01, 0.5, 1.0, 7.0, 30.0])
    back = unfold_normaliser(fold_normaliser(params, mean, std), mean, std)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3), back, params)
    # Any normaliser can be taken out of a policy that was trained without one.
    raw = jnp.linspace(-2.0, 2.0, 5)
    taken = shape.apply(unfold_normaliser(params, mean, std), (raw - mean) / std)
    np.testing.assert_allclose(taken, shape.apply(params, raw), rtol=1e-4, atol=1e-4)
