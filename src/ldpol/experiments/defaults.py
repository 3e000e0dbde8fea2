"""Every setting of a run and its default: the `cpu` variant of walker2d; and what the other variants change."""

import difflib

from ml_collections import ConfigDict

from ldpol.experiments.settings import Config
from ldpol.model.autoencoder import AutoencoderConfig
from ldpol.model.optimiser import OptimiserConfig
from ldpol.model.training import AutoencoderLoss, DiffusionLoss
from ldpol.model.unet import DenoiserConfig
from ldpol.rollout import RolloutConfig
from ldpol.search.map_elites import MapElitesConfig

VARIANTS = ("cpu", "smoke", "gpu", "paper")


def base(task: str) -> Config:
    """Return the default config: a laptop's two cores, under twenty minutes for all stages."""
    config: Config = ConfigDict()
    config.seed = 0
    config.task = ConfigDict({"name": task, "backend": "spring", "episode_length": 500, "reset_noise": 5e-3})
    config.policy = ConfigDict({"hidden": (64, 64)})
    config.rollout = ConfigDict({"device": RolloutConfig()._asdict(), "chunk": 256})
    config.archive = ConfigDict(
        {
            "cells": 50,  # a measure
            "iterations": 100,
            "search_noise": 0.0,  # reset noise while searching; verification plays with the task's own
            "checkpoint_every": 10,  # iterations
            "map_elites": MapElitesConfig()._asdict(),
        }
    )
    config.train = ConfigDict(
        {
            "held_out": {"fraction": 0.1, "low": (0.5, 0.5), "high": (0.6, 0.6)},
            # How often training draws which elite: see model/dataset.py.
            "weights": {"quality": 0.7, "balance": 1.2, "radius": 0.03},
            # Each repeat plays `episodes` episodes a policy and keeps `states` observations of each.
            "collect": {"repeats": 3, "episodes": 2, "states": 16, "noise": 0.1},
            "autoencoder": {
                "architecture": AutoencoderConfig()._asdict(),
                "loss": AutoencoderLoss()._asdict(),
                "optimiser": OptimiserConfig(steps=36000)._asdict(),
                "dagger_rounds": 3,
            },
            "denoiser": {
                "architecture": DenoiserConfig()._asdict(),
                "loss": DiffusionLoss()._asdict(),
                "optimiser": OptimiserConfig(steps=8000, rate=2e-3, ema=0.999)._asdict(),
            },
            "sampler": {"steps": 4, "method": "ddim", "guidance": 1.0},
            "steps_per_call": 200,
            "checkpoint_seconds": 20.0,
        }
    )
    config.eval = ConfigDict({"episodes": 10, "unseen": 600, "uniform": 1024})
    return config


def vary(config: Config, variant: str) -> Config:
    """Turn the default config into a variant.

    Raises:
      KeyError: for an unknown variant.
    """
    if variant not in VARIANTS:
        close = difflib.get_close_matches(variant, VARIANTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"unknown variant {variant!r}{hint} The variants are {', '.join(VARIANTS)}")
    if variant == "smoke":
        _smoke(config)
    if variant in ("gpu", "paper"):
        _accelerator(config)
    if variant == "paper":
        _paper(config)
    return config


def _smoke(config: Config) -> None:
    """Everything once, in about a minute; the numbers mean nothing."""
    config.task.episode_length = 50
    config.policy.hidden = (16, 16)
    config.rollout.chunk = 64
    config.rollout.device.lanes = 32
    config.archive.update(cells=10, iterations=4, checkpoint_every=1)
    config.archive.map_elites.batch = 64
    config.train.collect.update(repeats=1, episodes=2, states=8)
    config.train.autoencoder.optimiser.steps = 60
    config.train.autoencoder.dagger_rounds = 1
    config.train.autoencoder.architecture.update(rank=4, context=32, hidden=16, coordinates=8, encoder_hidden=32)
    config.train.autoencoder.loss.update(policies=16, states=8)
    config.train.denoiser.optimiser.steps = 60
    config.train.denoiser.architecture.update(channels=(8, 16), embedding=16, joint=8)
    config.train.denoiser.loss.batch = 64
    config.train.update(steps_per_call=20, checkpoint_seconds=0.0)
    config.eval.update(episodes=2, unseen=16, uniform=64)


def _accelerator(config: Config) -> None:
    """One accelerator: the paper's episodes, grid and policies, thousands of episodes side by side."""
    config.task.episode_length = 1000
    config.policy.hidden = (128, 128)
    config.rollout.chunk = 4096
    config.rollout.device.update(lanes=8192, block=25)
    config.archive.update(cells=100, iterations=600)
    config.archive.map_elites.batch = 16384
    config.train.autoencoder.architecture.update(rank=48, context=256, layers=2, hidden=64, encoder_hidden=512)
    config.train.autoencoder.optimiser.steps = 40000
    config.train.autoencoder.loss.update(policies=256, states=64)
    config.train.denoiser.architecture.update(channels=(32, 64), embedding=128, joint=128)
    config.train.denoiser.optimiser.steps = 40000
    config.train.denoiser.loss.batch = 2048
    config.train.steps_per_call = 500
    config.eval.update(episodes=50, unseen=10000, uniform=10000)


def _paper(config: Config) -> None:
    """The published method: parameter MSE, matrix-emitting hypernetwork of width 16, eps-prediction, 100 DDIM steps."""
    config.train.held_out.update(fraction=0.0, low=(), high=())
    config.train.weights.update(quality=0.0, balance=0.0)
    config.train.collect.update(repeats=1, episodes=2, states=8, noise=0.0)
    config.train.autoencoder.architecture.update(
        latent=(4, 4, 4), head="matrix", context=16, layers=0, hidden=16, octaves=0, encoder="convolution"
    )
    config.train.autoencoder.loss.update(
        kind="parameters", kl=1e-6, policies=32, states=1, drop_all=0.0, drop_each=0.0, noise=0.0
    )
    # 1000 epochs of about 7,000 elites in batches of 32, constant rate in the original.
    config.train.autoencoder.optimiser.update(steps=220000, rate=1e-4)
    config.train.autoencoder.dagger_rounds = 0
    config.train.denoiser.architecture.update(channels=(64, 128, 256), embedding=256)
    config.train.denoiser.loss.update(schedule="cosine", parametrisation="eps", batch=32, noise=0.0, target="sample")
    config.train.denoiser.optimiser.update(steps=110000, rate=1e-3, decay=0.01)
    config.train.sampler.steps = 100
