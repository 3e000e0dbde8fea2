"""Networks on the latents of a finished run: how far is each, once trained, from the perfect denoiser?

The perfect denoiser of an archive is known in closed form (`model/diffusion.py: posterior_mean`), so that no rollout's
noise blurs the comparison. All train with the default settings, without language.

    python benchmarks/denoisers.py runs/demo --out results/denoisers-walker2d.json
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from ldpol import archive as archives
from ldpol import session
from ldpol.distillation import DistillConfig, train
from ldpol.distillation.config import SMALL_UNET, DiffusionLoss, LanguageConfig, VerifyConfig
from ldpol.distillation.denoiser import diffusion_step
from ldpol.distillation.targets import LatentDataset, Spread, latent_dataset, posterior_mean
from ldpol.hooks import Hooks
from ldpol.model.condition import make_condition
from ldpol.model.denoiser import make_network
from ldpol.model.diffusion import add_noise, make_schedule, precondition
from ldpol.player import make_player
from ldpol.reference import reevaluate
from ldpol.tasks import make_task
from ldpol.train_loop import OptimiserConfig, scan_steps, start_state, training_mesh
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


def latents(run: Path, quick: bool) -> LatentDataset:
    """Encode the elites of a finished run, by an autoencoder trained anew, without language."""
    archive = archives.load(run / "archive" / "elites")
    task = make_task(archive.task, **{name: value for name, value in archive.settings if name != "name"})
    config = DistillConfig(language=LanguageConfig(captions=0))
    if quick:
        autoencoder = replace(config.autoencoder, optimiser=OptimiserConfig(steps=CHUNK), dagger_rounds=0)
        config = replace(config, autoencoder=autoencoder, verify=VerifyConfig(rounds=0))
    config = replace(config, denoiser=replace(config.denoiser, optimiser=OptimiserConfig(steps=1)))
    keys = jax.random.split(jax.random.key(0), 2)
    player = make_player(task, archive.network.apply, episodes=config.episodes)
    hooks = Hooks(progress=session.progress)
    archive = reevaluate(archive, task, key=keys[0], player=player, hooks=hooks)
    made = train(archive, task, config, key=keys[1], player=player, hooks=hooks)
    return latent_dataset(
        config.autoencoder.architecture,
        made.encoder.encode(archive.policies),
        made.dataset.measures,
        noise=config.autoencoder.loss.noise,
        weights=made.dataset.weights,
        fitness=np.asarray(archive.fitness),
    )[0]


def distance(network: Any, loss: DiffusionLoss, bank: LatentDataset, params: PyTree, key: Key) -> tuple[Array, Array]:
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
        perfect = posterior_mean(
            schedule, bank, Spread(loss.noise, loss.quality_noise), noisy, level, make_condition(asked)
        )
        return jnp.mean((denoise(noisy, level, make_condition(asked)) - perfect) ** 2)

    one = lambda level, key: jax.lax.map(partial(error, level), jax.random.split(key, TRIALS), batch_size=512).mean()  # noqa: E731
    return jnp.sqrt(jax.lax.map(lambda both: one(*both), (levels, jax.random.split(key, 10)))), levels


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path, help="work directory that the train stage has finished")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    session.start_jax()
    config = DistillConfig()
    if options.quick:
        options.seeds = 1
        config = replace(config, denoiser=replace(config.denoiser, optimiser=OptimiserConfig(steps=CHUNK)))
    bank, mesh = latents(options.run, options.quick), training_mesh()
    loss, optimiser = config.denoiser.loss, config.denoiser.optimiser
    rows = []
    for name, changes in NETWORKS.items():
        section = replace(config.denoiser, architecture=replace(config.denoiser.architecture, **changes))
        network = make_network(section.architecture, bank.mean.shape[1:])
        step = partial(diffusion_step, network, section, config.sampler.steps, mesh, dataset=bank)
        loop = jax.jit(partial(scan_steps, step, steps=CHUNK), donate_argnums=0)
        measure = jax.jit(partial(distance, network, loss, bank))
        for seed in range(options.seeds):
            init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
            params = jax.jit(network.init)(init_key, bank.mean[0], jnp.zeros(()), make_condition(bank.measures[0]))[
                "params"
            ]
            state = jax.tree.map(jnp.copy, start_state(optimiser, params))
            state, metrics = loop(state, train_key)  # compiles
            jax.block_until_ready(state)
            start = time.perf_counter()
            with session.bar(f"{name}, seed {seed}", optimiser.steps, CHUNK, "step") as bar:
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
