import dataclasses
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.distillation import autoencoder, denoiser
from ldpol.distillation.autoencoder import Teaching
from ldpol.distillation.config import AutoencoderLoss, AutoencoderTraining, DenoiserTraining, DiffusionLoss
from ldpol.distillation.dataset import Dataset, elite_weights, normaliser
from ldpol.distillation.targets import LatentDataset
from ldpol.model.condition import make_condition
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.model.diffusion import make_schedule, precondition
from ldpol.model.sampler import sample
from ldpol.networks import MLP
from ldpol.rollout import policy_mesh
from ldpol.train_loop import OptimiserConfig, advance, scan_steps, start_state

SHAPE = MLP(3, 2, ())  # linear policies
CONFIG = AutoencoderConfig(
    latent=(2, 2, 1), rank=6, context=16, hidden=16, octaves=2, joint=4, coordinates=6, encoder_hidden=32
)
LOSS = AutoencoderLoss(policies=16, states=8)


@pytest.fixture(scope="module")
def one_device():
    return policy_mesh(jax.local_devices()[:1])


@cache
def dataset():
    """32 linear policies on a two-dimensional sheet, their measures the place on it."""
    rng = np.random.default_rng(0)
    place = rng.uniform(size=(32, 2))
    sheet = rng.normal(size=(2, SHAPE.size)) * 0.3
    policies = jax.vmap(SHAPE.unflatten)(jnp.asarray((place - 0.5) @ sheet + 0.1, jnp.float32))
    states = jax.random.normal(jax.random.key(1), (32, 40, 3))
    actions = jax.vmap(SHAPE.apply)(policies, states)
    return Dataset(policies, jnp.asarray(place, jnp.float32), jnp.ones(32), states, actions, jnp.asarray(40))


@pytest.fixture(scope="module")
def data():
    return dataset()


@cache
def started(config):
    return autoencoder.init(SHAPE, config, 2, dataset().policies, normaliser(dataset()), jax.random.key(0))


def prepare(data, config=CONFIG, loss=LOSS, optimiser=None, mesh=None):
    """The step, its start, and what it starts from."""
    optimiser = optimiser or OptimiserConfig(steps=200, rate=1e-2, warmup=5, ema=0.9)
    params = started(config)
    state = start_state(optimiser, {"encoder": params["encoder"]["params"], "decoder": params["decoder"]})
    projection = params["encoder"]["projection"]
    training = AutoencoderTraining(config, loss, optimiser)
    step = partial(autoencoder.autoencoder_step, SHAPE, training, mesh, data=(data, projection))
    run = jax.jit(partial(scan_steps, step), static_argnames="steps")
    return run, state


