"""Training speed: steps/s of autoencoder and denoiser at the default config, and what a convolution costs.

The data are random policies in random states: the speed of a step depends on shapes alone. The last part measures
convolutions as a matrix product, `ldpol.model.denoiser.Convolution` on latents, and
`ldpol.distillation.encoder.neighbourhoods` on the weights of policies, against XLA's general convolution.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from common import Program, build, finish, measure, parser, say, start, table
from jax.sharding import Mesh

from ldpol.distillation import DistillConfig, autoencoder
from ldpol.distillation.config import SMALL_UNET
from ldpol.distillation.dataset import Dataset, normaliser
from ldpol.distillation.denoiser import diffusion_step
from ldpol.distillation.encoder import Posterior, neighbourhoods
from ldpol.distillation.targets import LatentDataset, latent_dataset
from ldpol.model import denoiser
from ldpol.model.condition import make_condition
from ldpol.model.denoiser import Convolution, make_network
from ldpol.model.image import image_shape
from ldpol.networks import MLP
from ldpol.rollout import copied_to, policy_mesh
from ldpol.train_loop import TrainState, scan_steps, start_state, training_mesh
from ldpol.types import Array, Key, Params, PyTree

SHAPE = MLP(17, 6, (64, 64))  # walker2d
MEASURES = 2

Loop = Callable[[TrainState, Key], tuple[TrainState, dict[str, Array]]]


class GeneralConvolution(nn.Module):
    """What `Convolution` replaces: `nn.Conv`, with the same fields."""

    channels: int
    zero: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return `[h, w, channels]`."""
        start = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        return nn.Conv(self.channels, (3, 3), kernel_init=start)(x)


