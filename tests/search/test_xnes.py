"""xNES: one step against its covariance form in NumPy, convergence, the invariances of the paper, ties and restarts."""

from functools import partial
from itertools import pairwise
from math import inf, log, nan

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ldpol import storage
from ldpol.search.xnes import XNESConfig, XNESState, ask, converged, init, population_size, tell, utilities

draw, learn = jax.jit(ask, static_argnums=0), jax.jit(tell, static_argnums=0)  # op by op, compiling takes longer


@pytest.fixture
def double():
    """Double precision, where a difference is one of algorithms and not of rounding."""
    with jax.enable_x64(True):
        yield


def some_state(dimension, seed=0):
    """A distribution away from the origin whose scale matrix is far from symmetric."""
    rng = np.random.default_rng(seed)
    scale = rng.normal(size=(dimension, dimension)) + 2 * np.eye(dimension)[::-1]
    return XNESState(mean=jnp.asarray(rng.normal(size=dimension)), scale=jnp.asarray(scale))


def run(config, fitness, state, key, steps, first=0):
    """`steps` rounds, and the state after each."""

    def body(state, step):
        samples, draws = ask(config, state, jax.random.fold_in(key, step))
        state = tell(config, state, draws, fitness(samples))
        return state, state

    return jax.lax.scan(body, state, first + jnp.arange(steps))


def assert_close(left, right, rtol=1e-9, atol=1e-12):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=atol), left, right)


def quadratic(hessian, samples):
    return -jnp.einsum("ni,ij,nj->n", samples, hessian, samples)


# One round


def test_samples_have_the_mean_and_covariance_of_the_state(double):
    """The covariance is A A^T, not A^T A."""
    state = some_state(3)
    samples, draws = draw(XNESConfig(population=40_000), state, jax.random.key(0))
    scale = np.asarray(state.scale)
    np.testing.assert_allclose(np.mean(samples, axis=0), state.mean, atol=0.1)
    np.testing.assert_allclose(np.cov(samples.T), scale @ scale.T, atol=0.3)
    assert abs(scale @ scale.T - scale.T @ scale).max() > 1.0
    np.testing.assert_allclose(np.cov(draws.T), np.eye(3), atol=0.03)
    for x, z in zip(samples[:5], draws[:5], strict=True):
        np.testing.assert_allclose(x, state.mean + scale @ z, rtol=1e-12)
    assert not np.array_equal(draws, draw(XNESConfig(population=40_000), state, jax.random.key(1))[1])


def covariance_step(mean, covariance, samples, values, mean_rate, sigma_rate, shape_rate):
    """xNES without its coordinates: the geodesic C expm(C^-1 S) in the space of covariances, from the samples alone."""
    size, dimension = samples.shape
    best_first = sorted(range(size), key=lambda k: -values[k])
    raw = [max(0.0, log(size / 2 + 1) - log(k)) for k in range(1, size + 1)]
    toward, spread = np.zeros(dimension), np.zeros((dimension, dimension))
    for k, weight in zip(best_first, raw, strict=True):
        utility = weight / sum(raw) - 1 / size
        away = samples[k] - mean
        toward += utility * away
        spread += utility * (np.outer(away, away) - covariance)
    relative = np.linalg.solve(covariance, spread)
    growth = np.trace(relative) / dimension * np.eye(dimension)
    step = sigma_rate * growth + shape_rate * (relative - growth)
    return mean + mean_rate * toward, covariance @ scipy.linalg.expm(step)