def numbers(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def test_autoencoder_learns_to_act_like_the_archive(data, one_device):
    run, state = prepare(data, mesh=one_device)
    key = jax.random.key(0)
    state, first = run(state, key, steps=10)
    for _ in range(15):
        state, last = run(state, key, steps=10)
    assert set(last) == {"loss", "action_mse", "kl"}
    assert last["action_mse"] < 0.3 * first["action_mse"]
    assert np.isfinite(numbers(state)).all()


def test_chunks_of_any_size_are_one_training(data, one_device):
    run, state = prepare(data, mesh=one_device)
    key = jax.random.key(3)
    whole, _ = run(state, key, steps=12)
    part, _ = run(state, key, steps=4)
    for steps in (4, 4):
        part, _ = run(part, key, steps=steps)
    assert int(part.step) == 12
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_devices_train_as_one(data, one_device, mesh):
    """Compared where it is linear in the gradient: Adam makes of a gradient that is noise about zero a whole step."""
    key = jax.random.key(4)
    (run_one, state), (run_two, _) = prepare(data, mesh=one_device), prepare(data, mesh=mesh)
    one, metrics_one = run_one(state, key, steps=1)
    two, metrics_two = run_two(state, key, steps=1)
    np.testing.assert_allclose(numbers(metrics_one), numbers(metrics_two), rtol=1e-5)
    moments = numbers(one.optimiser)
    assert np.abs(moments).max() > 1e-3
    np.testing.assert_allclose(moments, numbers(two.optimiser), atol=1e-6)
    _, metrics_one = run_one(state, key, steps=5)
    _, metrics_two = run_two(state, key, steps=5)
    np.testing.assert_allclose(numbers(metrics_one), numbers(metrics_two), rtol=1e-4)
    # On raw observations no gradient of these parameters is noise about zero.
    raw = replace(CONFIG, normalise=False)
    (run_one, state), (run_two, _) = (prepare(data, raw, mesh=where) for where in (one_device, mesh))
    one, two = run_one(state, key, steps=5)[0], run_two(state, key, steps=5)[0]
    np.testing.assert_allclose(numbers(one.params), numbers(two.params), atol=2e-4)


def test_states_beyond_the_filled_ones_are_never_seen(data, one_device):
    """Garbage in the unfilled part of the buffer changes nothing."""
    poisoned = data.replace(
        states=data.states.at[:, 10:].set(jnp.nan), actions=data.actions.at[:, 10:].set(jnp.nan), filled=jnp.asarray(10)
    )
    run, state = prepare(poisoned, mesh=one_device)
    _, metrics = run(state, jax.random.key(0), steps=10)
    assert np.isfinite(numbers(metrics)).all()


def test_moving_average_by_hand():
    config = OptimiserConfig(steps=100, rate=0.1, warmup=0, ema=0.15)
    state = start_state(config, {"w": jnp.array([1.0, -2.0])})
    expected, decays = np.array([1.0, -2.0]), [0.1, 0.15, 0.15]  # min(0.15, (1 + step) / (10 + step))
    for decay in decays:
        state = advance(config, state, {"w": jnp.array([0.3, -0.1])})
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)
    assert int(state.step) == 3


def test_a_state_has_the_same_types_before_and_after_a_step():
    """Weakness included: a program compiled for the first state serves all others, one read from a file too."""
    config = OptimiserConfig(steps=100)
    first = start_state(config, {"w": jnp.zeros(2)})
    later = jax.jit(partial(advance, config))(first, {"w": jnp.ones(2)})
    read = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), later)
    assert jax.tree.map(jax.typeof, first) == jax.tree.map(jax.typeof, later) == jax.tree.map(jax.typeof, read)


def test_first_adam_step_is_the_rate_against_the_gradient():
    config = OptimiserConfig(steps=100, rate=0.1, warmup=0)
    state = advance(config, start_state(config, {"w": jnp.zeros(2)}), {"w": jnp.array([0.3, -0.02])})
    np.testing.assert_allclose(state.params["w"], [-0.1, 0.1], rtol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 0}, {"rate": 0.0}, {"ema": 1.0}, {"ema": -0.1}, {"clip": 0.0}])
def test_optimisers_that_cannot_be(change):
    with pytest.raises(ValueError, match=f"OptimiserConfig.{next(iter(change))} must be"):
        replace(OptimiserConfig(steps=10), **change)


MATRIX = replace(CONFIG, head="matrix", encoder="convolution", octaves=0)


def gradient_of(data, kind, config=MATRIX):
    params = started(config)
    one = jax.tree.map(lambda leaf: leaf[0], (data.policies, data.measures, data.states, data.actions))
    trained = {"encoder": params["encoder"]["params"], "decoder": params["decoder"]}
    training = AutoencoderTraining(config, AutoencoderLoss(kind=kind))
    loss = partial(autoencoder.autoencoder_loss, SHAPE, training, params["encoder"]["projection"])
    gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, parts), gradient = gradients(trained, Teaching(*one), jax.random.key(0))
    return value, parts, gradient["decoder"]["MatrixHead_0"]


def test_parameter_loss_leaves_the_statistics_alone(data):
    value, parts, head = gradient_of(data, "parameters")
    np.testing.assert_allclose(value, parts["parameter_mse"] + AutoencoderLoss().kl * parts["kl"], rtol=1e-6)
    for name, leaf in head.items():
        touched = np.abs(numbers(leaf)).max() > 0
        assert touched == (not name.startswith(("mean_", "std_"))), name