class Neighbourhoods(nn.Module):
    """A convolution of images too large for `Convolution`, as the published encoder makes it."""

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return `[h, w, channels]`."""
        return nn.Dense(self.channels)(neighbourhoods(x))


def random_archive(train: Any, count: int, key: Key) -> Dataset:
    """Return random policies in random states, as many a policy as the default config collects."""
    init_key, measure_key, state_key = jax.random.split(key, 3)
    policies = jax.jit(jax.vmap(SHAPE.init))(jax.random.split(init_key, count))
    rounds = train.collect.repeats + train.autoencoder.dagger_rounds
    states = train.collect.episodes * train.collect.states * rounds
    seen = jax.random.normal(state_key, (count, states, SHAPE.observation_size))
    actions = jax.jit(jax.vmap(SHAPE.apply))(policies, seen)
    measures = jax.random.uniform(measure_key, (count, MEASURES))
    return Dataset(policies, measures, jnp.ones(count), seen, actions, jnp.asarray(states))


def autoencoder_loop(train: Any, data: Dataset, params: PyTree, mesh: Mesh, steps: int) -> tuple[Program, tuple]:
    """Compile a chunk of autoencoder training, as the stage `train` runs it."""
    optimiser = train.autoencoder.optimiser
    everywhere = copied_to(mesh)
    projection = jax.device_put(params["encoder"]["projection"], everywhere)
    state = start_state(optimiser, {"encoder": params["encoder"]["params"], "decoder": params["decoder"]})

    def loop(state: TrainState, key: Key, data: Dataset) -> tuple[TrainState, dict[str, Array]]:
        step = partial(autoencoder.autoencoder_step, SHAPE, train.autoencoder, mesh, data=(data, projection))
        return scan_steps(step, state, key, steps)

    inputs = jax.device_put((state, jax.random.key(0), data), everywhere)
    return build(loop, *inputs, devices=mesh.size), inputs


def denoiser_loop(train: Any, data: Dataset, mesh: Mesh, steps: int, **change: Any) -> tuple[Program, tuple]:
    """Compile a chunk of denoiser training, as the stage `train` runs it; `change` replaces architecture settings."""
    built, section = train.autoencoder.architecture, train.denoiser
    section = replace(section, architecture=replace(section.architecture, **change))
    network, loss, optimiser = make_network(section.architecture, image_shape(built)), section.loss, section.optimiser
    init_key, mean_key = jax.random.split(jax.random.key(0))
    count = data.measures.shape[0]
    mean = jax.random.normal(mean_key, (count, *built.latent))
    posterior, rank = Posterior(mean, jnp.full_like(mean, 0.1)), np.arange(count)
    how = {"noise": loss.noise, "weights": data.weights, "fitness": rank}
    bank, _ = latent_dataset(built, posterior, data.measures, **how)
    params = network.init(init_key, bank.mean[0], jnp.zeros(()), make_condition(data.measures[0]))["params"]

    def loop(state: TrainState, key: Key, bank: LatentDataset) -> tuple[TrainState, dict[str, Array]]:
        step = partial(diffusion_step, network, section, train.sampler.steps, mesh, dataset=bank)
        return scan_steps(step, state, key, steps)

    state = start_state(optimiser, params)
    inputs = jax.device_put((state, jax.random.key(0), bank), copied_to(mesh))
    return build(loop, *inputs, devices=mesh.size), inputs


def convolutions(
    product: nn.Module, side: int, channels: int, batch: int, rounds: int
) -> dict[str, tuple[Program, tuple]]:
    """Compile forward and training loops of the three ways to convolve `[batch, side, side, channels]`."""
    key, x_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (batch, side, side, channels))
    general = GeneralConvolution(channels)
    lax_params = {"kernel": jax.random.normal(key, (3, 3, channels, channels)) / 16, "bias": jnp.zeros(channels)}

    def batched(params: Params, x: Array) -> Array:
        dimensions = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=dimensions)
        return out + params["bias"][None, None, None]

    ways: dict[str, tuple[Callable[[Params, Array], Array], Params]] = {
        "matrix product": (lambda p, x: jax.vmap(partial(product.apply, p))(x), product.init(key, x[0])),
        "nn.Conv": (lambda p, x: jax.vmap(partial(general.apply, p))(x), general.init(key, x[0])),
        "lax.conv": (batched, lax_params),
    }

    def forward(apply: Any, params: Params, x: Array) -> Array:
        # Each round convolves the result of the round before, so that none can be left out.
        return jax.lax.scan(lambda x, _: (jnp.tanh(apply(params, x)), None), x, None, length=rounds)[0]

    def train(apply: Any, params: Params, x: Array) -> PyTree:
        slope = jax.grad(lambda both: jnp.mean(apply(*both) ** 2))

        def body(both: tuple[Params, Array], _: None) -> tuple[tuple[Params, Array], None]:
            return jax.tree.map(lambda value, g: value - 0.1 * g, both, slope(both)), None

        return jax.lax.scan(body, (params, x), None, length=rounds)[0]

    programs = {}
    for name, (apply, params) in ways.items():
        programs[f"{name}, forward"] = build(partial(forward, apply), params, x), (params, x)
        programs[f"{name}, gradient"] = build(partial(train, apply), params, x), (params, x)
    return programs


def times(programs: dict[str, tuple[Program, tuple]], repeats: int) -> dict[str, dict[str, Any]]:
    """Run programs against each other and add their seconds to what their compilation took."""
    seconds = measure({name: partial(program.run, *inputs) for name, (program, inputs) in programs.items()}, repeats)
    return {name: seconds[name]._asdict() | program.about() for name, (program, _) in programs.items()}


def compile_seconds(found: dict[str, Any]) -> float:
    return found["lower_seconds"] + found["compile_seconds"]


def main() -> None:
    args = parser(__doc__).parse_args()
    start()
    train = DistillConfig()
    count, steps, rounds, batch, repeats = (200, 5, 3, 64, 1) if args.quick else (1500, 100, 30, 512, 3)
    meshes = {"1 device": policy_mesh(jax.devices()[:1]), f"{len(jax.devices())} devices": policy_mesh()}
    names = {mesh.size: where for where, mesh in meshes.items()}
    most, usual = (
        names[len(jax.devices())],
        names[training_mesh().size],
    )  # `usual`: what the stage `train` takes
    data = random_archive(train, count, jax.random.key(0))
    say(f"{count} policies, {data.states.shape[1]} states each; principal directions")
    architecture = train.autoencoder.architecture
    params = autoencoder.init(SHAPE, architecture, MEASURES, data.policies, normaliser(data), jax.random.key(1))

    say("compiling the training loops")
    loops: dict[str, tuple[Program, tuple]] = {}
    for where, mesh in meshes.items():
        loops[f"autoencoder, {where}"] = autoencoder_loop(train, data, params, mesh, steps)
        loops[f"denoiser unet, {where}"] = denoiser_loop(train, data, mesh, steps, **SMALL_UNET)
        loops[f"denoiser mlp, {where}"] = denoiser_loop(train, data, mesh, steps)
    with mock.patch.object(denoiser, "Convolution", GeneralConvolution):
        general = denoiser_loop(train, data, meshes[usual], max(steps // 10, 1), **SMALL_UNET)
    say("running them")
    found = times(loops, repeats)
    # Fewer steps of the slow one.
    slow = times({"general": general}, 1)["general"]
    rates = {name: steps / row["best"] for name, row in found.items()}
    with_general = f"denoiser unet with nn.Conv, {usual}"
    rates[with_general] = max(steps // 10, 1) / slow["best"]
    found[with_general] = slow
    table(
        f"Training steps/s (autoencoder: {train.autoencoder.loss.policies} policies x {train.autoencoder.loss.states} "
        f"states a step; denoiser: {train.denoiser.loss.batch} latents)",
        ("loop", "steps/s", "trace + compile, s"),
        [(name, rate, compile_seconds(found[name])) for name, rate in rates.items()],
    )

    few, seldom = max(batch // 16, 2), max(rounds // 10, 1)
    cases = {
        f"{batch} latents of 4 x 4 x 16": (Convolution(16), 4, 16, batch, rounds),
        f"{batch} latents of 2 x 2 x 32": (Convolution(32), 2, 32, batch, rounds),
        f"{few} maps of 32 x 32 x 32": (Neighbourhoods(32), 32, 32, few, seldom),
    }
    conv = {}
    for name, case in cases.items():
        say(f"convolutions of {name}")
        conv[name] = times(convolutions(*case), repeats)
    rows, over = [], {}
    for name, found_here in conv.items():
        for way, row in found_here.items():
            ratio = row["best"] / found_here["matrix product, " + way.split(", ")[1]]["best"]
            rows.append((f"{name}: {way}", 1e3 * row["best"] / cases[name][-1], ratio, compile_seconds(row)))
            over[f"{name}: {way}"] = ratio
    table(
        "A 3x3 convolution on one device",
        ("way", "ms", "times the matrix product", "trace + compile, s"),
        rows,
    )
    ratios = {
        "devices": {
            what: rates[f"{what}, {most}"] / rates[f"{what}, 1 device"]
            for what in ("autoencoder", "denoiser unet", "denoiser mlp")
        },
        "unet_over_mlp": rates[f"denoiser unet, {usual}"] / rates[f"denoiser mlp, {usual}"],
        "matrix_product_over_nn_conv_in_the_unet": rates[f"denoiser unet, {usual}"] / rates[with_general],
        "convolution_over_matrix_product_seconds": over,
    }
    say(
        f"{most} over one: autoencoder {ratios['devices']['autoencoder']:.2f}, UNet "
        f"{ratios['devices']['denoiser unet']:.2f}, MLP {ratios['devices']['denoiser mlp']:.2f}; UNet over MLP "
        f"{ratios['unet_over_mlp']:.2f}; UNet by matrix products over nn.Conv "
        f"{ratios['matrix_product_over_nn_conv_in_the_unet']:.1f}"
    )
    finish(
        "training",
        args.out,
        train,
        {"policies": count, "steps_a_call": steps, "convolution_batch": batch, "repeats": repeats},
        {"steps_per_second": rates, "ratios": ratios, "loops": found, "convolutions": conv},
    )


if __name__ == "__main__":
    main()