@pytest.mark.parametrize(
    ("dimension", "population", "rates"),
    [
        (1, None, (1.0, None, None)),
        (2, None, (1.0, None, None)),
        (5, None, (1.0, None, None)),
        (3, 50, (0.7, 0.3, 0.9)),
        (4, 2, (1.3, 0.8, 0.1)),
    ],
)
def test_step_against_the_covariance_form(double, dimension, population, rates):
    config, state = XNESConfig(1.0, population, *rates), some_state(dimension)
    samples, draws = draw(config, state, jax.random.key(1))
    assert samples.shape == (population or {1: 4, 2: 6, 5: 8}[dimension], dimension)
    values = jnp.sin(samples).sum(1)
    new = learn(config, state, draws, values)

    published = 3 / 5 * (3 + log(dimension)) / (dimension * dimension**0.5)  # as GECCO 2010 writes it
    mean_rate, sigma_rate, shape_rate = (published if rate is None else rate for rate in rates)
    old, scale = np.asarray(state.scale), np.asarray(new.scale)
    mean, covariance = covariance_step(
        np.asarray(state.mean), old @ old.T, np.asarray(samples), np.asarray(values), mean_rate, sigma_rate, shape_rate
    )
    np.testing.assert_allclose(new.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(scale @ scale.T, covariance, rtol=1e-8)
    # Of all factors of that covariance A exp(M / 2) is the one whose M is symmetric.
    exponent = scipy.linalg.logm(np.linalg.solve(old, scale))
    np.testing.assert_allclose(exponent, exponent.T, atol=1e-10)
    assert abs(exponent).max() > 0.01


def test_a_rate_of_zero_freezes_its_part(double):
    state = some_state(3)

    def step(**rates):
        config = XNESConfig(**rates)
        samples, draws = draw(config, state, jax.random.key(0))
        new = learn(config, state, draws, quadratic(jnp.eye(3), samples))
        volume = np.linalg.det(new.scale) / np.linalg.det(state.scale)
        return new, volume, np.linalg.solve(state.scale, new.scale)

    assert_close(step(mean_rate=0.0)[0].mean, state.mean)
    new, volume, relative = step(sigma_rate=0.0)
    assert volume == pytest.approx(1.0)
    assert abs(relative - np.eye(3)).max() > 0.05
    new, volume, relative = step(shape_rate=0.0)
    assert abs(volume - 1.0) > 0.05
    np.testing.assert_allclose(relative, relative[0, 0] * np.eye(3), atol=1e-12)


# Ranks


def test_utilities_by_hand(double):
    """Four ranks weigh ln 3, ln 3/2, 0, 0 over their sum, less a quarter; equals share."""
    first, second = log(3) / (2 * log(3) - log(2)), log(1.5) / (2 * log(3) - log(2))
    weigh = jax.jit(utilities)
    expected = {
        (1.0, 4.0, 3.0, 2.0): [0, first, second, 0],
        (5.0, -2.0, -2.0, -3.0): [first, second / 2, second / 2, 0],
        (-inf, 1.0, -inf, -inf): [second / 3, first, second / 3, second / 3],
        (-inf, 1.0, nan, -1e300): [0, first, 0, second],
        (inf, 0.0, inf, 1.0): [(first + second) / 2, 0, (first + second) / 2, 0],
        (0.0, -0.0, 0.0, -0.0): [0.25] * 4,
    }
    for values, weights in expected.items():
        np.testing.assert_allclose(weigh(jnp.array(values)), np.array(weights) - 0.25, atol=1e-15)


@pytest.mark.parametrize("value", [0.0, 3.0, -inf, nan])
def test_a_population_of_equals_moves_nothing(double, value):
    config, state = XNESConfig(), some_state(4)
    _, draws = draw(config, state, jax.random.key(0))
    assert_close(learn(config, state, draws, jnp.full(len(draws), value)), state)


def test_order_of_the_population_does_not_matter(double):
    config, state = XNESConfig(population=12), some_state(3)
    _, draws = draw(config, state, jax.random.key(0))
    values = jnp.array([0.0, 2.0, 2.0, -inf, 1.0, -inf, 2.0, nan, 1.0, 7.0, -inf, 3.0])
    expected = learn(config, state, draws, values)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        assert_close(learn(config, state, draws[order], values[order]), expected)
    other = learn(config, state, draws[order], values)
    assert abs(other.mean - expected.mean).max() > 0.01


def test_increasing_transforms_change_nothing():
    """Not a bit, since only ranks are seen; a decreasing one does."""
    config, start = XNESConfig(population=10), init(XNESConfig(), [1.0, -2.0, 0.5])
    transforms = [
        lambda f: f,
        lambda f: 4 * f - 7,
        lambda f: -1 / (f - 1),
        lambda f: jnp.where(f > -2000, f, 3 * f),
        lambda f: -f,
    ]

    @jax.jit
    @jax.vmap
    def end(which):
        """The steps of f, thousands, leave room for rounding, and some ties."""
        steps = lambda x: jnp.round(1e3 * -jnp.abs(x - 0.3).sum(1))  # noqa: E731
        fitness = lambda x: jax.lax.switch(which, transforms, steps(x))  # noqa: E731
        return run(config, fitness, start, jax.random.key(0), 12)[0]

    found = end(jnp.arange(5))
    for which in (1, 2, 3):
        jax.tree.map(lambda leaf, which=which: np.testing.assert_array_equal(leaf[which], leaf[0]), found)
    assert abs(found.mean[4] - found.mean[0]).max() > 0.1


# Runs


def test_affine_maps_of_the_space_map_the_run(double):
    """On f(M y + b) from the mapped start, with the same draws, x = M y + b and A_x = M A_y at every step."""
    rng = np.random.default_rng(0)
    matrix, shift = rng.normal(size=(4, 4)) * np.array([1.0, 10.0, 0.1, 3.0]), rng.normal(size=4)
    fitness = lambda x: -jnp.abs(x - 0.3).sum(1) - (x[:, 0] * x[:, 1]) ** 2  # noqa: E731
    start = some_state(4)
    mapped = XNESState(mean=jnp.linalg.solve(matrix, start.mean - shift), scale=jnp.linalg.solve(matrix, start.scale))
    config, key = XNESConfig(), jax.random.key(0)
    pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), start, mapped)
    views = jnp.stack([jnp.eye(4), matrix]), jnp.stack([jnp.zeros(4), shift])

    @jax.jit
    @jax.vmap
    def both(start, matrix, shift):
        return run(config, lambda y: fitness(y @ matrix.T + shift[None]), start, key, 60)[1]

    found = both(pair, *views)
    plain, other = jax.tree.map(lambda leaf: leaf[0], found), jax.tree.map(lambda leaf: leaf[1], found)
    assert_close(XNESState(mean=other.mean @ matrix.T + shift[None], scale=matrix @ other.scale), plain, 1e-6, 1e-8)
    assert abs(plain.scale[-1]).max() < 0.5 * abs(start.scale).max()  # it went somewhere


