"""Other ways to keep an archive: against closed forms, by loop, and what they weigh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_generator import make_generator, vector

from ldpol.archive import Archive, Grid
from ldpol.baselines import cloned, conditional, cvae, gaussian, latents, quantised, subsampled
from ldpol.baselines.cloned import ClonedConfig
from ldpol.distillation.dataset import Dataset
from ldpol.measures import nearest
from ldpol.networks import MLP
from ldpol.precision import compress, expand
from ldpol.storage import nbytes, pack, unpack
from ldpol.train_loop import OptimiserConfig

SHAPE, GRID = MLP(3, 2, (20, 20)), Grid((4, 4), (-1.0, 2.0), (1.0, 4.0))
N = 40
KEY = jax.random.key(9)


@pytest.fixture(scope="module")
def archive():
    """Random policies at random places of the grid."""
    policies = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(0), N))
    measures = GRID.unscaled(jax.random.uniform(jax.random.key(1), (N, 2)))
    return policies, measures, jax.random.normal(jax.random.key(2), (N,))


def row(tree, number):
    return jax.tree.map(lambda leaf: leaf[number], tree)


def by_loop(generate, model, measures):
    """A generator's batch must be its loop; returns the batch."""
    keys = jax.random.split(KEY, len(measures))
    together = jax.jit(jax.vmap(generate, (None, 0, 0)))(model, keys, measures)
    generate = jax.jit(generate)
    for number in range(len(measures)):
        alone = generate(model, keys[number], measures[number])
        np.testing.assert_allclose(vector(row(together, number)), vector(alone), rtol=2e-4, atol=2e-5)
    return together


@pytest.mark.parametrize(("precision", "least"), [("float32", 1.0), ("float16", 2.0), ("int8", 2.5)])
def test_quantised_archive_returns_the_elite(archive, precision, least):
    policies, measures, _ = archive
    model = quantised.fit(policies, measures, precision)
    together = by_loop(quantised.generate, model, measures)
    biggest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(policies))
    error = {"float32": 0.0, "float16": 2.0**-11 * biggest, "int8": biggest / 254 * 1.001}[precision]
    np.testing.assert_allclose(vector(together), vector(policies), atol=error, rtol=0)
    assert N * SHAPE.size * 4 / sum(leaf.nbytes for leaf in jax.tree.leaves(model.policies)) >= least


def test_nearest_leaves_a_free_measure_free():
    measures = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.2, 9.0]])
    assert nearest(jnp.array([0.2, 0.1]), measures) == 0
    assert nearest(jnp.array([0.2, jnp.nan]), measures) == 2


def test_subsampled_with_all_elites_is_the_archive(archive):
    policies, measures, fitness = archive
    model = subsampled.fit(GRID, policies, fitness, measures, count=N)
    assert sorted(np.asarray(subsampled.choose(GRID, fitness, measures, N)).tolist()) == list(range(N))
    together = by_loop(subsampled.generate, model, measures)
    np.testing.assert_array_equal(vector(together), vector(policies))


def test_subsampled_takes_the_best_of_every_crowd():
    """Three crowds far apart, one elite of each clearly better: those three stand in for all."""
    centres = jnp.array([[-0.9, 2.1], [0.9, 2.1], [0.0, 3.9]])
    measures = jnp.repeat(centres, 5, 0) + 0.01 * jax.random.normal(KEY, (15, 2))
    fitness = jnp.zeros(15).at[jnp.array([3, 5, 14])].set(1.0)
    chosen = np.asarray(subsampled.choose(GRID, fitness, measures, 3))
    assert sorted(chosen.tolist()) == [3, 5, 14]


def test_subsampled_refuses_more_than_there_are(archive):
    policies, measures, fitness = archive
    with pytest.raises(ValueError, match="cannot choose 41 elites of an archive of 40"):
        subsampled.fit(GRID, policies, fitness, measures, count=N + 1)


def test_conditional_gaussian_is_weighted_least_squares():
    """Without waves it is linear regression: mean, covariance and degrees of freedom against NumPy's."""
    key_m, key_v, key_w = jax.random.split(KEY, 3)
    measures = jax.random.uniform(key_m, (60, 2))
    values = jnp.stack([1.0 + measures[:, 0], 2.0 * measures[:, 1]], 1) + 0.3 * jax.random.normal(key_v, (60, 2))
    weights = jnp.exp(0.3 * jax.random.normal(key_w, (60,)))
    model = conditional.fit(values, measures, weights, octaves=3, directions=0, ridge=1.0)
    table = np.concatenate([np.ones((60, 1)), measures], 1)
    root = np.sqrt(np.asarray(weights))[:, None]
    expected, *_ = np.linalg.lstsq(root * table, root * np.asarray(values), rcond=None)
    np.testing.assert_allclose(model.weights, expected, atol=2e-4)
    left = np.asarray(values) - table @ expected
    covariance = (left * np.asarray(weights)[:, None]).T @ left / (60 - 3)
    np.testing.assert_allclose(model.factor @ model.factor.T, covariance, rtol=2e-3, atol=1e-5)
    draws = jax.vmap(lambda key: conditional.draw(model, key, measures[0]))(jax.random.split(KEY, 20000))
    np.testing.assert_allclose(draws.mean(0), table[0] @ expected, atol=0.01)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.005)