def test_behaviour_loss_is_weighted_action_error_and_kl(data):
    value, parts, head = gradient_of(data, "behaviour")
    expected = AutoencoderLoss().weight * parts["action_mse"] + AutoencoderLoss().kl * parts["kl"]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(numbers(head)).all()


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [("actions", MATRIX, "one of behaviour, parameters"), ("parameters", CONFIG, "needs architecture.head matrix")],
)
def test_losses_that_cannot_be(kind, config, said):
    with pytest.raises(ValueError, match=said):
        AutoencoderTraining(config, AutoencoderLoss(kind=kind))


@pytest.mark.parametrize(
    ("parametrisation", "target", "weighting", "visited"),
    [("v", "posterior", "clean", 0.5), ("v", "sample", "target", 0.0), ("flow", "posterior", "clean", 1.0)],
)
def test_diffusion_learns_which_of_two_modes_a_measure_means(one_device, parametrisation, target, weighting, visited):
    """Latents are +1 where the measure is high and -1 where it is low; unasked, both must appear."""
    sign = jnp.where(jnp.arange(64) % 2 == 0, 1.0, -1.0)
    mean = jnp.broadcast_to(sign[:, None, None, None], (64, 2, 2, 1))
    measures = (0.5 + 0.4 * sign)[:, None]
    network = make_network(DenoiserConfig(network="mlp", embedding=16, hidden=32, layers=1, octaves=2), (2, 2, 1))
    loss = DiffusionLoss(parametrisation=parametrisation, target=target, batch=64, drop_all=0.2, drop_each=0.0)
    loss = replace(loss, weighting=weighting, visited=visited)
    optimiser = OptimiserConfig(steps=600, rate=1e-2, warmup=20, ema=0.98)
    params = jax.jit(network.init)(jax.random.key(0), mean[0], jnp.zeros(()), make_condition(measures[0]))["params"]
    bank = LatentDataset(mean, jnp.full((2, 2, 1), 0.05), measures, jnp.ones(64), jnp.linspace(0.0, 1.0, 64))
    step = partial(
        denoiser.diffusion_step, network, DenoiserTraining(loss=loss, optimiser=optimiser), 10, one_device, dataset=bank
    )
    run = jax.jit(partial(scan_steps, step), static_argnames="steps")
    state, metrics = run(start_state(optimiser, params), jax.random.key(1), steps=600)
    assert np.isfinite(metrics["loss"])

    schedule = make_schedule(loss.schedule)
    denoise = precondition(partial(network.apply, {"params": state.ema}), schedule, parametrisation)

    @jax.jit
    def draw(keys, wanted):
        one = lambda key: sample(key, denoise, schedule, make_condition(wanted), (2, 2, 1), steps=10)  # noqa: E731
        return jax.vmap(one)(keys).mean((1, 2, 3))

    keys = jax.random.split(jax.random.key(2), 128)
    high, low, free = (np.asarray(draw(keys, jnp.array([m]))) for m in (0.9, 0.1, jnp.nan))
    assert (high > 0).mean() > 0.95 and (low < 0).mean() > 0.95
    np.testing.assert_allclose([high.mean(), low.mean()], [1.0, -1.0], atol=0.15)
    assert 0.2 < (free > 0).mean() < 0.8


@pytest.mark.parametrize("name", ["flow", "cosine"])
def test_noise_levels_are_those_of_the_sampler_and_others(name):
    """A quarter lies at the starts of the sampler's three steps, as often at each; the rest is uniform."""
    schedule = make_schedule(name)
    drawn = np.asarray(denoiser.draw_levels(jax.random.key(0), schedule, 40_000, 0.25, 3))
    starts = schedule.end * np.array([1.0, 2 / 3, 1 / 3])
    at = np.isclose(drawn[:, None], starts, atol=1e-6)
    np.testing.assert_allclose(at.mean(0), 0.25 / 3, atol=0.006)
    rest = drawn[~at.any(1)]
    assert 0 < rest.min() and rest.max() < schedule.end
    np.testing.assert_allclose(np.quantile(rest, [0.25, 0.5, 0.75]) / schedule.end, [0.25, 0.5, 0.75], atol=0.02)


