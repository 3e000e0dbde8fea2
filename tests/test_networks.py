"""Policy networks: layouts round-trip, MLPs against a second implementation, what modules and functions are read as."""

import dataclasses
import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax.training.networks import MLP as BraxMLP
from flax.core import freeze
from qdax.core.neuroevolution.networks.networks import MLP as QDaxMLP
from qdax.core.neuroevolution.networks.networks import MLPDC

from ldpol import networks
from ldpol.network_reader import network
from ldpol.networks import MLP, CustomNetwork, fold_normaliser, unfold_normaliser

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
    mean = SHAPE.pre_action(params, observations)
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


def test_folding_a_normaliser_equals_normalising_first(params):
    mean = jnp.array([1.0, -3.0, 0.0, 10.0, 0.1])
    std = jnp.array([0.5, 2.0, 1.0, 7.0, 0.05])
    before = jax.tree.map(np.array, params)
    folded = fold_normaliser(params, mean, std)
    raw = mean[None] + 2 * std[None] * jax.random.normal(jax.random.key(3), (64, 5))
    np.testing.assert_allclose(mlp(folded, raw), mlp(params, (raw - mean[None]) / std[None]), rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, params)


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


INSIDE = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "swish": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("activation", INSIDE)
@pytest.mark.parametrize("final", networks.FINALS)
def test_activations_agree_with_numpy(params, activation, final):
    net = MLP(5, 2, (8, 4), activation, final, low=-1.0, high=3.0)
    x = np.asarray(jax.random.normal(jax.random.key(2), (64, 5)), np.float64)
    seen = x
    for i in range(3):
        layer = params["params"][f"Dense_{i}"]
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
        x = INSIDE[activation](x) if i < 2 else x
    np.testing.assert_allclose(net.pre_action(params, jnp.asarray(seen)), x, rtol=1e-4, atol=1e-4)
    expected = {"clip": np.clip(x, -1, 3), "tanh": 1 + 2 * np.tanh(x), "identity": x}[final]
    np.testing.assert_allclose(net.apply(params, jnp.asarray(seen)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": (8, 0)}, "sizes must be positive integers, found 5 -> 8 -> 0 -> 2"),
        ({"observation_size": 2.5}, "sizes must be positive integers, found 2.5 -> 8 -> 2"),
        (
            {"activation": "relu6"},
            "activation relu6 is not one of relu, tanh, .*wrap the module in a function: it becomes",
        ),
        ({"final": "softmax"}, "final activation must be one of clip, tanh, identity, found 'softmax'"),
        ({"low": 1.0}, "low < high, found 1 and 1"),
    ],
)
def test_mlps_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        MLP(**{"observation_size": 5, "action_size": 2, "hidden": (8,)} | fields)


def test_a_tanh_head_is_compared_before_its_activation():
    """By hand: atanh(.5) = .5493; .99 and beyond is saturated, at 2.6467."""
    net = MLP(1, 1, (), "relu", "tanh")
    target = jnp.array([0.5, 0.999, 0.999, -1.0, -1.0])
    pre_action = jnp.array([1.0, 9.0, 2.0, -9.0, 0.0])
    expected = [1 - 0.549306, 0.0, 2 - 2.646652, 0.0, 2.646652]
    np.testing.assert_allclose(net.action_error(pre_action, target), expected, atol=1e-5)
    gradient = jax.grad(lambda m: (net.action_error(m, target) ** 2).sum())(pre_action)
    np.testing.assert_allclose(gradient, 2 * np.array(expected), atol=1e-4)
    wide = MLP(1, 1, (), "relu", "tanh", low=0.0, high=4.0)
    np.testing.assert_allclose(wide.action_error(pre_action, 2 + 2 * target), expected, atol=1e-4)