def test_gaussian_recovers_a_linear_gaussian_archive():
    """Policies that are linear in their measures plus noise along one direction: K components hold them exactly."""
    key_a, key_b, key_m, key_n = jax.random.split(KEY, 4)
    base, slope = jax.random.normal(key_a, (SHAPE.size,)), jax.random.normal(key_b, (3, SHAPE.size))
    measures = jnp.asarray([GRID.low]) + 2.0 * jax.random.uniform(key_m, (400, 2))
    places = GRID.scaled(measures)
    noise = jax.random.normal(key_n, (400,))
    vectors = base[None] + places @ slope[:2] + 0.1 * noise[:, None] * slope[2:]
    policies = jax.vmap(SHAPE.unflatten)(vectors)
    model = gaussian.fit(
        GRID, SHAPE, policies, measures, jnp.ones(400), components=3, octaves=3, directions=0, ridge=1.0
    )
    np.testing.assert_allclose(model.basis.shape, (3, SHAPE.size))
    wanted = jnp.array([0.3, 2.7])
    draw = jax.jit(jax.vmap(lambda key: SHAPE.flatten(gaussian.generate(model, key, wanted))))
    draws = draw(jax.random.split(KEY, 4000))
    expected = base + GRID.scaled(wanted) @ slope[:2]
    np.testing.assert_allclose(draws.mean(0), expected, atol=0.02)
    along = (draws - expected[None]) @ slope[2] / (slope[2] @ slope[2])
    assert float(along.std()) == pytest.approx(0.1, rel=0.1)
    exact = SHAPE.flatten(gaussian.generate(model.replace(temperature=0.0), KEY, wanted))
    np.testing.assert_allclose(exact, expected, atol=0.03)
    by_loop(gaussian.generate, model, measures[:3])
    with pytest.raises(ValueError, match="5 policies have fewer than 5"):
        gaussian.fit(
            GRID, SHAPE, row(policies, slice(5)), measures[:5], jnp.ones(5), components=5, octaves=2, directions=0,
            ridge=1.0,
        )  # fmt: skip