@pytest.fixture(scope="module")
def descents():
    """-f(mean) of 8 runs in 5-D from a distance of sqrt 5: `[8, 900]` on the sphere, then on a rotated ellipsoid."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    ellipsoid = rotation @ np.diag(10.0 ** np.linspace(0, 6, 5)) @ rotation.T

    def descend(hessian, key):
        states = run(XNESConfig(), partial(quadratic, hessian), init(XNESConfig(), jnp.ones(5)), key, 900)[1]
        return -quadratic(hessian, states.mean)

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 8)
        hessians = jnp.stack([jnp.eye(5), jnp.asarray(ellipsoid)])
        yield np.asarray(jax.jit(jax.vmap(jax.vmap(descend, (None, 0)), (0, None)))(hessians, keys))


@pytest.mark.parametrize(("which", "least", "most"), [(0, 190, 290), (1, 290, 390)], ids=["sphere", "ellipsoid"])
def test_rounds_to_a_given_precision(descents, which, least, most):
    """1e-10, by every run; the ellipsoid of condition 1e6 takes a hundred rounds more to learn its shape."""
    below = descents[which] < 1e-10
    assert below.any(axis=1).all()
    first = below.argmax(axis=1)
    assert least < first.min()
    assert first.max() < most


def test_decrease_is_log_linear_and_equal_once_the_shape_is_learnt(descents):
    late = np.log10(descents[..., 400:]).mean(axis=1)
    rounds = np.arange(late.shape[1])
    slopes = []
    for curve in late:
        slope, offset = np.polyfit(rounds, curve, 1)
        assert abs(curve - offset - slope * rounds).max() < 1.5  # of some twenty decades
        slopes.append(slope)
    assert slopes[0] == pytest.approx(-0.0425, rel=0.05)
    assert slopes[1] == pytest.approx(slopes[0], rel=0.05)


# Purity


def sphere(samples):
    return -((samples - 0.5) ** 2).sum(1)


def one_round(state, key):
    samples, draws = ask(XNESConfig(), state, key)
    return tell(XNESConfig(), state, draws, sphere(samples))


def test_jit_is_eager_and_traces_once(double):
    traces = []
    compiled = jax.jit(lambda state, key: (traces.append(1), one_round(state, key))[1])
    first, second = (compiled(some_state(3, seed), jax.random.key(seed)) for seed in range(2))
    assert_close(first, one_round(some_state(3, 0), jax.random.key(0)))
    assert abs(first.mean - second.mean).max() > 0.1
    assert len(traces) == 1


def test_vmap_is_a_loop(double):
    states, keys = [some_state(3, seed) for seed in range(4)], jax.random.split(jax.random.key(0), 4)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    found, alone = jax.jit(jax.vmap(one_round))(stacked, keys), jax.jit(one_round)
    expected = [alone(state, key) for state, key in zip(states, keys, strict=True)]
    assert_close(found, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_resumed_is_uninterrupted(tmp_path):
    advance = jax.jit(one_round)
    states = [init(XNESConfig(), [1.0, -1.0, 2.0])]
    for step in range(10):
        states.append(advance(states[-1], jax.random.key(step)))
    assert all(abs(old.scale - new.scale).max() > 0 for old, new in pairwise(states))
    storage.save_state(tmp_path / "half", states[4], kind="xnes", about={"step": 4})
    resumed, about = storage.load_state(tmp_path / "half", init(XNESConfig(), [0.0, 0.0, 0.0]), kind="xnes")
    for step in range(about["step"], 10):
        resumed = advance(resumed, jax.random.key(step))
    jax.tree.map(np.testing.assert_array_equal, resumed, states[-1])


@pytest.mark.parametrize("wide", [False, True])
def test_precision_stays_what_it_was(wide):
    with jax.enable_x64(wide):
        state = init(XNESConfig(sigma=0.25), [1, 2])
        np.testing.assert_array_equal(state.mean, [1.0, 2.0])
        np.testing.assert_array_equal(state.scale, [[0.25, 0.0], [0.0, 0.25]])
        samples, draws = draw(XNESConfig(), state, jax.random.key(0))
        new = learn(XNESConfig(), state, draws, jnp.arange(6, dtype=jnp.float32))
        for leaf in (samples, draws, *jax.tree.leaves(new)):
            assert leaf.dtype == (jnp.float64 if wide else jnp.float32)


# Restarts


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (np.eye(2), False),
        (np.eye(2) * 1.1e-3, False),
        (np.eye(2) * 0.9e-3, True),
        (np.diag([1.0, 0.9e-3]), False),  # one direction is still searched
        (np.diag([0.9e4, 1.0]), False),
        (np.diag([1.1e4, 1.0]), True),
        (np.array([[1.0, 1e3], [0.0, 1.0]]), True),  # a shear: eigenvalues and diagonal of one, a condition of 1e6
        (np.array([[0.0, -1.0], [1.0, 0.0]]), False),  # a rotation: no real eigenvalue
        (np.diag([1.0, 0.0]), True),
        (np.zeros((2, 2)), True),
        (np.diag([nan, 1.0]), True),
        (np.diag([inf, inf]), True),
    ],
)
def test_converged(scale, expected):
    config = XNESConfig(min_scale=1e-3, max_condition=1e4)
    check = jax.jit(partial(converged, config))
    found = check(XNESState(mean=jnp.zeros(2), scale=jnp.asarray(scale, jnp.float32)))
    assert found.shape == ()
    assert bool(found) == expected
    assert check(XNESState(mean=jnp.array([0.0, nan]), scale=jnp.asarray(scale, jnp.float32)))


def test_restarts_inside_a_compiled_run():
    """On a sphere the scale shrinks from 1 to the bound again and again, and at no other time jumps back up."""
    config = XNESConfig(min_scale=0.05)
    fresh = init(config, [1.0, 1.0])

    def body(state, key):
        state = one_round(state, key)
        done = converged(config, state)
        length = jnp.linalg.norm(state.scale, 2)
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, state), (done, length)

    _, (done, length) = jax.jit(partial(jax.lax.scan, body, fresh))(jax.random.split(jax.random.key(0), 100))
    assert 2 <= done.sum() <= 10
    np.testing.assert_array_equal(done, length <= 0.05)


# Settings


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma": 0.0},
        {"sigma": -1.0},
        {"sigma": nan},
        {"sigma": inf},
        {"sigma": 1e-6},  # converged before it starts
        {"population": 1},
        {"population": 0},
        {"population": 4.5},
        {"population": nan},
        {"mean_rate": -1.0},
        {"mean_rate": inf},
        {"sigma_rate": nan},
        {"shape_rate": -0.1},
        {"min_scale": -1.0},
        {"min_scale": nan},
        {"max_condition": 1.0},
        {"max_condition": inf},
        {"max_condition": nan},
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="XNESConfig"):
        XNESConfig(**bad)


@pytest.mark.parametrize("mean", [0.0, np.zeros((2, 2)), np.zeros(0)], ids=["scalar", "matrix", "empty"])
def test_a_start_that_is_no_vector_is_refused(mean):
    with pytest.raises(ValueError, match="vector"):
        init(XNESConfig(), mean)


def test_populations_that_do_not_fit_are_refused():
    config = XNESConfig(population=6)
    state = init(config, jnp.zeros(3))
    learn(config, state, jnp.ones((6, 3)), jnp.arange(6.0))
    for draws, values in [((5, 3), 5), ((6, 2), 6), ((6, 3), 5)]:
        with pytest.raises(AssertionError):
            learn(config, state, jnp.ones(draws), jnp.arange(float(values)))


@pytest.mark.parametrize(("dimension", "size"), [(1, 4), (2, 6), (5, 8), (10, 10), (40, 15)])
def test_published_population(dimension, size):
    assert population_size(XNESConfig(), dimension) == size
