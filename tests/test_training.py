from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.model import autoencoder, training
from ldpol.model.autoencoder import AutoencoderConfig
from ldpol.model.condition import ask
from ldpol.model.diffusion import make_schedule, precondition
from ldpol.model.sampler import sample
from ldpol.model.training import AutoencoderLoss, Dataset, DiffusionLoss, OptimiserConfig
from ldpol.model.unet import DenoiserConfig, make_network
from ldpol.policy import PolicyShape
from ldpol.rollout import policy_mesh

SHAPE = PolicyShape(3, 2, ())  # linear policies
CONFIG = AutoencoderConfig(latent=(2, 2, 1), rank=6, hidden=16, octaves=2, coordinates=6, encoder_hidden=32)
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
    return Dataset(policies, jnp.asarray(place, jnp.float32), states, actions, jnp.asarray(40))


@pytest.fixture(scope="module")
def data():
    return dataset()


@cache
def started(config):
    return autoencoder.init(SHAPE, config, 2, dataset().policies, jax.random.key(0))


def prepare(data, config=CONFIG, loss=LOSS, optimiser=None, mesh=None):
    """The step, its start, and what it starts from."""
    optimiser = optimiser or OptimiserConfig(steps=200, rate=1e-2, warmup=5, ema=0.9)
    params = started(config)
    state = training.start(optimiser, {"encoder": params["encoder"]["params"], "decoder": params["decoder"]})
    projection = params["encoder"]["projection"]
    step = partial(training.autoencoder_step, SHAPE, config, loss, optimiser, mesh, data, projection)
    run = jax.jit(partial(training.scan_steps, step), static_argnames="steps")
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
    key = jax.random.key(4)
    (run_one, state), (run_two, _) = prepare(data, mesh=one_device), prepare(data, mesh=mesh)
    one, metrics_one = run_one(state, key, steps=5)
    two, metrics_two = run_two(state, key, steps=5)
    np.testing.assert_allclose(numbers(metrics_one), numbers(metrics_two), rtol=1e-4)
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
    state = training.start(config, {"w": jnp.array([1.0, -2.0])})
    expected, decays = np.array([1.0, -2.0]), [0.1, 0.15, 0.15]  # min(0.15, (1 + step) / (10 + step))
    for decay in decays:
        state = training.advance(config, state, {"w": jnp.array([0.3, -0.1])})
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)
    assert int(state.step) == 3


def test_first_adam_step_is_the_rate_against_the_gradient():
    config = OptimiserConfig(steps=100, rate=0.1, warmup=0)
    state = training.advance(config, training.start(config, {"w": jnp.zeros(2)}), {"w": jnp.array([0.3, -0.02])})
    np.testing.assert_allclose(state.params["w"], [-0.1, 0.1], rtol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 0}, {"rate": 0.0}, {"ema": 1.0}, {"ema": -0.1}, {"clip": 0.0}])
def test_optimisers_that_cannot_be(change):
    with pytest.raises(ValueError, match="training needs"):
        training.make_optimiser(OptimiserConfig(steps=10)._replace(**change))


MATRIX = CONFIG._replace(head="matrix", encoder="convolution", octaves=0)


def gradient_of(data, kind, config=MATRIX):
    params = started(config)
    one = jax.tree.map(lambda leaf: leaf[0], (data.policies, data.measures, data.states, data.actions))
    trained = {"encoder": params["encoder"]["params"], "decoder": params["decoder"]}
    loss = partial(
        training.autoencoder_loss, SHAPE, config, AutoencoderLoss(kind=kind), params["encoder"]["projection"]
    )
    (value, parts), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained, *one, jax.random.key(0))
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


@pytest.mark.parametrize(("kind", "config"), [("actions", MATRIX), ("parameters", CONFIG)])
def test_losses_that_cannot_be(data, kind, config):
    with pytest.raises(ValueError, match="behaviour, or parameters with head matrix"):
        gradient_of(data, kind, config)


@pytest.mark.parametrize("parametrisation", ["v", "flow"])
def test_diffusion_learns_which_of_two_modes_a_measure_means(one_device, parametrisation):
    """Latents are +1 where the measure is high and -1 where it is low; unasked, both must appear."""
    sign = jnp.where(jnp.arange(64) % 2 == 0, 1.0, -1.0)
    mean = jnp.broadcast_to(sign[:, None, None, None], (64, 2, 2, 1))
    measures = (0.5 + 0.4 * sign)[:, None]
    network = make_network(DenoiserConfig(network="mlp", embedding=16, hidden=32, layers=1, octaves=2), (2, 2, 1))
    loss = DiffusionLoss(parametrisation=parametrisation, batch=64, drop_all=0.2, drop_each=0.0)
    optimiser = OptimiserConfig(steps=600, rate=1e-2, warmup=20, ema=0.98)
    params = jax.jit(network.init)(jax.random.key(0), mean[0], jnp.zeros(()), ask(measures[0]))["params"]
    latents = (mean, jnp.full_like(mean, 0.05))
    step = partial(training.diffusion_step, network, loss, optimiser, one_device, latents, measures)
    run = jax.jit(partial(training.scan_steps, step), static_argnames="steps")
    state, metrics = run(training.start(optimiser, params), jax.random.key(1), steps=600)
    assert np.isfinite(metrics["loss"])

    schedule = make_schedule(loss.schedule)
    denoise = precondition(partial(network.apply, {"params": state.ema}), schedule, parametrisation)

    @jax.jit
    def draw(keys, wanted):
        one = lambda key: sample(key, denoise, schedule, ask(wanted), (2, 2, 1), steps=10)  # noqa: E731
        return jax.vmap(one)(keys).mean((1, 2, 3))

    keys = jax.random.split(jax.random.key(2), 128)
    high, low, free = (np.asarray(draw(keys, jnp.array([m]))) for m in (0.9, 0.1, jnp.nan))
    assert (high > 0).mean() > 0.95 and (low < 0).mean() > 0.95
    np.testing.assert_allclose([high.mean(), low.mean()], [1.0, -1.0], atol=0.15)
    assert 0.2 < (free > 0).mean() < 0.8
