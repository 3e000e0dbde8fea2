"""Every setting of a run and its default: the `cpu` variant of walker2d; and what the other variants change."""

import difflib

from ml_collections import ConfigDict

from ldpol.experiments.settings import Config
from ldpol.language.understanding import TowerConfig
from ldpol.model.autoencoder import AutoencoderConfig
from ldpol.model.denoiser import DenoiserConfig
from ldpol.model.optimiser import OptimiserConfig
from ldpol.model.training import AutoencoderLoss, DiffusionLoss
from ldpol.rollout import RolloutConfig
from ldpol.search.map_elites import MapElitesConfig
from ldpol.search.ppga import PPGAConfig
from ldpol.search.ppo_config import PPOConfig
from ldpol.search.xnes import XNESConfig

SCALES = ("cpu", "smoke", "gpu", "paper")
SEARCHES = {"map_elites": "MAP-Elites", "ppga": "PPGA", "hybrid": "PPGA, then MAP-Elites"}
ITERATIONS = {
    "map_elites": {"cpu": 100, "smoke": 4, "gpu": 600, "paper": 600},
    "ppga": {"cpu": 300, "smoke": 4, "gpu": 600, "paper": 2000},
    "hybrid": {"cpu": 120, "smoke": 4, "gpu": 600, "paper": 600},
}
SMALL_UNET = {"network": "unet", "channels": (16, 32), "embedding": 80, "octaves": 5, "joint": 64}
"""A small UNet to compare our MLP with: settings of `train.denoiser.architecture`."""
VARIANTS = (*SCALES, *(f"{search}_{scale}" for search in SEARCHES for scale in SCALES))


def base(task: str) -> Config:
    """Return the default config: a laptop's two cores, under twenty minutes for all stages."""
    config: Config = ConfigDict()
    config.seed = 0
    config.task = ConfigDict({"name": task, "backend": "spring", "episode_length": 500, "reset_noise": 5e-3})
    config.policy = ConfigDict({"hidden": (64, 64)})
    config.rollout = ConfigDict({"device": RolloutConfig()._asdict(), "chunk": 256})
    config.archive = ConfigDict(
        {
            "search": "hybrid",  # PPGA for a while, then MAP-Elites that verifies; or map_elites, or ppga
            "cells": 50,  # a measure
            "iterations": ITERATIONS["hybrid"]["cpu"],
            "search_noise": 0.0,  # reset noise while MAP-Elites searches; verification and PPGA play with the task's
            "checkpoint_every": 10,  # iterations
            "map_elites": MapElitesConfig()._asdict(),
            # Candidates of MAP-Elites play again before they enter, or lucky ones would crowd out PPGA's steady elites.
            "hybrid": {"ppga_iterations": 70, "verify": 128, "verify_episodes": 3},
            # Tuned for minutes, not hours: small rollouts and few epochs, wide exploration, and a walk on the reward
            # alone until there is something to branch from.
            "ppga": {
                "emitter": PPGAConfig(
                    gradient_updates=5, walk_updates=15, episodes=2, archive_rate=0.05, reward_iterations=150
                )._asdict(),
                "ppo": PPOConfig(
                    environments=120,
                    steps=32,
                    epochs=4,
                    gamma=0.995,
                    entropy_weight=0.01,
                    initial_log_std=0.0,
                    max_log_std=1.0,
                    critic=(64, 64),
                )._asdict(),
                "xnes": XNESConfig(population=64)._asdict(),
            },
        }
    )
    config.train = ConfigDict(
        {
            "held_out": {"fraction": 0.1, "low": (0.5, 0.5), "high": (0.6, 0.6)},
            # How often training draws which elite: see model/dataset.py.
            "weights": {"quality": 0.7, "balance": 1.2, "radius": 0.03},
            # Each repeat plays `episodes` episodes a policy and keeps `states` observations of each.
            "collect": {"repeats": 3, "episodes": 2, "states": 64, "noise": 0.1},
            "autoencoder": {
                "architecture": AutoencoderConfig()._asdict(),
                "loss": AutoencoderLoss()._asdict(),
                "optimiser": OptimiserConfig(steps=36000)._asdict(),
                "dagger_rounds": 3,
            },
            # Draws of every elite that are decoded and played. Elites whose draws miss what they do, by so many
            # median misses, are drawn less often when the denoiser is trained: see experiments/verifying.py.
            "verify": {"rounds": 2, "tolerance": 1.0},
            "denoiser": {
                "architecture": DenoiserConfig()._asdict(),
                "loss": DiffusionLoss()._asdict(),
                "optimiser": OptimiserConfig(steps=12000, rate=2e-3, ema=0.999)._asdict(),
            },
            # Captions an elite; 0: a model without language. The encoder is wordllama, or a folder for transformers.
            "language": {
                "captions": 12,
                "encoder": "wordllama",
                "tower": TowerConfig()._asdict(),
                "optimiser": OptimiserConfig(steps=4000)._asdict(),
            },
            "sampler": {"steps": 8, "method": "ancestral", "guidance": 1.0, "text_guidance": 2.0},
            "precision": "int8",  # of the numbers in the model's file: float32, float16, bfloat16 or int8
            "steps_per_call": 200,
            "checkpoint_seconds": 20.0,
        }
    )
    config.eval = ConfigDict(
        {
            # Also guidance, composition, language, sequencing, cutout and steadiness, which take minutes more.
            "suites": ("reconstruction",),
            "episodes": 10,  # a policy, in all suites but sequencing
            "unseen": 512,
            "uniform": 512,
            # Conditions times scales, likewise six times the conditions of a composition, fill whole chunks.
            "guidance": {
                "scales": (0.0, 1.0, 2.0, 3.0, 4.0),
                "conditions": 153,
                "diverse": 64,  # conditions whose `samples` policies are compared at `observations` states
                "samples": 8,
                "observations": 256,
            },
            "composition": {"conditions": 170},
            "sequencing": {
                "sequences": 100,
                "segments": 4,
                "episodes": 50,
                "settle": 25,  # steps after a switch in which measures do not count yet
                "candidates": (4, 20),  # to look ahead with, in turn; the last is compared with the blind sample
                "spread": 0.4,  # how far from the wanted measures, scaled to [0, 1], candidates but the first may ask
                "quality": 0.5,  # the least rank of fitness that they ask for
                "look_ahead_episodes": 4,  # the first of the episodes: a look-ahead costs `candidates` times as much
                "horizon": 250,  # steps to look ahead, beyond the segment too; None: the segment
                "tolerance": 0.0,  # distances in the same multiple of it count as equal, so that reward decides
                "chunk": 20,  # sequences between two lines of progress
            },
            "language": {"elites": 256, "ranks": 5, "draws": 51, "examples": 6},
            "cutout": {"draws": 10},  # policies a cell of the box
            "steadiness": {"plays": 4},  # of `episodes` each, of elites and of the policies generated for them
        }
    )
    return config


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
        _paper(config)
    if search:
        config.archive.search = search
    if variant == "ppga_paper" and config.task.name != "ant":
        config.archive.cells = 50  # PPGA's own grid; the archives that the paper distils have 100
    config.archive.iterations = ITERATIONS[config.archive.search][scale]
    return config


