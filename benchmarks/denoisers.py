"""Networks on the latents of a finished run: how far is each, once trained, from the perfect denoiser?

The perfect denoiser of an archive is known in closed form (`model/diffusion.py: posterior_mean`), so that no rollout's
noise blurs the comparison. All train with the run's own settings, without language.

    python benchmarks/denoisers.py runs/demo --out results/denoisers-walker2d.json
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ldpol import archive as archives
from ldpol import storage
from ldpol.experiments import passes, session, settings
from ldpol.experiments.defaults import SMALL_UNET
from ldpol.experiments.study.methods import encode
from ldpol.experiments.train import held_out
from ldpol.model.bank import LatentBank, Spread, build_bank, posterior_mean
from ldpol.model.condition import ask
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.model.diffusion import add_noise, make_schedule, precondition
from ldpol.model.training import DiffusionLoss, diffusion_step
from ldpol.train_loop import OptimiserConfig, scan_steps, start_state
from ldpol.types import Array, Key, PyTree

CHUNK = 200
TRIALS = 8192
NETWORKS: dict[str, dict[str, Any]] = {
    "UNet, 5 octaves": SMALL_UNET,
    "UNet, 7 octaves": SMALL_UNET | {"octaves": 7},
    "UNet, as wide a condition as the MLP": SMALL_UNET | {"octaves": 7, "joint": 256, "embedding": 128},
    "MLP of 64": {"network": "mlp", "hidden": 64, "embedding": 64, "octaves": 7, "joint": 128},
    "MLP of 128 (default)": {},
    "MLP of 256": {"hidden": 256, "embedding": 256},
}


def latents(run: Path, config: Any) -> LatentBank:
    """Encode the trained elites of a finished run."""
    archive = archives.load(run / "archive" / "elites")
    held = config.train.held_out
    kind = held_out(archive, config.seed, held.fraction, tuple(held.low), tuple(held.high))
    trained = archives.take(archive, kind == 0)
    fitness = np.asarray(passes.reference(config, run, archive).score.fitness)[kind == 0]
    built = settings.build(AutoencoderConfig, config.train.autoencoder.architecture)
    mean, deviation = encode(config, run, trained)
    data, _ = storage.load(run / "train" / "data", kind="dataset")
    labels, weights = jnp.asarray(data["measures"]), jnp.asarray(data["weights"])
    noise = config.train.autoencoder.loss.noise
    return build_bank(built, mean, deviation, labels, noise, weights, fitness)[0]


def distance(network: Any, loss: DiffusionLoss, bank: LatentBank, params: PyTree, key: Key) -> tuple[Array, Array]:
    """Return the root mean square of (denoiser - perfect denoiser) at 10 noise levels `[10]`, and the levels."""
    schedule = make_schedule(loss.schedule)
    denoise = precondition(partial(network.apply, {"params": params}), schedule, loss.parametrisation)
    levels = (jnp.arange(10) + 0.5) / 10 * schedule.end

    def error(level: Array, key: Key) -> Array:
        row_key, clean_key, label_key, noise_key = jax.random.split(key, 4)
        row = jax.random.choice(row_key, bank.mean.shape[0], p=bank.weights / bank.weights.sum())
        clean = bank.mean[row] + bank.deviation * jax.random.normal(clean_key, bank.deviation.shape)
        asked = bank.measures[row] + loss.noise * jax.random.normal(label_key, bank.measures[row].shape)
        noisy = add_noise(schedule, clean, level, jax.random.normal(noise_key, clean.shape))
        perfect = posterior_mean(schedule, bank, Spread(loss.noise, loss.quality_noise), noisy, level, ask(asked))
        return jnp.mean((denoise(noisy, level, ask(asked)) - perfect) ** 2)

    one = lambda level, key: jax.lax.map(partial(error, level), jax.random.split(key, TRIALS), batch_size=512).mean()  # noqa: E731
    return jnp.sqrt(jax.lax.map(lambda both: one(*both), (levels, jax.random.split(key, 10)))), levels


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path, help="work directory that the train stage has finished")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    session.start_jax()
    config = ConfigDict(storage.read_json(options.run / "train" / "metrics.json")["config"])
    if options.quick:
        config.train.denoiser.optimiser.steps, options.seeds = CHUNK, 1
    bank, section, mesh = latents(options.run, config), config.train.denoiser, session.training_mesh()
    loss, optimiser = settings.build(DiffusionLoss, section.loss), settings.build(OptimiserConfig, section.optimiser)
    rows = []
    for name, changes in NETWORKS.items():
        architecture = settings.build(DenoiserConfig, section.architecture)._replace(**changes)
        network = make_network(architecture, bank.mean.shape[1:])
        step = partial(diffusion_step, network, loss, config.train.sampler.steps, optimiser, mesh, bank)
        loop = jax.jit(partial(scan_steps, step, steps=CHUNK), donate_argnums=0)
        measure = jax.jit(partial(distance, network, loss, bank))
        for seed in range(options.seeds):
            init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
            params = jax.jit(network.init)(init_key, bank.mean[0], jnp.zeros(()), ask(bank.measures[0]))["params"]
            state = jax.tree.map(jnp.copy, start_state(optimiser, params))
            state, metrics = loop(state, train_key)  # compiles
            jax.block_until_ready(state)
            start = time.perf_counter()
            with session.progress(f"{name}, seed {seed}", optimiser.steps, CHUNK, "step") as bar:
                for _ in range(CHUNK, optimiser.steps, CHUNK):
                    state, metrics = loop(state, train_key)
                    bar.set_postfix_str(f"loss {metrics['loss']:.4f}", False)
                    bar.update(CHUNK)
            seconds = time.perf_counter() - start
            error, levels = measure(state.ema, test_key)
            row = {"network": name, "seed": seed, "parameters": sum(x.size for x in jax.tree.leaves(params))}
            row |= {"loss": float(metrics["loss"]), "rms": float(jnp.sqrt(jnp.mean(error**2)))}
            row["step_ms"] = 1e3 * seconds / max(optimiser.steps - CHUNK, 1)
            rows.append(row | {"rms_by_level": dict(zip(map("{:.2f}".format, levels), map(float, error), strict=True))})
    common.table(
        "Root mean square distance to the perfect denoiser, latents of unit variance",
        ("network", "parameters", "ms a step", "mean over seeds", "all seeds"),
        [
            (
                name,
                next(row["parameters"] for row in rows if row["network"] == name),
                f"{np.mean([row['step_ms'] for row in rows if row['network'] == name]):.1f}",
                float(np.mean([row["rms"] for row in rows if row["network"] == name])),
                ", ".join(f"{row['rms']:.3f}" for row in rows if row["network"] == name),
            )
            for name in NETWORKS
        ],
    )
    common.finish("denoisers", options.out, config, {"seeds": options.seeds, "trials_a_level": TRIALS}, rows)


if __name__ == "__main__":
    main()
