"""A toy world to explore: a run on disk whose model, archive and evaluation take no physics."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
from language.test_reader import LANGUAGE
from test_generator import AUTOENCODER, NETWORK
from toy import make_toy

from ldpol import archive as archives
from ldpol.archive import Archive, Grid
from ldpol.generator import PolicyGenerator
from ldpol.language.understanding import make_tower
from ldpol.model.condition import null_condition
from ldpol.model.decoder import Decoder
from ldpol.model.denoiser import make_network
from ldpol.model.image import Scaling, image_shape
from ldpol.networks import MLP
from ldpol.tasks import Skeleton

SHAPE = MLP(3, 2, (6,))
NAMES = ("left", "right", "over", "under")
ELITES = 20


def drawn(measures=2, **settings):
    """The toy as a ball and a rod beside it, with up to four measures."""

    def ends(state):
        x, y = state.physics["x"], state.physics["y"]
        point = jnp.stack([x, jnp.zeros_like(x), y])
        return jnp.stack([jnp.stack([point, point]), jnp.stack([point, point + jnp.array([0.0, 0.0, 1.0])])])

    def measure(state):
        x, y = state.physics["x"], state.physics["y"]
        return jnp.array([x > 0.1, y > 0.1, x > 0.5, y > 0.5][:measures], jnp.float32)

    return dataclasses.replace(
        make_toy(**({"noise": 0.1} | settings)),
        measure=measure,
        measure_names=NAMES[:measures],
        measure_low=(0.0,) * measures,
        measure_high=(1.0,) * measures,
        sides=(("right", (1,)), ("left", (0,))) if measures > 1 else (),
        dt=0.05,
        skeleton=Skeleton((0.1, 0.05), ends, (0, 1)),
    )


def random_weights(make, seed):
    """What `make` makes with a key, shaken so that no initial zero hides anything."""
    leaves, structure = jax.tree.flatten(jax.jit(make)(jax.random.key(seed)))
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        structure, [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


def make_model(measures=2):
    """A generator of random policies that understands sentences where there are two measures."""
    speaks = measures == 2
    words = len(LANGUAGE.claims) if speaks else 0
    autoencoder = AUTOENCODER
    latent, none = jnp.zeros(autoencoder.latent), null_condition(measures)
    decoder = random_weights(lambda key: Decoder(SHAPE, autoencoder).init(key, latent, none)["params"], 0)
    shape = image_shape(autoencoder)
    network = make_network(NETWORK, shape)
    inputs = (jnp.zeros(shape), jnp.zeros(()), null_condition(measures, words=words))
    denoiser = random_weights(lambda key: network.init(key, *inputs)["params"], 10)
    reader = {}
    if speaks:
        tower = make_tower(LANGUAGE.tower, words)
        reader = random_weights(lambda key: tower.init(key, jnp.zeros((4, 256)), jnp.ones(4, bool)), 20)
        # Raised, so that most sentences make most claims.
        reader = jax.tree.map(lambda leaf: leaf + 4.5 if leaf.shape == (words,) else leaf, reader)
    return PolicyGenerator(
        decoder=decoder,
        denoiser=denoiser,
        scaling=Scaling(jnp.full(shape, 0.1), jnp.array([1.5, 0.2])),
        reader=reader,
        shape=SHAPE,
        autoencoder=autoencoder,
        network=NETWORK,
        schedule="flow",
        parametrisation="flow",
        grid=Grid((4,) * measures, (0.0,) * measures, (1.0,) * measures),
        measure_names=NAMES[:measures],
        task="toy",
        steps=3,
        language=LANGUAGE if speaks else None,
    )


def make_run(folder, measures=2):
    """Write a run's model, archive and evaluation into a folder."""
    model = make_model(measures)
    model.save(folder / "model")
    policies = jax.jit(jax.vmap(SHAPE.init))(jax.random.split(jax.random.key(1), ELITES))
    policies = jax.tree.map(lambda leaf: 2.0 * leaf, policies)
    rng = np.random.default_rng(0)
    done = rng.uniform(size=(3, ELITES, measures)).astype(np.float32)
    fitness = rng.normal(size=(3, ELITES)).astype(np.float32)
    archive = Archive(
        policies, jnp.asarray(fitness[0]), jnp.asarray(done[0]), grid=model.grid, task="toy", network=SHAPE
    )
    archives.save(archive, folder / "archive" / "elites")
    arrays = {
        "grid_shape": np.asarray(model.grid.shape),
        "low": np.zeros(measures),
        "high": np.ones(measures),
        "measure_names": np.asarray(NAMES[:measures]),
        "held_out": np.arange(ELITES) < 3,
    }
    for i, name in enumerate(("stored", "reference", "generated")):
        arrays |= {f"{name}_measures": done[i], f"{name}_fitness": fitness[i]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / "arrays.npz").write_bytes(buffer.getvalue())
    return folder
