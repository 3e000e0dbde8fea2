import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.model.condition import (
    Condition,
    ConditionEmbedding,
    Drop,
    drop,
    fourier_features,
    joint_features,
    make_condition,
    null_condition,
    unconditional,
)


def test_nan_leaves_a_measure_free():
    condition = make_condition(jnp.array([0.25, jnp.nan, 1.0]))
    np.testing.assert_array_equal(condition.measures, [0.25, 0.0, 1.0])
    np.testing.assert_array_equal(condition.mask, [1.0, 0.0, 1.0])


def test_all_nan_asks_for_nothing():
    free, none = make_condition(jnp.full(3, jnp.nan)), null_condition(3)
    np.testing.assert_array_equal(free.measures, none.measures)
    np.testing.assert_array_equal(free.mask, none.mask)


def test_gradient_reaches_given_measures_only():
    gradient = jax.grad(lambda m: (make_condition(m).measures ** 2).sum())(jnp.array([0.25, jnp.nan]))
    np.testing.assert_allclose(gradient, [0.5, 0.0])


@pytest.mark.parametrize(("everything", "each", "kept"), [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_drop_certainties(everything, each, kept):
    dropped = drop(jax.random.key(0), make_condition(jnp.array([0.3, 0.7])), Drop(everything, each))
    np.testing.assert_array_equal(dropped.mask, [kept, kept])
    np.testing.assert_allclose(dropped.measures, np.array([0.3, 0.7], np.float32) * kept)


def test_drop_probabilities_are_those_asked_for():
    """P(both kept) = (1 - p)(1 - q)^2, P(both gone) = p + (1 - p) q^2; the two slots are exchangeable."""
    p, q, count = 0.2, 0.3, 20_000
    keys = jax.random.split(jax.random.key(1), count)
    condition = make_condition(jnp.array([0.3, 0.7]))
    given = np.asarray(jax.jit(jax.vmap(lambda key: drop(key, condition, Drop(p, q))))(keys).mask)
    both, gone = given.all(1).mean(), (~given.any(1)).mean()
    tolerance = 4 * 0.5 / np.sqrt(count)
    assert abs(both - (1 - p) * (1 - q) ** 2) < tolerance
    assert abs(gone - (p + (1 - p) * q**2)) < tolerance
    np.testing.assert_allclose(given.mean(0), (1 - p) * (1 - q), atol=tolerance)


def test_drop_never_gives_what_was_free():
    condition = make_condition(jnp.array([jnp.nan, 0.5]))
    keys = jax.random.split(jax.random.key(0), 64)
    given = jax.jit(jax.vmap(lambda key: drop(key, condition, Drop(0.1, 0.1))))(keys).mask
    assert not given[:, 0].any() and given[:, 1].any()


def test_commands_are_dropped_independently_and_measures_more_often_beside_them():
    """P(quality kept) = 1 - q, P(text kept) = 1 - t; beside either, measures survive with 1 - beside, else always."""
    how, count = Drop(everything=0.0, each=0.0, beside=0.7, quality=0.4, text=0.8), 20_000
    condition = make_condition(jnp.array([0.3, 0.7]), 0.9, jnp.array([0.1, 0.6, 0.2]))
    dropped = jax.jit(jax.vmap(lambda key: drop(key, condition, how)))(jax.random.split(jax.random.key(3), count))
    quality, text = np.asarray(dropped.quality_mask) > 0, np.asarray(dropped.text_mask) > 0
    tolerance = 4 * 0.5 / np.sqrt(count)
    assert abs(quality.mean() - 0.6) < tolerance and abs(text.mean() - 0.2) < tolerance
    assert abs((quality & text).mean() - 0.6 * 0.2) < tolerance
    given, beside = np.asarray(dropped.mask)[:, 0] > 0, quality | text
    assert given[~beside].all()
    assert abs(given[beside].mean() - 0.3) < 2 * tolerance
    np.testing.assert_allclose(dropped.quality, 0.9 * quality, rtol=1e-6)
    np.testing.assert_allclose(dropped.text, np.outer(text, [0.1, 0.6, 0.2]), rtol=1e-6)


def test_nan_leaves_the_rank_free_and_free_keeps_the_form():
    assert (
        make_condition(jnp.zeros(2), jnp.nan).quality_mask == 0.0
        and make_condition(jnp.zeros(2), 0.0).quality_mask == 1.0
    )
    silent = make_condition(jnp.zeros(2), None, jnp.full(3, jnp.nan))
    assert (
        silent.text_mask == 0.0
        and not silent.text.any()
        and make_condition(jnp.zeros(2), None, jnp.zeros(3)).text_mask == 1
    )
    asked = make_condition(jnp.array([0.3, 0.7]), 0.4, jnp.ones(5))
    assert jax.tree.map(jnp.shape, unconditional(asked)) == jax.tree.map(jnp.shape, asked)
    assert jax.tree.all(
        jax.tree.map(lambda one, other: (one == other).all(), unconditional(asked), null_condition(2, words=5))
    )


def test_fourier_features_by_hand():
    features = np.asarray(fourier_features(jnp.array([0.0, 0.5, 0.25]), 2))
    root = np.sqrt(0.5)
    expected = [[0, 0, 1, 1], [1, 0, 0, -1], [root, 1, root, 0]]  # sin(pi x), sin(2 pi x), cos(pi x), cos(2 pi x)
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_joint_features_are_waves_of_bounded_length():
    """At the origin sines are 0 and cosines 1; the phases' slopes are 2 pi over wavelengths of 2 to 2^(2 - octaves)."""
    octaves, count = 5, 16
    at_origin = np.asarray(joint_features(jnp.zeros(2), octaves, count))
    np.testing.assert_array_equal(at_origin, [0.0] * count + [1.0] * count)
    slopes = np.asarray(jax.jacobian(lambda values: joint_features(values, octaves, count)[:count])(jnp.zeros(2)))
    lengths = 2 * np.pi / np.linalg.norm(slopes, axis=1)
    assert lengths.max() <= 2.0 + 1e-4 and lengths.min() >= 2.0 ** (2 - octaves) - 1e-4
    assert (np.abs(slopes).min(1) > 0).sum() > count // 2  # they look across the axes, not only along them


@pytest.fixture(scope="module")
def embedding():
    module = ConditionEmbedding(8, 3, 4)
    variables = jax.jit(module.init)(jax.random.key(0), null_condition(2))
    return jax.jit(lambda condition: module.apply(variables, condition))


def test_free_slot_has_no_influence(embedding):
    given = jnp.array([1.0, 0.0])
    one, other = Condition(jnp.array([0.4, 0.1]), given), Condition(jnp.array([0.4, 0.9]), given)
    np.testing.assert_array_equal(embedding(one), embedding(other))
    gradient = jax.jit(jax.grad(lambda m: embedding(Condition(m, given)).sum()))(jnp.array([0.4, 0.9]))
    assert gradient[0] != 0.0 and gradient[1] == 0.0


def test_null_token_differs_from_any_value(embedding):
    free = embedding(make_condition(jnp.array([0.4, jnp.nan])))
    values = jax.vmap(lambda m: embedding(make_condition(jnp.stack([jnp.asarray(0.4), m]))))(jnp.linspace(0, 1, 21))
    assert jnp.abs(values - free[None]).max(1).min() > 1e-3


def test_embedding_tells_the_slots_apart(embedding):
    one, other = embedding(make_condition(jnp.array([0.2, 0.8]))), embedding(make_condition(jnp.array([0.8, 0.2])))
    assert jnp.abs(one - other).max() > 1e-3


def test_commands_are_seen_only_where_given_and_only_by_networks_that_take_them():
    asked = make_condition(jnp.array([0.2, 0.8]), 0.4, jnp.ones(5))
    module = ConditionEmbedding(8, 3, 4, True)
    variables = jax.jit(module.init)(jax.random.key(0), asked)
    embed = jax.jit(lambda condition: module.apply(variables, condition))
    silent = dataclasses.replace(asked, quality_mask=jnp.zeros(()), text_mask=jnp.zeros(()))
    for name, value in (("quality", jnp.asarray(0.9)), ("text", jnp.zeros(5))):
        assert jnp.abs(embed(dataclasses.replace(asked, **{name: value})) - embed(asked)).max() > 1e-3
        np.testing.assert_array_equal(embed(dataclasses.replace(silent, **{name: value})), embed(silent))
    deaf = ConditionEmbedding(8, 3, 4)
    variables = jax.jit(deaf.init)(jax.random.key(0), asked)
    np.testing.assert_array_equal(
        deaf.apply(variables, asked), deaf.apply(variables, make_condition(jnp.array([0.2, 0.8])))
    )