def test_the_sampler_visits_the_levels_that_are_trained():
    seen, schedule = [], make_schedule("flow")

    def denoise(x, t, condition):
        jax.debug.callback(lambda level: seen.append(float(level)), t)
        return x

    sample(jax.random.key(0), denoise, schedule, make_condition(jnp.zeros(1)), (2, 2, 1), steps=5)
    jax.effects_barrier()
    drawn = denoiser.draw_levels(jax.random.key(1), schedule, 200, 1.0, 5)
    np.testing.assert_allclose(np.unique(drawn), np.unique(seen), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": "mode"}, "target must be one of sample, posterior"),
        ({"target": "posterior", "noise": 0.0}, "noise must be greater than 0 where target is posterior"),
        ({"parametrisation": "eps"}, "eps cannot start from pure noise"),
        ({"noise": float("nan")}, "noise must be a finite number, found nan"),
        ({"visited": 1.5}, "visited must be at most 1, found 1.5"),
        ({"weighting": "eps"}, "weighting must be one of target, clean, found 'eps'"),
    ],
)
def test_losses_of_the_denoiser_that_cannot_be(change, said):
    with pytest.raises(ValueError, match=said):
        replace(DiffusionLoss(), **change)


def test_only_weighted_policies_are_drawn(data, one_device):
    """With all weight on one policy the whole batch is that policy, so its loss is the mean loss."""
    lone = dataclasses.replace(data, weights=jnp.zeros(32).at[5].set(2.0))
    rest = jax.tree.map(lambda leaf: leaf.at[jnp.arange(32) != 5].set(jnp.nan), (data.measures, data.actions))
    spoilt = dataclasses.replace(lone, measures=rest[0], actions=rest[1])
    run, state = prepare(spoilt, mesh=one_device)
    _, metrics = run(state, jax.random.key(0), steps=3)
    assert np.isfinite(metrics["loss"])


class TestEliteWeights:
    def test_two_neighbours_by_hand(self):
        """At one place z is -1 and 1: weights e^-s and e^s over their mean cosh(s)."""
        found = elite_weights(np.array([3.0, 7.0]), np.zeros((2, 2)), quality=0.5, balance=0.0, radius=0.1)
        np.testing.assert_allclose(found, np.exp([-0.5, 0.5]) / np.cosh(0.5), rtol=1e-6)

    def test_neighbours_far_apart_do_not_compete(self):
        fitness, places = np.array([1.0, 2.0, 100.0, 101.0]), np.array([[0.0], [0.0], [1.0], [1.0]])
        found = elite_weights(fitness, places, quality=1.0, balance=0.0, radius=0.01)
        np.testing.assert_allclose(found, np.exp([-1.0, 1.0, -1.0, 1.0]) / np.cosh(1.0), rtol=1e-5)

    def test_equal_or_lonely_elites_and_strength_zero_are_drawn_alike(self):
        rng = np.random.default_rng(0)
        np.testing.assert_array_equal(
            elite_weights(np.full(5, 3.0), rng.random((5, 2)), quality=1.0, balance=0.0, radius=0.1), 1.0
        )
        np.testing.assert_array_equal(
            elite_weights(rng.random(3), np.eye(3), quality=1.0, balance=1.0, radius=0.01), 1.0
        )
        np.testing.assert_array_equal(
            elite_weights(rng.random(300), rng.random((300, 2)), quality=0.0, balance=0.0, radius=0.1), 1.0
        )

    def test_neither_units_nor_order_matter(self):
        rng = np.random.default_rng(1)
        settings = {"quality": 0.7, "balance": 0.5, "radius": 0.1}
        fitness, places, order = rng.random(300), rng.random((300, 2)), rng.permutation(300)
        found = elite_weights(fitness, places, **settings)
        np.testing.assert_allclose(elite_weights(1000.0 * fitness - 50.0, places, **settings), found, rtol=1e-4)
        np.testing.assert_allclose(elite_weights(fitness[order], places[order], **settings), found[order], rtol=1e-5)
        assert found.mean() == pytest.approx(1.0, abs=1e-5)

    def test_rare_places_are_learned_as_well_as_common_ones(self):
        """Three elites at one place weigh as much together as the one at another."""
        places = np.array([[0.0], [0.0], [0.0], [1.0]])
        found = elite_weights(np.arange(4.0), places, quality=0.0, balance=1.0, radius=0.05)
        np.testing.assert_allclose(found, np.array([1, 1, 1, 3]) * 4 / 6, rtol=1e-6)