def test_truncating_is_fitting_fewer_components(archive):
    policies, measures, _ = archive
    how = {"octaves": 2, "directions": 2, "ridge": 0.1}
    five, three = (gaussian.fit(GRID, SHAPE, policies, measures, jnp.ones(N), components=k, **how) for k in (5, 3))
    for found, expected in zip(jax.tree.leaves(gaussian.truncate(five, 3)), jax.tree.leaves(three), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def toy_data(elites=24, states=64):
    """Elites whose action is tanh of a linear map that their measures scale: within reach of a small clone."""
    key_m, key_s, key_w = jax.random.split(KEY, 3)
    measures = jax.random.uniform(key_m, (elites, 2))
    seen = 2.0 + 3.0 * jax.random.normal(key_s, (elites, 2 * states, 3))
    kernel = jax.random.normal(key_w, (3, 2)) / 6
    actions = jnp.tanh((seen - 2.0) @ kernel * (0.5 + measures[:, :1, None])) * 0.8
    data = Dataset(None, measures, jnp.ones(elites), seen, actions, jnp.asarray(states))
    # What is not filled must not be looked at.
    return data.replace(states=seen.at[:, states:].set(1e6), actions=actions.at[:, states:].set(-1.0)), actions


def clone(data, config, optimiser):
    """A clone that learns from the states that `data` holds alone."""
    elites = Archive(None, jnp.ones(len(data.measures)), data.measures, GRID, "toy", SHAPE)
    return cloned.fit(elites, data, config, optimiser, visit=lambda *rest: 1 / 0, rounds=0, depends_on={}, key=KEY)


def fold(model, style):
    """The plain policy, of hidden layers `config.hidden`, that a clone is in a style."""
    layers = {}
    for number, (scale, shift) in enumerate(style):
        kernel = model.params[f"layers_{number}"]["kernel"] * scale[None]
        if number == 0:
            kernel = kernel / model.spread[:, None]
            shift = shift - model.centre @ kernel
        layers[f"Dense_{number}"] = {"kernel": kernel, "bias": shift}
    return {"params": layers}


def test_a_clone_fits_and_is_a_plain_policy():
    data, actions = toy_data()
    config = ClonedConfig((24,), embedding=16, octaves=2, joint=4, policies=16, states=8, noise=0.0)
    model = clone(data, config, OptimiserConfig(600, rate=1e-2))
    np.testing.assert_allclose(model.centre, data.states[:, :64].mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(model.spread, data.states[:, :64].std((0, 1)), rtol=1e-4)
    styles = by_loop(cloned.generate, model, GRID.unscaled(data.measures))
    act = jax.vmap(lambda style, seen: jax.vmap(lambda one: cloned.apply(model, style, one))(seen))
    found = act(styles, data.states[:, :64])
    assert float(jnp.sqrt(jnp.mean((found - actions[:, :64]) ** 2))) < 0.05
    plain = MLP(3, 2, (24,))
    folded = jax.vmap(lambda style: fold(model, style))(styles)
    again = jax.vmap(lambda params, seen: plain.apply(params, seen))(folded, data.states[:, :64])
    np.testing.assert_allclose(again, found, atol=1e-4)


@pytest.fixture(scope="module")
def trained():
    """A generator, and latents whose mean is linear in the measures."""
    generator = make_generator(SHAPE, GRID)
    places = jax.random.uniform(jax.random.key(3), (N, 2))
    measures = jnp.asarray([GRID.low]) + 2.0 * places
    mean = (places @ jax.random.normal(jax.random.key(4), (2, 4))).reshape(N, 2, 2, 1)
    return generator, mean, 0.1 * jnp.ones_like(mean), measures


def test_latents_decode_their_own_elite(trained):
    generator, mean, _, measures = trained
    model = latents.fit(generator, mean, measures)
    together = by_loop(latents.generate, model, measures[:5])
    for number in range(5):
        expected = generator.decode(mean[number], GRID.scaled(measures[number]))
        np.testing.assert_allclose(vector(row(together, number)), vector(expected), rtol=1e-5, atol=1e-6)


def test_priors_of_the_cvae(trained):
    generator, mean, deviation, measures = trained
    how = {"octaves": 2, "directions": 0, "ridge": 1.0}
    normal = cvae.fit(generator, mean, deviation, measures, jnp.ones(N), prior="normal", **how)
    by_loop(cvae.generate, normal, measures[:3])
    place = GRID.scaled(measures[0])
    latent = jax.random.normal(KEY, (4,)).reshape(2, 2, 1)
    np.testing.assert_allclose(
        vector(cvae.generate(normal, KEY, measures[0])), vector(generator.decode(latent, place)), rtol=1e-5
    )
    # The mean is linear in the measures, so all that is left is the posteriors' own variance.
    fitted = cvae.fit(generator, mean, deviation, measures, jnp.ones(N), prior="fitted", **how)
    np.testing.assert_allclose(fitted.prior.factor, 0.1 * np.eye(4), atol=2e-3)
    found = conditional.draw(fitted.prior, KEY, place, 0.0)
    np.testing.assert_allclose(found, mean[0].reshape(-1), atol=5e-3)
    with pytest.raises(ValueError, match="normal or fitted, found 'flat'"):
        cvae.fit(generator, mean, deviation, measures, jnp.ones(N), prior="flat", **how)


def test_every_model_weighs_what_its_file_does_and_generates_from_int8(archive, trained, tmp_path):
    policies, measures, _ = archive
    generator, mean, deviation, places = trained
    how = {"octaves": 2, "directions": 3, "ridge": 1e-2}
    config = ClonedConfig((24,), embedding=16, octaves=2, joint=4, policies=16, states=8)
    data, _ = toy_data()
    models = [
        (quantised.fit(policies, measures, "float32"), None),
        (latents.fit(generator, mean, places), latents.generate),
        (cvae.fit(generator, mean, deviation, places, jnp.ones(N), prior="fitted", **how), cvae.generate),
        (gaussian.fit(GRID, SHAPE, policies, measures, jnp.ones(N), components=5, **how), gaussian.generate),
        (clone(data, config, OptimiserConfig(1)), cloned.generate),
    ]
    for model, generate in models:
        path = tmp_path / "model"
        path.write_bytes(pack(model, kind="model"))
        assert path.stat().st_size == nbytes(model)
        back = jax.tree.leaves(unpack(path.read_bytes())[0])
        assert sum(leaf.nbytes for leaf in back) == sum(leaf.nbytes for leaf in jax.tree.leaves(model))
        if generate:
            small = compress(model, "int8")
            assert nbytes(small) < nbytes(model)
            draw = jax.jit(generate)
            made, exact = (vector(draw(one, KEY, jnp.array([0.1, 3.0]))) for one in (small, expand(small)))
            np.testing.assert_allclose(made, exact, rtol=1e-5, atol=1e-6)
