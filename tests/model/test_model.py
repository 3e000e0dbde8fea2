from dataclasses import replace
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldpol.distillation import autoencoder
from ldpol.distillation.autoencoder import kl_divergence, principal_directions
from ldpol.distillation.encoder import Encoder, halve, neighbourhoods, split_moments
from ldpol.model.condition import make_condition, null_condition
from ldpol.model.decoder import AutoencoderConfig, Decoder, latent_size
from ldpol.model.denoiser import Convolution, DenoiserConfig, GroupNorm, make_network
from ldpol.model.hypernet import BasisHead, MatrixHead
from ldpol.networks import MLP, fold_normaliser, one_sided_error, unfold_normaliser

SHAPE = MLP(5, 2, (6, 6))
NORMALISER = (jnp.linspace(-1.0, 2.0, 5), jnp.array([0.01, 0.3, 1.0, 4.0, 90.0]))
BASIS = AutoencoderConfig(
    latent=(2, 2, 1), rank=3, context=16, hidden=8, octaves=2, joint=4, coordinates=4, encoder_hidden=16
)
MATRIX = replace(BASIS, head="matrix", encoder="convolution", octaves=0, normalise=False)


def policies(count, seed=0):
    """Policies around a common mean, with spreads that differ from scalar to scalar."""
    one = jax.vmap(SHAPE.init)(jax.random.split(jax.random.key(seed), count))
    leaves, structure = jax.tree.flatten(one)
    rng = np.random.default_rng(seed)
    made = [
        jnp.asarray(rng.normal(size=x.shape[1:]) + rng.uniform(0.1, 2, x.shape[1:]) * rng.normal(size=x.shape))
        for x in leaves
    ]
    return jax.tree.unflatten(structure, [leaf.astype(jnp.float32) for leaf in made])


