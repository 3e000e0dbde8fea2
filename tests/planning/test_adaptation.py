"""Bayesian optimisation over verified draws: the process against scikit-learn's, the search on a known landscape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from test_generator import generator, with_draws  # noqa: F401

import ldpol
from ldpol.errors import UserError
from ldpol.evaluation.recovery import pool_of_bank
from ldpol.model.answering import Kernel
from ldpol.planning.adaptation import (
    AdaptConfig,
    Repertoire,
    Trials,
    best_row,
    next_row,
    no_trials,
    predict,
    repertoire_of,
)
from ldpol.rollout import copied_to, policy_mesh

ROWS, BEST = 41, 12
EXPECT = jax.jit(predict, static_argnames="config")
PLACES = np.linspace(0.0, 1.0, ROWS, dtype=np.float32)
HEALTHY = 100.0 + 900.0 * PLACES
"""The farther right, the better, until the damage: then the best is at .3."""
DAMAGED = 700.0 - 1500.0 * np.abs(PLACES - PLACES[BEST])


def of(rows, achieved, slots=6):
    trials = no_trials(slots)
    for row, value in zip(rows, achieved, strict=True):
        trials = trials.add(row, value)
    return trials


def test_the_process_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    features, prior = random.random((30, 4)).astype(np.float32), random.uniform(-50, 150, 30).astype(np.float32)
    rows, achieved = [3, 17, 3, 8], np.array([20.0, -10.0, 40.0, 90.0], np.float32)
    config = AdaptConfig(length=0.7, deviation=0.6, noise=0.2)
    found = EXPECT(Repertoire(features, prior), of(rows, achieved), config)
    span = prior.max() - prior.min()
    kernel = ConstantKernel((0.6 * span) ** 2) * Matern(0.7, nu=2.5)
    process = GaussianProcessRegressor(kernel, alpha=(0.2 * span) ** 2, optimizer=None)
    mean, deviation = process.fit(features[rows], achieved - prior[rows]).predict(features, return_std=True)
    np.testing.assert_allclose(found.mean, prior + mean, rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(found.deviation, deviation, rtol=2e-3)


def test_one_trial_by_hand():
    """Of a surprise of -60 at noise .5, 1 / (1 + .25) is believed where it was met, and what the kernel says nearby."""
    repertoire = Repertoire(jnp.array([[0.0], [0.4], [9.0]]), jnp.array([100.0, 40.0, 0.0]))
    found = EXPECT(repertoire, of([0], [40.0]), AdaptConfig(noise=0.5))
    root = np.sqrt(5.0)
    near = (1 + root + 5 / 3) * np.exp(-root)
    np.testing.assert_allclose(found.mean, [100 - 48.0, 40 - 48.0 * near, 0.0], atol=1e-2)
    np.testing.assert_allclose(found.deviation, 100 * np.sqrt([1 - 0.8, 1 - 0.8 * near**2, 1.0]), rtol=1e-4)


def test_before_the_first_trial_the_prior_is_all():
    repertoire = Repertoire(PLACES[:, None], jnp.asarray(HEALTHY))
    found = EXPECT(repertoire, no_trials(4), AdaptConfig())
    np.testing.assert_allclose(found.mean, HEALTHY, rtol=1e-5)
    assert next_row(found, AdaptConfig()) == ROWS - 1


def test_exploration_and_a_lucky_trial():
    """The bound weighs uncertainty; of two trials of a row and one of a lucky other, expectation decides."""
    repertoire = Repertoire(jnp.array([[0.0], [5.0]]), jnp.array([10.0, 0.0]))
    prediction = EXPECT(repertoire, of([0, 0, 0], [10.0, 10.0, 10.0]), AdaptConfig(noise=0.01))
    assert next_row(prediction, AdaptConfig(explore=0.5)) == 0
    assert next_row(prediction, AdaptConfig(explore=1.5)) == 1
    trials = of([0, 0, 0, 0, 1], [9.0, 9.0, 9.0, 9.0, 10.0])
    assert best_row(EXPECT(repertoire, trials, AdaptConfig(noise=1.0)), trials) == 0
    assert best_row(EXPECT(repertoire, trials, AdaptConfig(noise=0.01)), trials) == 1


def test_searches_can_be_mapped():
    repertoire = Repertoire(PLACES[:, None], jnp.asarray(HEALTHY))
    several = [of([3], [50.0]), of([40, 8, 2], [0.0, 400.0, 90.0])]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    mapped = jax.vmap(lambda trials: EXPECT(repertoire, trials, AdaptConfig()).mean)(together)
    alone = jnp.stack([EXPECT(repertoire, trials, AdaptConfig()).mean for trials in several])
    np.testing.assert_allclose(mapped, alone, rtol=1e-4, atol=0.1)
    added = jax.vmap(Trials.add)(together, jnp.array([7, 9]), jnp.array([1.0, 2.0]))
    assert added.count.tolist() == [2, 4] and added.rows[1, :4].tolist() == [40, 8, 2, 9]


def with_bank(model, fitness=HEALTHY):
    told = {"traits": PLACES[:, None], "trait_names": ["speed"], "fitness": fitness}
    return with_draws(model, np.stack([PLACES, PLACES], 1), Kernel(0.05, 0.3), **told)[0]


class Robot:
    """Knows which draw it is given, and how good that is since the damage."""

    def __init__(self, model):
        bank = model.bank
        latents, measures = bank.levels * bank.step[None, None, None], bank.given / 255
        self.known = np.asarray(jax.tree.leaves(jax.vmap(model.decode)(latents, measures))[0]).reshape(ROWS, -1)
        self.tried = []

    def __call__(self, policy):
        away = np.abs(self.known - np.asarray(jax.tree.leaves(policy)[0]).reshape(-1)).max(1)
        assert away.min() < 1e-5
        self.tried.append(int(away.argmin()))
        return DAMAGED[self.tried[-1]]


def test_adapting_finds_what_works_since_the_damage(generator):  # noqa: F811
    model = with_bank(generator)
    robot = Robot(model)
    found = ldpol.adapt(model, robot, trials=15)
    assert found.rows.tolist() == robot.tried and len(found.rows) == 15 and not found.stopped
    assert robot.tried[0] == ROWS - 1  # the best healthy one
    np.testing.assert_allclose(found.achieved, DAMAGED[found.rows], rtol=1e-5)
    assert found.predicted[0] == pytest.approx(1000.0, abs=2.0)
    assert DAMAGED[found.row] >= 600.0  # the champion's is -350
    np.testing.assert_array_equal(found.best_so_far, np.maximum.accumulate(found.achieved))
    assert robot(found.policy) == DAMAGED[found.row]


def test_adapting_stops_when_it_is_good_enough(generator):  # noqa: F811
    model = with_bank(generator)
    stopped = ldpol.adapt(model, Robot(model), trials=15, config=AdaptConfig(stop=0.5))
    assert stopped.stopped and 2 <= len(stopped.rows) < 15
    assert stopped.rows.shape == stopped.predicted.shape == stopped.achieved.shape
    at_once = ldpol.adapt(model, lambda policy: 1000.0, trials=15, config=AdaptConfig(stop=0.9))
    assert at_once.stopped and len(at_once.rows) == 1


def test_a_prior_of_ones_own(generator):  # noqa: F811
    model = with_bank(generator, fitness=None)
    first = ldpol.adapt(model, Robot(model), trials=1, prior=HEALTHY[::-1])
    assert first.rows.tolist() == [0]
    np.testing.assert_allclose(repertoire_of(with_bank(generator).bank).prior, HEALTHY, atol=900 / 500)


def test_draws_of_a_generator_on_every_device_are_tried_from_the_host(generator):  # noqa: F811
    """Batched solves on two devices of a CPU at a time may never end."""
    mesh = policy_mesh(jax.devices()[:2])
    model = jax.device_put(with_bank(generator), copied_to(mesh))
    assert len(model.bank.fitness.sharding.device_set) == 2
    pool = pool_of_bank(model, chunk=16)
    assert isinstance(pool.repertoire.features, np.ndarray) and isinstance(pool.repertoire.prior, np.ndarray)
    np.testing.assert_allclose(pool.repertoire.prior, HEALTHY, atol=900 / 500)
    assert jax.tree.leaves(pool.policies)[0].shape[0] == ROWS and pool.bytes == model.nbytes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bank": None}, "no verified draws to adapt with; distil with verify.rows > 0"),
        ({"trials": 0}, "at least 1 trial, found trials = 0"),
        ({"fitness": None}, "say nothing of fitness"),
        ({"prior": HEALTHY[:3]}, r"a prior of 41 finite numbers, one per verified draw, found \(3,\)"),
        ({"play": lambda policy: float("nan")}, "trial 1 gave a fitness of nan"),
    ],
)
def test_what_cannot_be_adapted(generator, change, said):  # noqa: F811
    model = generator if "bank" in change else with_bank(generator, fitness=change.get("fitness", HEALTHY))
    with pytest.raises(UserError, match=said):
        ldpol.adapt(model, change.get("play", lambda policy: 0.0), change.get("trials", 2), prior=change.get("prior"))


def test_settings_are_checked():
    with pytest.raises(UserError, match="AdaptConfig.noise must be greater than 0"):
        AdaptConfig(noise=0.0)
