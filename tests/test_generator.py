import dataclasses
import json
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ldpol
from ldpol import precision, storage
from ldpol.archive import Grid
from ldpol.generator import PolicyGenerator
from ldpol.model.answering import Kernel
from ldpol.model.condition import merge_conditions, null_condition
from ldpol.model.decoder import AutoencoderConfig, Decoder
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.model.image import Scaling, image_shape, split_image
from ldpol.model.verified import latent_step, make_bank, round_draws
from ldpol.networks import MLP

SHAPE = MLP(5, 2, (6,))
AUTOENCODER = AutoencoderConfig(latent=(2, 2, 1), rank=3, context=16, layers=1, hidden=8, octaves=2)
NETWORK = DenoiserConfig(hidden=16, layers=1, embedding=8, octaves=2, joint=8)
WANTED = jnp.array([-0.5, 3.0])


def make_generator(shape=SHAPE, grid=Grid((4, 4), (-1.0, 2.0), (1.0, 4.0))):  # noqa: B008
    """A generator of two measures with random weights everywhere: nothing is masked by an initial zero."""
    latent, none = jnp.zeros(AUTOENCODER.latent), null_condition(2)
    network, image = make_network(NETWORK, image_shape(AUTOENCODER)), jnp.zeros(image_shape(AUTOENCODER))

    @jax.jit
    def init():
        made = (
            Decoder(shape, AUTOENCODER).init(jax.random.key(0), latent, none)["params"],
            network.init(jax.random.key(1), image, jnp.zeros(()), none)["params"],
        )
        leaves, structure = jax.tree.flatten(made)
        keys = jax.random.split(jax.random.key(2), len(leaves))
        shaken = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, shaken)

    decoder, denoiser = init()
    return PolicyGenerator(
        decoder=decoder,
        denoiser=denoiser,
        scaling=Scaling(jnp.full(image_shape(AUTOENCODER), 0.1), jnp.array([1.5, 0.2])),
        reader={},
        shape=shape,
        autoencoder=AUTOENCODER,
        network=NETWORK,
        schedule="flow",
        parametrisation="flow",
        grid=grid,
        measure_names=("left", "right"),
        task="toy",
        settings=(("backend", "none"), ("episode_length", 7)),
        steps=3,
        method="ddim",
    )


def with_draws(model, achieved, kernel=Kernel(0.05, 0.1), **told):  # noqa: B008
    """A model with verified draws of random latents that achieved measures `[R, M]`, and the draws; see `make_bank`."""
    achieved, zero = np.array(achieved, np.float32), np.zeros(len(achieved), np.float32)
    latents = jax.random.normal(jax.random.key(0), (len(achieved), *model.autoencoder.latent))
    draws = round_draws(latents, jnp.asarray(achieved), latent_step(latents, 0.0 * latents))
    blank = {"traits": np.zeros((len(achieved), 0)), "trait_names": (), "quality": zero, "log_weight": zero}
    return dataclasses.replace(model, bank=make_bank(draws, achieved, **blank | told), kernel=kernel), draws


@pytest.fixture(scope="module")
def generator():
    return make_generator()


@jax.jit
def draw(model, key, wanted=None):
    return model.sample(key, wanted)


@jax.jit
def draw_latent(model, key, condition, guidance=1.0):
    return model.sample_latent(key, condition, guidance=guidance)[0]


