"""Generation speed: policies/s of `PolicyGenerator.sample`, weights materialised, at walker2d and humanoid shapes.

The generators have the default architectures and random weights: speed does not depend on training. Keys and measures
are split over all devices, the generator is copied to each. All measures are given; what it costs to draw free ones
first is among the parts.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from common import Program, Target, build, finish, measure, parser, say, start, table
from jax.sharding import Mesh

from ldpol.archive import Grid
from ldpol.distillation import DistillConfig
from ldpol.generator import PolicyGenerator
from ldpol.model.condition import make_condition
from ldpol.model.decoder import Decoder
from ldpol.model.denoiser import make_network
from ldpol.model.image import Scaling, image_shape
from ldpol.networks import MLP
from ldpol.rollout import copied_to, policy_mesh, split_over
from ldpol.types import Array, Key, Params

SHAPES = {"walker2d": MLP(17, 6, (64, 64)), "humanoid": MLP(244, 17, (128, 128))}
MEASURES = 2
TARGET = 20_000  # policies/s at walker2d's shape with the default sampler


def random_generator(task: str, shape: MLP, key: Key) -> PolicyGenerator:
    """Return an untrained generator of the default architecture."""
    train = DistillConfig()
    autoencoder, network = train.autoencoder.architecture, train.denoiser.architecture
    decoder_key, denoiser_key, latent_key = jax.random.split(key, 3)
    condition = make_condition(jnp.full(MEASURES, 0.5))
    latent, image = jax.random.normal(latent_key, autoencoder.latent), image_shape(autoencoder)
    decoder = Decoder(shape, autoencoder).init(decoder_key, latent, condition)["params"]
    denoiser = make_network(network, image).init(denoiser_key, jnp.zeros(image), jnp.ones(()), condition)["params"]
    return PolicyGenerator(
        decoder=decoder,
        denoiser=denoiser,
        scaling=Scaling(jnp.zeros(image), jnp.ones(image[-1])),
        reader={},
        shape=shape,
        autoencoder=autoencoder,
        network=network,
        schedule=train.denoiser.loss.schedule,
        parametrisation=train.denoiser.loss.parametrisation,
        grid=Grid((50,) * MEASURES, (0.0,) * MEASURES, (1.0,) * MEASURES),
        measure_names=tuple(f"measure {i}" for i in range(MEASURES)),
        task=task,
        steps=train.sampler.steps,
        method=train.sampler.method,
        guidance=train.sampler.guidance,
    )


def generate(generator: PolicyGenerator, keys: Key, measures: Array, **options: Any) -> Params:
    """Draw one policy a row, for requests that leave nothing free."""
    return jax.vmap(partial(generator.sample, **{"impute": False} | options))(keys, measures)


def latents_only(generator: PolicyGenerator, keys: Key, measures: Array) -> Array:
    """Run the sampler without the decoder."""

    def one(key: Key, wanted: Array) -> Array:
        return generator.sample_latent(key, generator.condition(wanted), impute=False)[0]

    return jax.vmap(one)(keys, measures)


def decode_only(generator: PolicyGenerator, latents: Array, measures: Array) -> Params:
    """Run the decoder without the sampler."""
    one = lambda latent, wanted: generator.decode(latent, wanted)  # noqa: E731
    return jax.vmap(one)(latents, measures)


def write_only(shape: MLP, keys: Key, measures: Array) -> Params:
    """Fill as much memory as the policies take: what writing them alone costs."""
    del keys
    one = lambda wanted: jax.tree.map(lambda leaf: jnp.full(leaf.shape, wanted.sum()), shape.abstract())  # noqa: E731
    return jax.vmap(one)(measures)


def inputs(mesh: Mesh, latent: tuple[int, int, int], count: int) -> tuple[Key, Array, Array]:
    """Return keys, measures `[N, M]` and latents `[N, h, w, c]`, split over the devices."""
    key, measure_key, latent_key = jax.random.split(jax.random.key(1), 3)
    keys = jax.random.split(key, count)
    measures = jax.random.uniform(measure_key, (count, MEASURES))
    return jax.device_put((keys, measures, jax.random.normal(latent_key, (count, *latent))), split_over(mesh))


def study(
    task: str, mesh: Mesh, sizes: tuple[int, ...], samplers: list[tuple[int, str]], repeats: int
) -> dict[str, Any]:
    """Measure one shape over batch sizes at the default sampler, and over samplers at the second largest batch."""
    shape = SHAPES[task]
    spread = split_over(mesh)
    generator = jax.device_put(random_generator(task, shape, jax.random.key(0)), copied_to(mesh))
    default = (generator.steps, generator.method)
    kept = sizes[-2] if len(sizes) > 1 else sizes[-1]
    given = {size: inputs(mesh, generator.autoencoder.latent, size) for size in sizes}

    def program(function: Any, *arguments: Any) -> Program:
        # The output's sharding is stated, so that no device waits for another.
        built = build(jax.jit(function, out_shardings=spread), *arguments, devices=mesh.size)
        text = built.run.as_text()
        if any(f" {name}(" in text for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute")):
            raise RuntimeError(f"{task}: the generating program moves data between devices")
        return built

    say(f"{task}: {shape.size} parameters a policy, generator of {generator.size} numbers; compiling")
    programs: dict[tuple[int, int, str], Program] = {}
    for size in sizes:
        programs[size, *default] = program(generate, generator, *given[size][:2])
    for steps, method in samplers:
        if (kept, steps, method) not in programs:
            function = partial(generate, steps=steps, method=method)
            programs[kept, steps, method] = program(function, generator, *given[kept][:2])
    keys, measures, latents = given[kept]
    completing = partial(generate, impute=True)
    parts = {
        "whole, free measures drawn first": (
            program(completing, generator, keys, measures),
            (generator, keys, measures),
        ),
        "whole": (programs[kept, *default], (generator, keys, measures)),
        "sampler": (program(latents_only, generator, keys, measures), (generator, keys, measures)),
        "decoder": (program(decode_only, generator, latents, measures), (generator, latents, measures)),
        "writing": (program(partial(write_only, shape), keys, measures), (keys, measures)),
    }
    say(f"{task}: running")
    runs = {place: partial(built.run, generator, *given[place[0]][:2]) for place, built in programs.items()}
    seconds = measure(runs, repeats)
    split_seconds = measure({name: partial(built.run, *given_) for name, (built, given_) in parts.items()}, repeats)
    rows = [
        {
            "batch": size,
            "steps": steps,
            "method": method,
            "policies_per_second": size / seconds[size, steps, method].best,
            "policies_per_second_median": size / seconds[size, steps, method].median,
            **built.about(),
        }
        for (size, steps, method), built in programs.items()
    ]
    table(
        f"Policies/s, {task} shape ({shape.size:,} parameters), {mesh.size} devices",
        ("sampler", "batch", "best", "median", "GB/s written", "trace + compile, s"),
        [
            (
                f"{row['method']} {row['steps']}",
                row["batch"],
                row["policies_per_second"],
                row["policies_per_second_median"],
                row["policies_per_second"] * shape.size * 4e-9,
                row["lower_seconds"] + row["compile_seconds"],
            )
            for row in rows
        ],
    )
    table(
        f"Where the time goes, {task} shape, batch {kept}, {default[1]} {default[0]}",
        ("part", "ms", "us a policy"),
        [(name, 1e3 * value.best, 1e6 * value.best / kept) for name, value in split_seconds.items()],
    )
    at_default = [row["policies_per_second"] for row in rows if (row["steps"], row["method"]) == default]
    return {
        "policy_params": shape.size,
        "generator_params": generator.size,
        "sampler": {"steps": default[0], "method": default[1]},
        "best_policies_per_second": max(at_default),
        "runs": rows,
        "parts": {"batch": kept, "seconds": {name: value._asdict() for name, value in split_seconds.items()}},
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    start()
    mesh = policy_mesh()
    every = [(steps, method) for method in ("ddim", "heun") for steps in (1, 2, 5, 20)]
    if args.quick:
        plans = {"walker2d": ((128, 256), [(5, "heun")]), "humanoid": ((64, 128), [])}
    else:
        plans = {
            "walker2d": ((1024, 2048, 4096, 8192), every),
            "humanoid": ((1024, 2048), [(20, "heun")]),  # 8192 such policies are 1.6 GB
        }
    repeats = 2 if args.quick else 5
    results = {task: study(task, mesh, *plan, repeats) for task, plan in plans.items()}
    found = results["walker2d"]["best_policies_per_second"]
    finish(
        "generation",
        args.out,
        DistillConfig(),
        {"quick": args.quick, "repeats": repeats, "devices": mesh.size},
        results,
        [Target("policies/s, walker2d shape, default sampler", found, TARGET)],
    )


if __name__ == "__main__":
    main()