@pytest.mark.parametrize("final", networks.FINALS)
def test_a_student_that_acts_alike_has_no_error(params, final):
    net = MLP(5, 2, (8, 4), "relu", final, low=-0.5, high=2.0)
    seen = jax.random.normal(jax.random.key(2), (64, 5))
    error = net.action_error(net.pre_action(params, seen), net.apply(params, seen))
    np.testing.assert_allclose(error, 0.0, atol=1e-4)


def test_reads_the_mlp_of_qdax():
    module = QDaxMLP((64, 32, 6), final_activation=jnp.tanh)
    found = network(module, observation_size=17)
    assert found == MLP(17, 6, (64, 32), "relu", "tanh")
    params = module.init(jax.random.key(0), jnp.zeros(17))
    seen = jax.random.normal(jax.random.key(1), (9, 17))
    np.testing.assert_array_equal(found.apply(params, seen), module.apply(params, seen))
    assert network(QDaxMLP((8, 6)), observation_size=3) == MLP(3, 6, (8,), "relu", "identity")
    same = QDaxMLP(
        (8, 6), activation=lambda x: x * jax.nn.sigmoid(x), final_activation=lambda x: 2 * nn.sigmoid(2 * x) - 1
    )
    assert network(same, observation_size=3) == MLP(3, 6, (8,), "swish", "tanh")


def test_reads_the_mlp_of_brax():
    module = BraxMLP((32, 32, 12), activation=nn.swish)
    assert network(module, observation_size=24, head="mean", final="tanh") == MLP(24, 6, (32, 32), "swish", "tanh")
    with pytest.raises(ValueError, match="does not say what becomes of its last layer; pass head='mean', final='tanh'"):
        network(module, observation_size=24)
    normed = BraxMLP((8, 3), layer_norm=True)
    assert isinstance(network(normed, observation_size=4), CustomNetwork)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (QDaxMLP((8, 6), activation=nn.relu6), "activation relu6 is not one of relu, tanh"),
        (QDaxMLP((8, 6), final_activation=nn.softmax), "activation softmax is not one of"),
        (QDaxMLP((8, 6), final_activation=nn.sigmoid), "final activation sigmoid is not one of clip, tanh, identity"),
        (MLPDC((8, 6)), "reads a descriptor beside the observation"),
        (SHAPE, r"MLP\(5 -> 8 -> 4 -> 2, tanh, clip\) has 5 observations, the environment 3"),
        (nn.LayerNorm().apply, "pass params=, those of one policy"),
    ],
)
def test_networks_that_cannot_be_read(module, message):
    with pytest.raises(ValueError, match=message):
        network(module, observation_size=3)


class Normed(nn.Module):
    """Layer normalisation, and a scale without an axis: not an MLP."""

    @nn.compact
    def __call__(self, observation):
        scale = self.param("scale", nn.initializers.ones, ())
        return nn.tanh(scale * nn.Dense(2, name="out")(nn.LayerNorm()(nn.relu(nn.Dense(8, name="in")(observation)))))


def test_any_module_becomes_a_custom_network():
    net = network(Normed(), observation_size=5, first="params/in")
    assert isinstance(net, CustomNetwork)
    params = Normed().init(jax.random.key(0), jnp.zeros(5))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, net.abstract())
    assert (net.observation_size, net.action_size, net.size) == (5, 2, 5 * 8 + 8 + 16 + 8 * 2 + 2 + 1)
    back = net.unflatten(net.flatten(params))
    jax.tree.map(np.testing.assert_array_equal, back, params)
    seen = jax.random.normal(jax.random.key(1), (3, 7, 5))
    np.testing.assert_allclose(net.pre_action(params, seen), Normed().apply(params, seen), atol=1e-6)
    mean, std = jnp.arange(5.0), jnp.arange(1.0, 6.0)
    folded = fold_normaliser(params, mean, std, net.first)
    np.testing.assert_allclose(
        net.apply(folded, seen[0, 0]), net.apply(params, (seen[0, 0] - mean) / std), rtol=1e-4, atol=1e-5
    )
    assert network(Normed().apply, observation_size=5, params=freeze(params)).tree == net.tree


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda params, seen: seen[None, :2], r"apply\(params, \[3\]\) returned \[1, 2\]; expected \[A\]"),
        (lambda params, seen: (seen, seen), "returned a tuple; expected"),
        (lambda params, seen, key: seen, "raised TypeError"),
        (lambda params, seen: seen @ params["a"], "raised TypeError"),
    ],
)
def test_functions_that_do_not_act_on_one_observation(apply, message):
    with pytest.raises(ValueError, match=message):
        network(apply, observation_size=3, params={"a": jnp.zeros(4)})
    with pytest.raises(ValueError, match="must be nested dicts of arrays"):
        network(lambda params, seen: seen, observation_size=3, params=[jnp.zeros(4)])