def vector(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def test_sample_has_the_policys_shape_and_acts(generator):
    policy = draw(generator, jax.random.key(0), WANTED)
    assert jax.tree.map(jnp.shape, policy) == jax.tree.map(jnp.shape, SHAPE.abstract())
    observation = jnp.arange(5.0)
    action = generator.apply(policy, observation)
    p = jax.tree.map(np.asarray, policy)["params"]
    hidden = np.tanh(np.arange(5.0) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
    expected = np.clip(hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"], -1, 1)
    np.testing.assert_allclose(action, expected, atol=1e-5)


def test_same_key_same_policy(generator):
    one, again, other = (vector(draw(generator, jax.random.key(k), WANTED)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-2


def test_jit_is_eager_and_the_generator_is_a_pytree(generator):
    eager = generator.sample(jax.random.key(0), WANTED)
    jitted = draw(generator, jax.random.key(0), WANTED)
    np.testing.assert_allclose(vector(jitted), vector(eager), atol=1e-4)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, generator)
    assert isinstance(doubled, PolicyGenerator) and doubled.grid == generator.grid
    np.testing.assert_allclose(doubled.scaling.scale, [3.0, 0.4])


def test_vmap_is_a_loop(generator):
    keys = jax.random.split(jax.random.key(0), 3)
    wanted = jnp.array([[-0.5, 3.0], [jnp.nan, 2.5], [jnp.nan, jnp.nan]])
    batch = jax.jit(jax.vmap(generator.sample))(keys, wanted)
    for i in range(3):
        one = vector(jax.tree.map(lambda leaf: leaf[i], batch))  # noqa: B023
        np.testing.assert_allclose(one, vector(draw(generator, keys[i], wanted[i])), atol=1e-4)


def test_gradients(generator):
    @jax.jit
    def norm(wanted, guidance):
        return sum(
            (leaf**2).sum() for leaf in jax.tree.leaves(generator.sample(jax.random.key(0), wanted, guidance=guidance))
        )

    by_measures, by_guidance = jax.jit(jax.grad(norm, (0, 1)))(WANTED, 1.5)
    assert np.isfinite(by_measures).all() and np.abs(by_measures).min() > 0
    step = 1e-2
    difference = (norm(WANTED, 1.5 + step) - norm(WANTED, 1.5 - step)) / (2 * step)
    np.testing.assert_allclose(by_guidance, difference, rtol=0.05, atol=1e-3)


def test_all_nan_is_none_and_guidance_zero_ignores_the_condition(generator):
    key = jax.random.key(0)
    free = vector(draw(generator, key))
    np.testing.assert_allclose(vector(draw(generator, key, jnp.full(2, jnp.nan))), free, atol=1e-5)
    none = null_condition(2)
    wanted = generator.condition(WANTED)
    unguided = draw_latent(generator, key, wanted, 0.0)
    free_latent = jax.jit(lambda model: model.sample_latent(key, none, impute=False)[0])(generator)
    np.testing.assert_allclose(unguided, free_latent, atol=1e-5)
    assert np.abs(draw_latent(generator, key, wanted) - unguided).max() > 1e-3


def test_measures_are_scaled_by_the_grid(generator):
    condition = generator.condition(jnp.array([0.0, 2.5]))
    np.testing.assert_allclose(condition.measures, [0.5, 0.25])
    one_free = generator.condition(jnp.array([jnp.nan, 4.0]))
    np.testing.assert_array_equal(one_free.mask, [0.0, 1.0])
    np.testing.assert_array_equal(one_free.measures, [0.0, 1.0])


def test_measures_may_be_constants_of_a_jitted_function(generator):
    found = jax.jit(lambda model, key: model.sample(key, WANTED))(generator, jax.random.key(0))
    np.testing.assert_allclose(vector(found), vector(draw(generator, jax.random.key(0), WANTED)), atol=1e-4)


@pytest.mark.parametrize("wanted", [jnp.zeros(3), jnp.zeros((4, 2)), 0.5])
def test_measures_of_another_shape(generator, wanted):
    with pytest.raises(ValueError, match=r"expected 2 measures \(left, right\)"):
        generator.sample(jax.random.key(0), wanted)


def test_measures_outside_their_bounds(generator):
    with pytest.raises(ValueError, match=r"right = 4.5 \(allowed 2 to 4\)"):
        generator.sample(jax.random.key(0), jnp.array([0.0, 4.5]))
    with pytest.raises(ValueError, match=r"left = -2 .*; right = 0 "):
        generator.sample(jax.random.key(0), jnp.array([-2.0, 0.0]))


@jax.jit
def draw_composed(model, key, measures, scales):
    return model.sample_composed(key, measures, scales)


def test_measures_left_free_are_made_up_and_asked_ones_kept(generator):
    """The image's last channel: asked measures replace what the denoiser painted, the others are its mean, clipped."""
    painted = jnp.concatenate([jnp.arange(4.0).reshape(2, 2, 1), jnp.array([[0.2, 0.5], [0.4, 0.9]])[..., None]], -1)
    one_free = generator.condition(jnp.array([0.0, jnp.nan]))
    latent, measures = split_image(AUTOENCODER, painted, one_free)
    np.testing.assert_array_equal(latent[..., 0], np.arange(4.0).reshape(2, 2))
    np.testing.assert_allclose(measures, [0.5, 0.7], rtol=1e-6)
    _, outside = split_image(AUTOENCODER, 3.0 * painted, generator.condition(None))
    np.testing.assert_allclose(outside, [0.9, 1.0], rtol=1e-6)


@pytest.mark.parametrize("wanted", [[-0.5, jnp.nan], [jnp.nan, jnp.nan], [-0.5, 3.0]])
def test_a_request_is_completed_before_it_is_answered(wanted, generator):
    """Two draws written out: one makes up what is free, the other is asked for all of it."""
    key, condition = jax.random.key(7), generator.condition(jnp.array(wanted))
    latent, measures, _ = jax.jit(lambda model: model.sample_latent(key, condition))(generator)

    @jax.jit
    def by_hand(model):
        _, made_up, _ = model.sample_latent(jax.random.split(key)[0], condition, impute=False)
        asked = condition.replace(measures=made_up, mask=jnp.ones(2))
        return model.sample_latent(key, asked, impute=False)[0], model.sample_latent(key, condition, impute=False)

    expected, (alone, kept, _) = by_hand(generator)
    np.testing.assert_allclose(latent, expected, atol=1e-4)
    given = condition.mask > 0
    np.testing.assert_array_equal(measures[given], kept[given])
    assert np.allclose(latent, alone, atol=1e-3) == bool(given.all())


def test_one_condition_composed_is_a_sample(generator):
    key = jax.random.key(3)
    found = draw_composed(generator, key, WANTED[None], jnp.ones(1))
    np.testing.assert_allclose(vector(found), vector(draw(generator, key, WANTED)), atol=1e-4)


@pytest.mark.parametrize("second", [[jnp.nan, 3.0], [-0.5, 3.0]])
def test_composition_by_hand(second, generator):
    """Two sampling loops: the generator's, and one written out with the denoiser's three answers a step.

    The decoder is told the first measure, which one condition with a positive scale names; not what is to be avoided.
    """
    key, free = jax.random.key(4), jnp.nan
    measures, scales = jnp.array([[-0.5, free], second]), jnp.array([1.5, -0.5])

    @jax.jit
    def by_hand(model):
        asked, none = [model.condition(one) for one in measures], model.condition(None)
        draw_key = jax.random.split(key)[1]
        x = jax.random.normal(jax.random.split(draw_key)[0], image_shape(AUTOENCODER))
        for t, after in ((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0)):
            base = model.denoise(x, jnp.asarray(t), none)
            parts = [model.denoise(x, jnp.asarray(t), one) - base for one in asked]
            clean = base + 1.5 * parts[0] - 0.5 * parts[1]
            x = (1 - after) * clean + after * (x - (1 - t) * clean) / t
        made_up = 0.2 * x[..., -1].reshape(2, 2).mean(0) + 0.1  # two measures take turns in four places
        return model.decode(x[..., :-1] * 1.5 + 0.1, jnp.stack([0.25, jnp.clip(made_up[1], 0.0, 1.0)]))

    found = draw_composed(generator, key, measures, scales)
    np.testing.assert_allclose(vector(found), vector(by_hand(generator)), atol=1e-3)


def test_the_decoder_is_told_what_one_condition_asks_for(generator):
    """Nothing of a measure that two name, or that is named negatively only."""
    free = jnp.nan
    for measures, scales, told in (
        ([[-0.5, free], [free, 3.0]], [1.0, 1.0], [0.25, 0.5]),
        ([[-0.5, free], [free, 3.0]], [0.0, 0.5], [free, 0.5]),
        ([[-0.5, free], [0.5, 3.0]], [1.0, 1.0], [free, 0.5]),
        ([[-0.5, free], [0.5, 3.0]], [1.0, -1.0], [0.25, free]),
    ):
        found = merge_conditions([generator.condition(jnp.array(one)) for one in measures], jnp.array(scales))
        np.testing.assert_array_equal(np.where(found.mask > 0, found.measures, free), told)


@pytest.mark.parametrize(("measures", "scales"), [((2,), (2,)), ((2, 2), (3,)), ((2, 3), (2,))])
def test_compositions_of_another_shape(generator, measures, scales):
    with pytest.raises(ValueError, match=r"expected (conditions \[K, 2\]|2 measures)"):
        generator.sample_composed(jax.random.key(0), jnp.zeros(measures), jnp.ones(scales))


@pytest.mark.parametrize("change", [{"steps": 0}, {"method": "rk4"}])
def test_settings_of_the_sampler_are_checked(generator, change):
    with pytest.raises(ValueError, match="ddim, heun, ancestral"):
        generator.sample(jax.random.key(0), WANTED, **change)


def test_size_counts_every_number(generator):
    by_hand = vector((generator.decoder, generator.denoiser)).size + 8 + 2  # centre and scale of the image
    assert generator.size == by_hand
    header = len(json.dumps(storage.unpack(generator._packed())[2]))
    assert 4 * by_hand + header < generator.nbytes < 4 * by_hand + header + 120 * len(jax.tree.leaves(generator))


def test_save_and_load(generator, tmp_path):
    assert generator.save(tmp_path / "model") == generator.nbytes == (tmp_path / "model").stat().st_size
    loaded = ldpol.load(tmp_path / "model")
    assert jax.tree.structure(loaded) == jax.tree.structure(generator)  # holds all static fields too
    key = jax.random.key(5)
    np.testing.assert_array_equal(vector(draw(loaded, key, WANTED)), vector(draw(generator, key, WANTED)))


def squashed(inside):
    """A network of the parameters of `SHAPE` that only its code describes."""

    def apply(params, observation):
        first, last = params["params"]["Dense_0"], params["params"]["Dense_1"]
        hidden = inside(observation @ first["kernel"] + first["bias"])
        return jnp.sin(hidden @ last["kernel"] + last["bias"])

    return ldpol.network(apply, observation_size=5, params=SHAPE.abstract(), first="params/Dense_0")


def test_a_custom_networks_code_is_asked_for_again(tmp_path):
    """A file holds no code: without it the generator samples, with it it acts, and other code is refused."""
    theirs, key = squashed(jnp.abs), jax.random.key(5)
    whole = make_generator(theirs)
    assert whole.save(tmp_path / "model") == whole.nbytes
    policy = draw(whole, key, WANTED)
    bare = ldpol.load(tmp_path / "model")
    np.testing.assert_array_equal(vector(draw(bare, key, WANTED)), vector(policy))
    with pytest.raises(ValueError, match=r"whose code no file holds; pass it: load\(path, network=...\)"):
        bare.apply(policy, jnp.ones(5))
    bare.save(tmp_path / "again")  # what it says of the network is passed on
    for path in (tmp_path / "model", tmp_path / "again"):
        loaded = ldpol.load(path, theirs)
        assert loaded.shape == theirs
        np.testing.assert_array_equal(loaded.apply(policy, jnp.ones(5)), theirs.apply(policy, jnp.ones(5)))
        with pytest.raises(ValueError, match=r"same parameters, but acts differently, by up to .* at 8 observations"):
            ldpol.load(path, squashed(jnp.tanh))
    with pytest.raises(ValueError, match=r"belong to CustomNetwork.*, network= is MLP\(5 -> 6 -> 2, tanh, clip\)"):
        ldpol.load(tmp_path / "model", SHAPE)


def test_an_mlp_is_in_the_file(generator, tmp_path):
    generator.save(tmp_path / "model")
    assert ldpol.load(tmp_path / "model", SHAPE).shape == SHAPE
    with pytest.raises(ValueError, match=r"belong to MLP\(5 -> 6 -> 2, tanh, clip\), network= is MLP\(5 -> 7 -> 2"):
        ldpol.load(tmp_path / "model", MLP(5, 2, (7,)))


def test_nothing_to_load(tmp_path):
    with pytest.raises(FileNotFoundError, match="generator"):
        ldpol.load(tmp_path / "none")


def test_loading_something_else(tmp_path):
    storage.save(tmp_path / "archive", {"x": np.zeros(3)}, kind="archive")
    with pytest.raises(ValueError, match="holds a saved archive, expected a generator"):
        ldpol.load(tmp_path / "archive")
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        ldpol.load(tmp_path)
    (tmp_path / "text").write_text("something else entirely")
    with pytest.raises(ValueError, match="not a file of this version of ldpol"):
        ldpol.load(tmp_path / "text")


def test_loading_a_generator_that_lacks_a_setting(generator, tmp_path):
    generator.save(tmp_path / "model")
    arrays, about = storage.load(tmp_path / "model", kind="generator")
    del about["schedule"]
    storage.save(tmp_path / "model", arrays, kind="generator", about=about)
    with pytest.raises(ValueError, match="is not sound: KeyError: 'schedule'"):
        ldpol.load(tmp_path / "model")


def test_loading_a_damaged_file(generator, tmp_path):
    generator.save(tmp_path / "model")
    whole = (tmp_path / "model").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[:-4], whole[:120], whole[:200] + b"\0" + whole[201:]):
        (tmp_path / "model").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            ldpol.load(tmp_path / "model")


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_a_coarser_file_samples_nearly_the_same(name, generator, tmp_path):
    written = generator.save(tmp_path / "model", name)
    assert written == (tmp_path / "model").stat().st_size == dataclasses.replace(generator, precision=name).nbytes
    back = ldpol.load(tmp_path / "model")
    assert back.precision == name and back.nbytes == written and back.settings == generator.settings
    expected = precision.expand(precision.compress((generator.decoder, generator.denoiser), name))
    for found, exact in zip(jax.tree.leaves((back.decoder, back.denoiser)), jax.tree.leaves(expected), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, exact)
    key = jax.random.key(3)
    exact, coarse = vector(draw(generator, key, WANTED)), vector(draw(back, key, WANTED))
    allowed = {"float32": 0.0, "float16": 0.01, "bfloat16": 0.1, "int8": 0.1}[name]
    assert np.linalg.norm(coarse - exact) <= allowed * np.linalg.norm(exact)
    back.save(tmp_path / "again")  # what is read is written back as it was
    np.testing.assert_allclose(
        vector(draw(ldpol.load(tmp_path / "again"), key, WANTED)), coarse, atol=1e-3 * np.abs(coarse).max()
    )


def test_unknown_precision(generator, tmp_path):
    with pytest.raises(ValueError, match="unknown precision 'int4'; choose one of float32"):
        generator.save(tmp_path / "model", "int4")
    assert not (tmp_path / "model").exists()


STRANGER = textwrap.dedent(
    """
    import sys

    class Without:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("ldpol", "flax", "orbax", "brax", "qdax"):
                raise ModuleNotFoundError(f"{name} is blocked")

    sys.meta_path.insert(0, Without())
    try:
        import ldpol
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit("ldpol could be imported")

    import jax
    import jax.export
    import numpy as np

    path, out = sys.argv[1:]
    call = jax.export.deserialize(bytearray(open(path, "rb").read())).call
    for count in (1, 5):
        keys = jax.random.key_data(jax.random.split(jax.random.key(7), count))
        measures = np.tile(np.array([[-0.5, 3.0]], np.float32), (count, 1))
        measures[count // 2, 0] = np.nan
        policies = call(keys, measures)
        np.savez(f"{out}/{count}.npz", *jax.tree.leaves(policies))
    """
)


def test_exported_artifact_runs_without_ldpol(generator, tmp_path):
    path = tmp_path / "walker.jaxexport"
    generator.export(path)  # for CPU and CUDA, whatever this machine has
    assert set(jax.export.deserialize(bytearray(path.read_bytes())).platforms) == {"cpu", "cuda"}
    command = [sys.executable, "-I", "-c", STRANGER, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for count in (1, 5):
        keys = jax.random.split(jax.random.key(7), count)
        measures = jnp.tile(WANTED, (count, 1)).at[count // 2, 0].set(jnp.nan)
        expected = jax.jit(jax.vmap(generator.sample))(keys, measures)
        with np.load(tmp_path / f"{count}.npz") as found:
            assert len(found.files) == len(jax.tree.leaves(expected))
            for name, leaf in zip(found.files, jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(found[name], leaf, atol=1e-4)


def test_export_to_an_unknown_platform(generator, tmp_path):
    with pytest.raises(ValueError, match="abacus"):
        generator.export(tmp_path / "x", platforms=("abacus",))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("part", ["decoder", "denoiser", "scaling"])
def test_a_generator_with_nan_or_of_other_shapes_is_refused(generator, tmp_path, part):
    path = tmp_path / "model"
    generator.save(path)
    arrays, about = storage.load(path, kind="generator")
    leaves, structure = jax.tree.flatten(arrays[part])
    for change, said in (
        (lambda leaf: np.full_like(leaf, np.nan), "NaN or infinite numbers in"),
        (lambda leaf: leaf.astype(np.int32), "found int32 in"),
        (lambda leaf: np.zeros((*leaf.shape, 3), np.float32), ""),
    ):
        changed = arrays | {part: jax.tree.unflatten(structure, [change(leaves[0]), *leaves[1:]])}
        storage.save(path, changed, kind="generator", about=about)
        with pytest.raises(ValueError, match=f"the generator at {path} is not sound: .*{said}"):
            ldpol.load(path)


@pytest.mark.parametrize(
    "change",
    [{"guidance": float("nan")}, {"steps": 0}, {"shape": [5, 2, [7]]}, {"measure_names": ["a"]}, {"grid": {}}],
)
def test_a_generator_of_unsound_settings_is_refused(generator, tmp_path, change):
    path = tmp_path / "model"
    generator.save(path)
    arrays, about = storage.load(path, kind="generator")
    storage.save(path, arrays, kind="generator", about=about | change)
    with pytest.raises(ValueError, match=f"the generator at {path} is not sound"):
        ldpol.load(path)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), 1e30, -1e4])
def test_guidance_that_overflows_is_refused(generator, guidance):
    with pytest.raises(ValueError, match="guidance must be a number of at most 1000"):
        generator.sample(jax.random.key(0), WANTED, guidance=guidance)
