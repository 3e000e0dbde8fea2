"""What the variants of a config change: `smoke`, `gpu` and `paper`, each also with another search before it."""

import difflib

from ldpol.distillation import published
from ldpol.experiments.configs import SHARED, SUITES, Config, as_section, distill_of
from ldpol.search.archive_search import SEARCHES, SearchConfig

SCALES = ("cpu", "smoke", "gpu", "paper")
ITERATIONS = {
    "map_elites": {"cpu": 100, "smoke": 4, "gpu": 600, "paper": 600},
    "ppga": {"cpu": 300, "smoke": 4, "gpu": 600, "paper": 2000},
    "hybrid": {"cpu": SearchConfig.iterations, "smoke": 4, "gpu": 600, "paper": 600},
}
VARIANTS = (*SCALES, *(f"{search}_{scale}" for search in SEARCHES for scale in SCALES))


def vary(config: Config, variant: str) -> Config:
    """Turn the default config into a variant.

    Raises:
      KeyError: for an unknown variant.
    """
    if variant not in VARIANTS:
        close = difflib.get_close_matches(variant, VARIANTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise KeyError(
            f"unknown variant {variant!r}{hint} The variants are {', '.join(SCALES)}, and each of them with another "
            f"search before it: {', '.join(f'{search}_cpu' for search in SEARCHES)}, ..."
        )
    search, _, scale = variant.rpartition("_")
    if scale == "smoke":
        _smoke(config)
    if scale in ("gpu", "paper"):
        _accelerator(config)
    if scale == "paper":
        _published_ppga(config)
        config.train.held_out.update(fraction=0.0, low=(), high=())
        config.train.update(as_section(published(distill_of(config)), *SHARED))
    if search:
        config.archive.search = search
    if variant == "ppga_paper" and config.task.name != "ant":
        config.archive.cells = 50  # PPGA's own grid; the archives that the paper distils have 100
    config.archive.iterations = ITERATIONS[config.archive.search][scale]
    return config


def _smoke(config: Config) -> None:
    """Everything once, in about a minute; the numbers mean nothing."""
    config.eval.suites = tuple(SUITES)
    config.task.episode_length = 50
    config.policy.hidden = (16, 16)
    config.rollout.chunk = 64
    config.rollout.device.lanes = 32
    config.archive.update(search="map_elites", cells=10, checkpoint_every=1)  # the quickest to compile
    config.archive.map_elites.batch = 64
    config.archive.hybrid.update(ppga_iterations=2, verify=16, verify_episodes=2)
    config.archive.ppga.emitter.update(gradient_updates=1, walk_updates=1)
    config.archive.ppga.ppo.update(environments=60, steps=8, critic=(16,))
    config.archive.ppga.xnes.population = 16
    config.train.collect.update(repeats=1, episodes=2, states=8)
    config.train.autoencoder.optimiser.steps = 60
    config.train.autoencoder.dagger_rounds = 1
    config.train.verify.rounds = 1
    config.train.autoencoder.architecture.update(rank=4, context=32, hidden=16, coordinates=8, encoder_hidden=32)
    config.train.autoencoder.loss.update(policies=16, states=8)
    config.train.denoiser.optimiser.steps = 60
    config.train.denoiser.architecture.update(hidden=16, layers=1, embedding=16, joint=8)
    config.train.denoiser.loss.batch = 64
    config.train.language.captions = 2
    config.train.language.optimiser.steps = 20
    config.train.update(steps_per_call=20, checkpoint_seconds=0.0)
    config.eval.update(episodes=2, unseen=16, uniform=64)
    config.eval.guidance.update(scales=(1.0, 2.0), conditions=16, diverse=2, samples=2, observations=8)
    config.eval.composition.conditions = 8
    config.eval.language.update(elites=8, ranks=2, draws=4, examples=2)
    config.eval.sequencing.update(
        sequences=4, segments=2, episodes=2, settle=5, candidates=(1, 2), horizon=30, look_ahead_episodes=1, chunk=8
    )
    config.eval.held_out_region.draws = 1
    config.eval.steadiness.plays = 2
    config.eval.damage.update(trials=4, repeats=2, episodes=2, strengths=(0.5,), gravity=(), friction=(), chunk=32)


def _accelerator(config: Config) -> None:
    """One accelerator: the paper's episodes, grid and policies, thousands of episodes side by side."""
    config.task.episode_length = 1000
    config.policy.hidden = (128, 128)
    config.rollout.chunk = 4096
    config.rollout.device.update(lanes=8192, block=25)
    config.archive.update(cells={"ant": 10, "hopper": 1000}.get(config.task.name, 100))
    config.archive.map_elites.batch = 16384
    config.archive.hybrid.verify = 2048
    config.archive.ppga.emitter.update(gradient_updates=10, walk_updates=10)
    config.archive.ppga.ppo.update(environments=3840, steps=32, minibatches=8, critic=(256, 256))
    config.archive.ppga.xnes.population = 1024
    config.train.autoencoder.architecture.update(rank=48, context=256, layers=2, hidden=64, encoder_hidden=512)
    config.train.autoencoder.optimiser.steps = 40000
    config.train.autoencoder.loss.update(policies=256, states=64)
    config.train.collect.states = 16  # humanoids see 244 numbers, and there are ten thousand of them
    config.train.denoiser.architecture.update(hidden=256, embedding=256, joint=512)
    config.train.denoiser.optimiser.steps = 40000
    config.train.denoiser.loss.batch = 2048
    config.train.steps_per_call = 500
    config.eval.update(episodes=50, unseen=10000, uniform=10000)
    config.eval.guidance.update(scales=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0), conditions=2048, diverse=256, samples=16)
    config.eval.composition.conditions = 2048
    config.eval.language.update(elites=2048, draws=400)
    config.eval.sequencing.update(
        sequences=1000, candidates=(4, 16, 64), horizon=500, look_ahead_episodes=50, chunk=200
    )
    config.eval.held_out_region.draws = 50


def _published_ppga(config: Config) -> None:
    """PPGA as published (Batra et al. 2024), with the settings that differ for humanoid and ant."""
    task = config.task.name
    config.archive.search = "ppga"
    config.archive.ppga.emitter.update(
        gradient_updates=10,
        walk_updates=10,
        archive_rate=0.1 if task in ("humanoid", "ant") else 0.5,
        episodes=10,
        threshold_min=-500.0 if task == "ant" else 200.0,
        reward_iterations=0,
    )
    config.archive.ppga.ppo.update(
        environments=3000,
        steps=128,
        epochs=4,
        minibatches=8,
        gamma=0.99,
        entropy_weight=0.0,
        max_log_std=None,
        target_kl=0.008,
        learning_rate=3e-4 if task == "humanoid" else 1e-3,
        critic=(256, 256),
    )
    config.archive.ppga.xnes.update(population=300, sigma={"humanoid": 0.5, "ant": 3.0}.get(task, 1.0))