@pytest.mark.parametrize("net", [SHAPE, MLP(3, 1, (), "relu", "tanh", -2.0, 2.0)])
def test_an_mlp_survives_json(net):
    assert networks.from_json(json.loads(json.dumps(net.to_json()))) == net


def test_old_files_are_tanh_and_clip():
    assert networks.from_json({"observation_size": 5, "action_size": 2, "hidden": [8, 4]}) == SHAPE
    with pytest.raises(ValueError, match="unknown kind 'snn'"):
        networks.from_json({"kind": "snn"})


def test_a_custom_network_survives_json_without_its_code():
    net = network(Normed(), observation_size=5)
    back = networks.from_json(json.loads(json.dumps(net.to_json())))
    assert (back.tree, back.size, hash(back)) == (net.tree, net.size, hash(back))
    assert back.fingerprint == net.fingerprint and np.shape(back.fingerprint) == (8, 2)
    assert back.to_json() == net.to_json()
    assert dataclasses.replace(back, apply=net.apply) == net
    with pytest.raises(ValueError, match=r"custom network 'test_networks:Normed'.*load\(path, network=...\)"):
        jax.eval_shape(partial(back.apply), back.abstract(), jnp.zeros(5))


class Other(nn.Module):
    """The parameters of `Normed`, used otherwise."""

    @nn.compact
    def __call__(self, observation):
        scale = self.param("scale", nn.initializers.ones, ())
        return nn.tanh(scale * nn.Dense(2, name="out")(nn.LayerNorm()(nn.swish(nn.Dense(8, name="in")(observation)))))


def test_a_custom_network_gets_its_code_back():
    net = network(Normed(), observation_size=5, first="params/in")
    stored = networks.from_json(json.loads(json.dumps(net.to_json())))
    assert networks.with_code(stored, net) == net
    assert networks.with_code(stored, None) is stored
    again = networks.with_code(stored, network(Normed(), observation_size=5))  # another instance, `first` not said
    assert again.first == "params/in" and again.apply is not net.apply
    shuffled = dataclasses.replace(net, tree=net.tree[::-1])
    assert networks.with_code(stored, shuffled).fingerprint == net.fingerprint


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Other(),
            r"belong to CustomNetwork\(test_networks:Normed.*acts differently, by up to \d[.\d]* at 8 observations",
        ),
        (nn.Dense(2), "belong to CustomNetwork.*: its parameters are others"),
        (QDaxMLP((8, 2)), r"belong to CustomNetwork.*, network= is MLP\(5 -> 8 -> 2, relu, identity\)"),
    ],
)
def test_code_of_another_network_is_refused(module, message):
    stored = networks.from_json(network(Normed(), observation_size=5).to_json())
    with pytest.raises(ValueError, match=message):
        networks.with_code(stored, network(module, observation_size=5))


def test_an_mlp_needs_no_code_and_takes_no_other():
    assert networks.with_code(SHAPE, SHAPE) == SHAPE
    with pytest.raises(ValueError, match=r"belong to MLP\(.*tanh, clip\), network= is MLP\(.*relu, clip\)"):
        networks.with_code(SHAPE, dataclasses.replace(SHAPE, activation="relu"))
