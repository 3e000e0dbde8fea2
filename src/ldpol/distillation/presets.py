"""Distillations for other purposes than minutes on two cores: of large archives, on an accelerator, as published."""

from ldpol.distillation.config import DistillConfig
from ldpol.settings import revise


def quick(config: DistillConfig = DistillConfig()) -> DistillConfig:
    """Return a distillation of seconds, to see that everything runs; its generator is worth nothing."""
    return revise(
        config,
        collect={"repeats": 1, "episodes": 2, "states": 8},
        autoencoder={
            "architecture": {"rank": 4, "context": 32, "hidden": 16, "coordinates": 8, "encoder_hidden": 32},
            "loss": {"policies": 16, "states": 8},
            "optimiser": {"steps": 60},
            "dagger_rounds": 1,
        },
        verify={"rounds": 1},
        denoiser={
            "architecture": {"hidden": 16, "layers": 1, "embedding": 16, "joint": 8},
            "loss": {"batch": 64},
            "optimiser": {"steps": 60},
        },
        language={"captions": 2, "optimiser": {"steps": 20}},
        episodes=2,
        rollout={"lanes": 32},
        chunk=64,
    )


def large(config: DistillConfig = DistillConfig()) -> DistillConfig:
    """Return a distillation of thousands of policies with layers of 128, to a file of less than a megabyte.

    For 5,559 policies of walker2d and episodes of 1,000 steps it took 53 minutes on two cores beside other work, and
    4.8 GB (results/large-walker2d.json). Two thirds of that are rollouts, which verify draws.
    """
    return revise(
        config,
        collect={"repeats": 1},  # there are four times as many elites
        autoencoder={"architecture": {"rank": 16}},  # a vector of the basis is as large as a policy
        verify={"rows": 5120},
        denoiser={"architecture": {"hidden": 96, "embedding": 96, "joint": 96, "layers": 3}},
    )


def accelerated(config: DistillConfig = DistillConfig()) -> DistillConfig:
    """Return a distillation for one accelerator: larger networks, more steps, the published number of episodes."""
    return revise(
        config,
        collect={"megabytes": 4000},
        autoencoder={
            "architecture": {"rank": 48, "context": 256, "layers": 2, "hidden": 64, "encoder_hidden": 512},
            "loss": {"policies": 256, "states": 64},
            "optimiser": {"steps": 40000},
        },
        denoiser={
            "architecture": {"hidden": 256, "embedding": 256, "joint": 512},
            "loss": {"batch": 2048},
            "optimiser": {"steps": 40000},
        },
        episodes=50,
        rollout={"lanes": 8192, "block": 25},
        chunk=4096,
    )


def published(config: DistillConfig = DistillConfig()) -> DistillConfig:
    """Return the published method: parameter MSE, a matrix-emitting hypernetwork, eps-prediction, 100 DDIM steps.

    What it does not set, such as episodes and chunks, is taken from `config`.
    """
    return revise(
        config,
        weights={"quality": 0.0, "balance": 0.0},
        collect={"repeats": 1, "episodes": 2, "states": 8, "noise": 0.0},
        autoencoder={
            "architecture": {
                "latent": (4, 4, 4),
                "head": "matrix",
                "context": 16,
                "layers": 0,
                "hidden": 16,
                "octaves": 0,
                "encoder": "convolution",
                "normalise": False,
            },
            "loss": {"kind": "parameters", "kl": 1e-6, "policies": 32, "states": 1, "noise": 0.0},
            # 1000 epochs of about 7,000 elites in batches of 32, constant rate in the original.
            "optimiser": {"steps": 220000, "rate": 1e-4},
            "dagger_rounds": 0,
        },
        verify={"rounds": 0},
        denoiser={
            "architecture": {
                "network": "unet",
                "channels": (64, 128, 256),
                "embedding": 256,
                "octaves": 5,
                "joint": 64,
            },
            "loss": {
                "schedule": "cosine",
                "parametrisation": "eps",
                "batch": 32,
                "noise": 0.0,
                "target": "sample",
                "visited": 0.0,
                "weighting": "target",
            },
            "optimiser": {"steps": 110000, "rate": 1e-3, "decay": 0.01},
        },
        language={"captions": 0},
        sampler={"steps": 100, "method": "ddim"},
        precision="float32",
    )