def shaken(params, seed=0):
    """Random parameters, so that nothing that starts at zero hides a mistake."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        structure, [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


@cache
def started(config, count=11):
    """An archive and the warm-started autoencoder of it."""
    archive = policies(count)
    return archive, autoencoder.init(SHAPE, config, 2, archive, NORMALISER, jax.random.key(0))


@cache
def shaken_decoder(config):
    init = jax.jit(Decoder(SHAPE, config).init)
    return shaken(init(jax.random.key(0), jnp.zeros(config.latent), null_condition(2))["params"])


def numbers(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("config", [BASIS, MATRIX], ids=["basis", "matrix"])
def test_encoder_and_decoder_shapes(config):
    archive, params = started(config)
    one = jax.tree.map(lambda leaf: leaf[0], archive)
    mean, log_variance = jax.jit(Encoder(SHAPE, config).apply)(params["encoder"], one)
    assert mean.shape == log_variance.shape == config.latent
    decoded = jax.jit(Decoder(SHAPE, config).apply)({"params": params["decoder"]}, mean, null_condition(2))
    assert jax.tree.map(jnp.shape, decoded) == jax.tree.map(jnp.shape, one)
    assert np.isfinite(numbers((mean, log_variance, decoded))).all()


@pytest.mark.parametrize("config", [BASIS, MATRIX], ids=["basis", "matrix"])
def test_encoder_sees_every_tensor(config):
    archive, params = started(config)
    one = jax.tree.map(lambda leaf: leaf[0], archive)
    size = lambda policy: (Encoder(SHAPE, config).apply(params["encoder"], policy)[0] ** 2).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(size))(one)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_split_moments_bounds_the_variance():
    mean, log_variance = split_moments(jnp.array([1.0, 2.0, -50.0, 50.0]), (1, 2, 1))
    np.testing.assert_array_equal(mean.ravel(), [1.0, 2.0])
    np.testing.assert_array_equal(log_variance.ravel(), [-12.0, 4.0])


def test_basis_head_is_mean_plus_coefficients_times_basis():
    tensors, rank = SHAPE.tensors, 3
    head = BasisHead(tensors, rank)
    nodes = jax.random.normal(jax.random.key(0), (len(tensors), 8))
    latent = jax.random.normal(jax.random.key(1), (4,))
    params = shaken(jax.jit(head.init)(jax.random.key(2), nodes, latent)["params"])
    out = jax.jit(head.apply)({"params": params}, nodes, latent)

    p = jax.tree.map(np.asarray, params)
    x = np.asarray(nodes)
    z = x @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]  # flax numbers the outer layer first
    x = x + (z / (1 + np.exp(-z))) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    skip = (np.asarray(latent) @ p["skip"]).reshape(len(tensors), rank)
    for t, shape in enumerate(tensors):
        used = min(rank, int(np.prod(shape)))
        coefficients = (x[t] @ p["mix"][t] + skip[t])[:used]
        expected = p[f"mean_{t}"] + coefficients @ p[f"basis_{t}"]
        np.testing.assert_allclose(out[t], expected.reshape(shape), atol=1e-4)


def test_matrix_head_cuts_the_largest_matrix_and_undoes_the_standardisation():
    tensors = SHAPE.tensors
    head = MatrixHead(tensors)
    nodes = jax.random.normal(jax.random.key(0), (len(tensors), 8))
    params = shaken(jax.jit(head.init)(jax.random.key(2), nodes, jnp.zeros(4))["params"])
    out = jax.jit(head.apply)({"params": params}, nodes, jnp.zeros(4))

    p = jax.tree.map(np.asarray, params)
    hidden = np.maximum(np.asarray(nodes) @ p["widen"]["kernel"] + p["widen"]["bias"], 0)
    rows, columns = 6, 6  # the largest over (5, 6), (6, 6), (6, 2)
    for t, shape in enumerate(tensors):
        dense = p["matrix" if len(shape) == 2 else "vector"]
        value = hidden[t] @ dense["kernel"] + dense["bias"]
        value = value.reshape(rows, columns)[: shape[0], : shape[1]] if len(shape) == 2 else value[: shape[0]]
        expected = p[f"mean_{t}"].reshape(shape) + p[f"std_{t}"].reshape(shape) * value
        np.testing.assert_allclose(out[t], expected, atol=1e-5)


@pytest.mark.parametrize(("rows", "size"), [(8, 30), (30, 8)], ids=["few rows", "many rows"])
def test_principal_directions_match_the_svd(rows, size):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(rows, size)) * np.geomspace(3, 0.3, size)
    centred = (data - data.mean(0)).astype(np.float32)
    directions, scales = principal_directions(centred, 5)
    _, singular, right = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(scales, singular[:5] / np.sqrt(rows), rtol=1e-4)
    signs = np.sign((directions * right[:5]).sum(1, keepdims=True))
    np.testing.assert_allclose(directions * signs, right[:5], atol=1e-4)


def test_principal_directions_beyond_the_rank_are_zero():
    centred = np.array([[1.0, 0, 0, 0, 0], [-1.0, 0, 0, 0, 0]], np.float32)
    directions, scales = principal_directions(centred, 4)
    np.testing.assert_allclose(np.abs(directions[0]), [1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(scales, [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(directions[1:], 0, atol=1e-6)


@pytest.mark.parametrize("config", [BASIS, MATRIX], ids=["basis", "matrix"])
def test_warm_start_decodes_to_the_archive_mean_when_nothing_is_added(config):
    archive, params = started(config)
    decoder = params["decoder"]
    name = "BasisHead_0" if config.head == "basis" else "MatrixHead_0"
    silent = ("mix", "skip") if config.head == "basis" else ("matrix", "vector")
    head = {k: jax.tree.map(jnp.zeros_like, v) if k in silent else v for k, v in decoder[name].items()}
    decoded = jax.jit(Decoder(SHAPE, config).apply)(
        {"params": {**decoder, name: head}}, jnp.ones(config.latent), make_condition(jnp.array([0.2, 0.3]))
    )
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).mean(0), archive)
    np.testing.assert_allclose(numbers(decoded), numbers(expected), atol=1e-5)


def test_warm_started_basis_spans_the_archive():
    """With as many basis vectors as the data has dimensions, every policy is mean + basis @ coefficients."""
    archive, params = started(BASIS, 4)  # 4 policies around their mean span 3 dimensions, the rank of the basis
    head = params["decoder"]["BasisHead_0"]
    seen = jax.vmap(unfold_normaliser, (0, None, None))(archive, *NORMALISER)
    for t, leaf in enumerate(jax.tree.leaves(seen)):
        rows = np.asarray(leaf).reshape(4, -1) - np.asarray(head[f"mean_{t}"])
        basis = np.asarray(head[f"basis_{t}"])
        found, *_ = np.linalg.lstsq(basis.T, rows.T, rcond=None)
        np.testing.assert_allclose(basis.T @ found, rows.T, atol=1e-4)
        np.testing.assert_allclose((found**2).mean(1), 1.0, rtol=1e-2)  # scaled: coefficients of unit variance


def test_units_of_observations_do_not_matter():
    """The same policies on observations in other units and from other zeros: the same latents, the same behaviour."""
    scale, shift = jnp.array([1e-3, 1.0, 7.0, 300.0, 0.1]), jnp.array([0.0, -2.0, 50.0, 1.0, 0.3])
    archive, params = started(BASIS)
    elsewhere = jax.vmap(fold_normaliser, (0, None, None))(archive, shift, scale)  # acts on scale * o + shift
    centre, spread = NORMALISER
    normaliser = (scale * centre + shift, scale * spread)
    others = autoencoder.init(SHAPE, BASIS, 2, elsewhere, normaliser, jax.random.key(0))
    seen = centre[None] + spread[None] * jax.random.normal(jax.random.key(1), (20, 5))

    @jax.jit
    def behave(params, policies, observations):
        mean, _ = jax.vmap(partial(Encoder(SHAPE, BASIS).apply, params["encoder"]))(policies)
        decode = partial(Decoder(SHAPE, BASIS).apply, {"params": params["decoder"]})
        half = make_condition(jnp.full(2, 0.5))
        return mean, jax.vmap(SHAPE.apply, (0, None))(jax.vmap(decode, (0, None))(mean, half), observations)

    means, actions = behave(params, archive, seen)
    assert np.std(means) > 1e-3 and np.std(actions) > 0.1
    other_means, other_actions = behave(others, elsewhere, scale[None] * seen + shift[None])
    np.testing.assert_allclose(other_means, means, atol=1e-4)
    np.testing.assert_allclose(other_actions, actions, atol=2e-3)


@pytest.mark.parametrize("config", [BASIS, MATRIX], ids=["basis", "matrix"])
def test_decoder_vmap_is_a_loop_and_jit_is_eager(config):
    decoder = Decoder(SHAPE, config)
    params = shaken_decoder(config)
    latents = jax.random.normal(jax.random.key(1), (3, *config.latent))
    measures = jnp.array([[0.1, 0.2], [jnp.nan, 0.5], [0.9, jnp.nan]])
    decode = lambda latent, wanted: decoder.apply({"params": params}, latent, make_condition(wanted))  # noqa: E731
    batch = jax.jit(jax.vmap(decode))(latents, measures)
    for i, how in enumerate((decode, jax.jit(decode), jax.jit(decode))):
        one = how(latents[i], measures[i])
        np.testing.assert_allclose(numbers(jax.tree.map(lambda leaf: leaf[i], batch)), numbers(one), atol=1e-4)  # noqa: B023


@pytest.mark.parametrize(
    ("config", "sees"), [(BASIS, True), (replace(BASIS, octaves=0), False)], ids=["octaves", "no octaves"]
)
def test_decoder_sees_the_condition_unless_blind(config, sees):
    decoder = Decoder(SHAPE, config)
    params, latent = shaken_decoder(config), jnp.ones(config.latent)
    size = lambda m: sum_of_squares(decoder.apply({"params": params}, latent, make_condition(m)))  # noqa: E731
    gradient = jax.jit(jax.grad(size))(jnp.array([0.3, 0.6]))
    assert (np.abs(gradient).min() > 0) == sees


def sum_of_squares(tree):
    return sum((leaf**2).sum() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (3, 5), (1, 1)])
def test_convolution_is_the_usual_one(size):
    module = Convolution(3)
    x = jax.random.normal(jax.random.key(0), (*size, 2))
    params = shaken(jax.jit(module.init)(jax.random.key(1), x)["params"])

    def ours(params, x):
        return module.apply({"params": params}, x)

    def usual(params, x):
        dims = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(x[None], params["kernel"], (1, 1), "SAME", dimension_numbers=dims)
        return out[0] + params["bias"][None, None]

    np.testing.assert_allclose(ours(params, x), usual(params, x), atol=1e-5)
    weight = jax.random.normal(jax.random.key(2), (*size, 3))
    one, other = (jax.jit(jax.grad(lambda p, x: (f(p, x) * weight).sum(), (0, 1)))(params, x) for f in (ours, usual))  # noqa: B023
    np.testing.assert_allclose(numbers(one), numbers(other), atol=1e-4)


@pytest.mark.parametrize("size", [(64, 6), (5, 7), (2, 2), (1, 3)])
def test_dense_on_neighbourhoods_is_a_convolution(size):
    x, kernel = jax.random.normal(jax.random.key(0), (*size, 2)), jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
    usual = nn.Conv(4, (3, 3), use_bias=False).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(neighbourhoods(x) @ kernel.reshape(18, 4), usual, atol=1e-4)
    if min(size) > 1:
        np.testing.assert_array_equal(halve(x), nn.max_pool(x, (2, 2), (2, 2)))


def test_convolution_that_starts_at_zero():
    module = Convolution(3, zero=True)
    x = jnp.ones((4, 4, 2))
    assert not module.apply(module.init(jax.random.key(0), x), x).any()


def test_group_norm_of_one_item():
    """Each of the 8 groups of 2 channels has mean 0 and variance 1 over the whole image, batched or not."""
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (5, 4, 4, 16)) * jnp.arange(1, 17)[None, None, None]
    module = GroupNorm()
    variables = module.init(jax.random.key(1), x[0])
    batch = jax.jit(jax.vmap(lambda one: module.apply(variables, one)))(x)
    for i in range(5):
        one = np.asarray(module.apply(variables, x[i]))
        np.testing.assert_allclose(batch[i], one, atol=1e-5)
        groups = np.asarray(x[i], np.float64).reshape(16, 8, 2)
        normal = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-6)
        np.testing.assert_allclose(one, normal.reshape(4, 4, 16), atol=1e-3)


@pytest.mark.parametrize("network", ["unet", "mlp"])
def test_network_vmap_is_a_loop_and_jit_is_eager(network):
    config = DenoiserConfig(network=network, channels=(4, 8), embedding=8, octaves=2, joint=2, hidden=8, layers=1)
    module = make_network(config, (4, 4, 2))
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    t, measures = jnp.array([0.0, 0.4, 1.0]), jnp.array([[0.1, 0.2], [jnp.nan, 0.5], [0.9, jnp.nan]])
    params = shaken(jax.jit(module.init)(jax.random.key(1), x[0], t[0], null_condition(2)))
    apply = lambda x, t, m: module.apply(params, x, t, make_condition(m))  # noqa: E731
    batch = jax.jit(jax.vmap(apply))(x, t, measures)
    assert batch.shape == x.shape
    for i, how in enumerate((apply, jax.jit(apply), jax.jit(apply))):
        np.testing.assert_allclose(batch[i], how(x[i], t[i], measures[i]), atol=1e-4)
    assert np.abs(batch[0] - batch[1]).max() > 1e-3


@pytest.mark.parametrize("network", ["unet", "mlp"])
def test_network_starts_at_zero(network):
    module = make_network(DenoiserConfig(network=network), (4, 4, 1))
    x = jnp.ones((4, 4, 1))
    variables = jax.jit(module.init)(jax.random.key(0), x, jnp.asarray(0.5), null_condition(2))
    assert not jax.jit(module.apply)(variables, x, jnp.asarray(0.5), null_condition(2)).any()


@pytest.mark.parametrize(
    ("config", "latent", "said"),
    [
        ({"network": "transformer"}, (4, 4, 1), "network must be one of mlp, unet, found 'transformer'"),
        ({"network": "unet", "channels": ()}, (4, 4, 1), "channels is empty"),
        ({"hidden": 0}, (4, 4, 1), "hidden must be at least 1, found 0"),
        ({"network": "unet", "channels": (4, 4, 4)}, (4, 6, 1), "divisible by 4"),
    ],
)
def test_networks_that_cannot_be(config, latent, said):
    with pytest.raises(ValueError, match=said):
        make_network(DenoiserConfig(**config), latent)


@pytest.mark.parametrize(
    "change", [{"head": "heads"}, {"encoder": "cnn"}, {"rank": 0}, {"latent": (4, 0, 1)}, {"hidden": -1}]
)
def test_autoencoders_that_cannot_be(change):
    with pytest.raises(ValueError, match="found"):
        replace(BASIS, **change)


def test_kl_in_closed_form():
    """KL(N(m, s^2) || N(0, 1)) = (s^2 + m^2 - 1) / 2 - log s, summed."""
    mean, std = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.5, 2.0])
    expected = ((std**2 + mean**2 - 1) / 2 - np.log(std)).sum()
    np.testing.assert_allclose(kl_divergence(jnp.asarray(mean), jnp.asarray(2 * np.log(std))), expected, rtol=1e-6)
    assert kl_divergence(jnp.zeros(4), jnp.zeros(4)) == 0.0


def test_action_error_by_hand():
    target = jnp.array([0.5, 1.0, 1.0, -1.0, -1.0, 0.0])
    mean = jnp.array([1.5, 3.0, 0.75, -3.0, -0.75, -0.25])
    # Beyond saturation costs nothing, short of it costs the difference.
    np.testing.assert_allclose(one_sided_error(mean, target), [1.0, 0.0, -0.25, 0.0, 0.25, -0.25])
    gradient = jax.grad(lambda m: (one_sided_error(m, target) ** 2).sum())(mean)
    np.testing.assert_allclose(gradient, [2.0, 0.0, -0.5, 0.0, 0.5, -0.5])


def test_sizes():
    assert latent_size(BASIS) == 4
