"""Distillation of imports: a wrong one is refused, noise follows the cells, and no environment is needed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from archive.test_replay import GRID, RELU, TASK, make_elites

import ldpol
from ldpol.archive import Grid, checked, from_ribs, is_imported, make_voronoi
from ldpol.archive.layouts import to_vectors
from ldpol.distillation.config import (
    AutoencoderTraining,
    DistillConfig,
    LanguageConfig,
    OptimiserConfig,
    VerifyConfig,
    for_cells,
    for_memory,
)
from ldpol.networks import MLP

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def elites():
    return make_elites()


def imported(elites, network, order="torch"):
    data = {"solution": to_vectors(elites.policies, RELU, "torch"), "objective": elites.fitness}
    return from_ribs(data | {"measures": elites.measures}, network, TASK, order=order, cells=GRID)


def test_a_wrong_import_is_refused_wherever_it_would_be_used(elites):
    wrong = imported(elites, MLP(3, 2, (8,)))
    assert is_imported(wrong) and not is_imported(checked(wrong))
    message = r"do not do what the archive says \(wrong: .*activation='relu', final='tanh'"
    with pytest.raises(ldpol.UserError, match=message):
        ldpol.reevaluate(wrong, TASK, key=KEY, episodes=1)
    with pytest.raises(ldpol.UserError, match=message):
        ldpol.distill(wrong, TASK, key=KEY)
    trusted = ldpol.reevaluate(wrong, TASK, key=KEY, episodes=1, check=False)
    assert not is_imported(trusted)


def test_a_right_import_passes_and_is_checked_once(elites):
    again = ldpol.reevaluate(imported(elites, RELU), TASK, key=KEY, episodes=2)
    assert not is_imported(again) and dict(again.settings)["order"] == "torch"
    np.testing.assert_allclose(again.fitness, elites.fitness, atol=2.0)


def test_noise_and_radii_follow_the_cells():
    """Stated for cells of 0.02: on cells of 0.14, seven times as much; with few elites, half of their spacing."""
    config = DistillConfig()
    same = for_cells(config, Grid((50, 50), (0.0, -3.0), (1.0, 9.0)), 2500)
    assert same == config
    wide = for_cells(config, Grid((7, 7, 7, 7), (0.0,) * 4, (1.0,) * 4), 2000)
    for one, other in (
        (wide.weights.radius, config.weights.radius),
        (wide.autoencoder.loss.noise, config.autoencoder.loss.noise),
        (wide.denoiser.loss.noise, config.denoiser.loss.noise),
    ):
        assert one / other == pytest.approx(1 / 7 / 0.02)
    few = for_cells(config, Grid((50, 50), (0.0, 0.0), (1.0, 1.0)), 25)
    assert few.weights.radius / config.weights.radius == pytest.approx(0.5 / 5 / 0.02)
    cells = make_voronoi(np.random.default_rng(0).random((100, 2)), (0.0, 0.0), (1.0, 1.0))
    assert for_cells(config, cells, 1000).weights.radius / config.weights.radius == pytest.approx(0.1 / 0.02)


def test_states_fit_into_memory():
    """Two episodes, three repeats and three rounds of 64 states, each of 17 + 6 numbers of 4 bytes, per elite."""
    config = DistillConfig()
    one = 2 * 6 * 64 * (17 + 6) * 4
    fits = 1_000_000_000 // one
    network = MLP(17, 6, (8,))
    assert for_memory(config, network, fits) == config
    assert for_memory(config, network, fits + 1).collect.states == 63
    assert for_memory(config, network, 4 * fits).collect.states == 16
    assert for_memory(config, network, 1000 * fits).collect.states == 1
    humanoid = for_memory(config, MLP(244, 17, (8,)), 5000)
    assert humanoid.collect.states == 1_000_000_000 // (5000 * 12 * 261 * 4)
    assert dataclasses.replace(humanoid, collect=config.collect) == config


def small():
    default = DistillConfig()
    return dataclasses.replace(
        default,
        autoencoder=AutoencoderTraining(optimiser=OptimiserConfig(steps=20), dagger_rounds=1),
        verify=VerifyConfig(rounds=1),
        denoiser=dataclasses.replace(default.denoiser, optimiser=OptimiserConfig(steps=20)),
        language=LanguageConfig(captions=0),
    )


def test_without_an_environment(elites):
    """Observations that somebody recorded are enough; the generator says that its labels are the stored ones."""
    task = ldpol.task_elsewhere(
        "toy",
        observation_size=3,
        action_size=2,
        measure_names=("right", "up"),
        low=(0.0, 0.0),
        high=(1.0, 1.0),
    )
    states = np.asarray(jax.random.normal(jax.random.key(1), (len(elites), 6, 3)))
    for where, names in ((task, ("right", "up")), (None, ("measure 0", "measure 1"))):
        generator = ldpol.distill(imported(elites, RELU), where, small(), key=KEY, states=states)
        assert dict(generator.settings)["labels"] == "stored" and generator.measure_names == names
        assert generator.shape == RELU and generator.bank is None
        action = generator.apply(generator.sample(KEY, jnp.array([0.5, 0.5])), jnp.zeros(3))
        assert action.shape == (2,) and bool(jnp.isfinite(action).all())
    with pytest.raises(ldpol.UserError, match="toy has no environment in JAX.*distil with states="):
        ldpol.replay(elites, task, KEY)
    for wrong, found in ((None, "none"), (states[:3], r"\[3, 6, 3\]"), (states[..., :2], r"\[60, 6, 2\]")):
        with pytest.raises(ldpol.UserError, match=rf"pass states=\[60, S, 3\].*found {found}"):
            ldpol.distill(elites, None, small(), key=KEY, states=wrong)
    with pytest.raises(ldpol.UserError, match="NaN or infinite observations"):
        ldpol.distill(elites, None, small(), key=KEY, states=np.full_like(states, np.nan))