def _smoke(config: Config) -> None:
    """Everything once, in about a minute; the numbers mean nothing."""
    names = ("reconstruction", "guidance", "composition", "language", "sequencing", "cutout", "steadiness")
    config.eval.suites = names
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
    config.eval.cutout.draws = 1
    config.eval.steadiness.plays = 2


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
    config.eval.cutout.draws = 50


def _paper(config: Config) -> None:
    """The published method: parameter MSE, matrix-emitting hypernetwork of width 16, eps-prediction, 100 DDIM steps."""
    _published_ppga(config)
    config.train.held_out.update(fraction=0.0, low=(), high=())
    config.train.weights.update(quality=0.0, balance=0.0)
    config.train.collect.update(repeats=1, episodes=2, states=8, noise=0.0)
    config.train.autoencoder.architecture.update(
        latent=(4, 4, 4),
        head="matrix",
        context=16,
        layers=0,
        hidden=16,
        octaves=0,
        encoder="convolution",
        normalise=False,
    )
    config.train.autoencoder.loss.update(kind="parameters", kl=1e-6, policies=32, states=1, noise=0.0)
    # 1000 epochs of about 7,000 elites in batches of 32, constant rate in the original.
    config.train.autoencoder.optimiser.update(steps=220000, rate=1e-4)
    config.train.autoencoder.dagger_rounds = 0
    config.train.verify.rounds = 0
    config.train.denoiser.architecture.update(
        network="unet", channels=(64, 128, 256), embedding=256, octaves=5, joint=64
    )
    config.train.denoiser.loss.update(schedule="cosine", parametrisation="eps", batch=32, noise=0.0, target="sample")
    config.train.denoiser.loss.update(visited=0.0, weighting="target")
    config.train.denoiser.optimiser.update(steps=110000, rate=1e-3, decay=0.01)
    config.train.sampler.update(steps=100, method="ddim")
    config.train.precision = "float32"
    config.train.language.captions = 0


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
