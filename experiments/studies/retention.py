"""How small can an archive of walker2d become, and what is left of it? Ours, the published method, and baselines.

    python -m ldpol.experiments study --config experiments/studies/retention.py
    (into runs/retention; --config.archive=runs/demo takes the archive of a finished run, otherwise one is searched)

Every row is trained or fitted for every seed on one archive, played by the protocol of the evaluate stage, and kept in
`rows/` as soon as it is finished; `retention.json` and `retention.png` hold what there is by then. Some rows or seeds
alone: --config.only=ours,ours_int8 --config.seeds=0

Variants: cpu (default), smoke.
"""

from ml_collections import ConfigDict

from ldpol.distillation.config import SMALL_UNET
from ldpol.experiments.study.plan import row

PAPER = "experiments/walker2d.py:paper"
FINE = {"hidden": (384, 384), "octaves": 7, "joint": 256}
FINE_256 = FINE | {"hidden": (256, 256)}


def denoiser(**settings: object) -> tuple[str, ...]:
    return tuple(f"train.denoiser.architecture.{name}={value}" for name, value in settings.items())


SMALL_DENOISER = denoiser(hidden=64, embedding=64, joint=128)
TINY_DENOISER = denoiser(hidden=40, embedding=40, joint=96)
LEAST_DENOISER = denoiser(hidden=24, embedding=24, joint=64)
UNET = denoiser(**SMALL_UNET)
EPS = ("train.denoiser.loss.schedule=cosine", "train.denoiser.loss.parametrisation=eps")
MATRIX = ("train.autoencoder.architecture.head=matrix",)


def rank(number: int, *more: str) -> tuple[str, ...]:
    return (f"train.autoencoder.architecture.rank={number}", *more)


def steps(autoencoder: int, denoiser: int) -> tuple[str, ...]:
    return (f"train.autoencoder.optimiser.steps={autoencoder}", f"train.denoiser.optimiser.steps={denoiser}")


def published(width: int) -> tuple[str, ...]:
    return (f"train.autoencoder.architecture.hidden={width}", f"train.autoencoder.architecture.context={width}")


def ours() -> dict[str, ConfigDict]:
    small = ("train.autoencoder.architecture.context=64", "train.autoencoder.architecture.hidden=16")
    least = ("train.autoencoder.architecture.context=32", "train.autoencoder.architecture.hidden=8")
    rows = {
        "ours": row("ours"),
        "guidance_half": row("ours", parent="ours", guidance=0.5),
        **{f"steps_{number}": row("ours", parent="ours", steps=number) for number in (2, 4, 16)},
        **{f"ddim_{number}": row("ours", parent="ours", steps=number, sampler="ddim") for number in (1, 2, 4, 8)},
        "ours_bfloat16": row("ours", parent="ours", precision="bfloat16"),
        "ours_int8": row("ours", parent="ours", precision="int8"),
        "rank_48": row("ours", overrides=rank(48)),
        "rank_12": row("ours", overrides=rank(12)),
        "rank_12_int8": row("ours", parent="rank_12", precision="int8"),
        # Conditions blurred by a third of a cell of ant's grid, as the default does by a third of walker2d's.
        "blurred": row("ours", overrides=("train.autoencoder.loss.noise=0.05", "train.denoiser.loss.noise=0.05")),
        # What the defaults have that these lack: see "What is different from the paper" in the README.
        "raw_observations": row("ours", overrides=("train.autoencoder.architecture.normalise=False",)),
        "unverified": row("ours", overrides=("train.verify.rounds=0",)),
        "all_levels": row(
            "ours", overrides=("train.denoiser.loss.visited=0.0", "train.denoiser.loss.weighting=target")
        ),
        "sample_target": row("ours", overrides=("train.denoiser.loss.target=sample",)),
        "eps": row("ours", overrides=EPS),
        "no_dagger": row("ours", overrides=("train.autoencoder.dagger_rounds=0",)),
        "weak_kl": row("ours", overrides=("train.autoencoder.loss.kl=1e-6",)),  # as published
        "latent_4": row("ours", overrides=("train.autoencoder.architecture.latent=(2,2,1)",)),
        "latent_64": row("ours", overrides=("train.autoencoder.architecture.latent=(4,4,4)",)),
        "matrix_head": row("ours", overrides=MATRIX),
        "parameter_loss": row("ours", overrides=(*MATRIX, "train.autoencoder.loss.kind=parameters")),
        "unet": row("ours", overrides=UNET),
        "small_denoiser": row("ours", overrides=SMALL_DENOISER),
        "rank_12_small": row("ours", overrides=rank(12, *small, *SMALL_DENOISER)),
        "rank_12_small_int8": row("ours", parent="rank_12_small", precision="int8"),
        "rank_6_small": row("ours", overrides=rank(6, *small, *SMALL_DENOISER)),
        "rank_6_small_int8": row("ours", parent="rank_6_small", precision="int8"),
        "rank_6_tiny": row("ours", overrides=rank(6, *small, *TINY_DENOISER)),
        "rank_6_tiny_int8": row("ours", parent="rank_6_tiny", precision="int8"),
        "rank_3_least": row("ours", overrides=rank(3, *least, *LEAST_DENOISER)),
        "rank_3_least_int8": row("ours", parent="rank_3_least", precision="int8"),
    }
    return rows


def baselines() -> dict[str, ConfigDict]:
    matched = {"ours": "float32", "ours_int8": "int8", "rank_6_small_int8": "int8"}
    rows = {
        "latents": row("latents", parent="ours"),
        "latents_int8": row("latents", parent="ours", precision="int8"),
        "archive_float16": row("quantised", precision="float16"),
        "archive_int8": row("quantised", precision="int8"),
    }
    for match, precision in matched.items():
        rows[f"subsampled_like_{match}"] = row("subsampled", match=match, precision=precision)
        rows[f"gaussian_like_{match}"] = row("gaussian", match=match, precision=precision)
    rows["gaussian_mean_like_ours"] = row("gaussian", match="ours", temperature=0.0)
    rows |= {
        "cvae": row("cvae", overrides=("train.autoencoder.loss.kl=2e-2", "train.denoiser.optimiser.steps=200")),
        "cvae_fitted": row("cvae", parent="ours", prior="fitted"),
        "cloned_384": row("cloned", hidden=(384, 384)),
        "cloned_192": row("cloned", hidden=(192, 192)),
        "cloned_96": row("cloned", hidden=(96, 96)),
        "cloned_192_int8": row("cloned", parent="cloned_192", hidden=(192, 192), precision="int8"),
        "cloned_384_int8": row("cloned", parent="cloned_384", hidden=(384, 384), precision="int8"),
        # What a measure is seen by as finely as our denoiser sees it.
        "cloned_384_fine": row("cloned", **FINE),
        "cloned_384_fine_int8": row("cloned", parent="cloned_384_fine", precision="int8", **FINE),
        "cloned_256_fine": row("cloned", **FINE_256),
        "cloned_256_fine_int8": row("cloned", parent="cloned_256_fine", precision="int8", **FINE_256),
    }
    return rows


def paper() -> dict[str, ConfigDict]:
    """The published method: unchanged at our wall-clock, and at its own number of epochs."""
    # 1,000 and 500 epochs of about 1,380 elites in batches of 32, which the projection encoder and a small UNet make
    # feasible; as published, they take two and a half hours on two cores.
    epochs = (*steps(43000, 21500), "train.autoencoder.architecture.encoder=projection", *UNET)
    return {
        "paper": row("paper", train=PAPER, overrides=steps(1200, 2000)),
        "paper_epochs": row("paper", train=PAPER, overrides=epochs),
        "paper_epochs_8": row("paper", train=PAPER, overrides=(*epochs, *published(8))),
    }


def get_config(variant: str = "cpu") -> ConfigDict:
    if variant not in ("cpu", "smoke"):
        raise KeyError(f"unknown variant {variant!r}; the variants are cpu and smoke")
    config = ConfigDict()
    config.base = "experiments/walker2d.py:cpu"
    # Of the base, for all rows: models without language, whose precision is the row's affair.
    config.overrides = ("train.language.captions=0", "train.precision=float32")
    config.archive = ""  # work directory of a finished run; empty: search one first
    config.seeds = (0, 1, 2)
    config.only = ("all",)  # or names of rows
    config.collected = "ours"  # the row whose states clones learn from, and in which diversity is measured
    config.diversity = {"conditions": 64, "samples": 4, "states": 32}
    config.rows = ours() | paper() | baselines()
    if variant == "smoke":
        _smoke(config)
    return config


def _smoke(config: ConfigDict) -> None:
    """One row of every kind, once; the numbers mean nothing."""
    config.base = "experiments/walker2d.py:smoke"
    config.diversity.update(conditions=4, samples=2, states=8)
    config.seeds = (0, 1)
    few = (*steps(20, 20), "train.steps_per_call=20")
    # The published encoder alone takes as long to compile as everything else.
    encoder = ("train.autoencoder.architecture.encoder=projection", "train.autoencoder.architecture.coordinates=8")
    width = (*UNET, "train.denoiser.architecture.channels=(8,16)", "train.denoiser.architecture.embedding=16")
    size = {"hidden": (8, 8), "embedding": 8, "joint": 4, "steps": 40}
    config.rows = {
        "ours": row("ours", overrides=rank(3)),  # so that those that share its training must share its settings
        "steps_1": row("ours", parent="ours", steps=1),
        "ours_int8": row("ours", parent="ours", precision="int8"),
        "paper": row("paper", train="experiments/walker2d.py:paper", overrides=(*few, *encoder, *width)),
        "latents": row("latents", parent="ours"),
        "archive_int8": row("quantised", precision="int8"),
        "subsampled": row("subsampled", match="ours_int8"),
        "gaussian": row("gaussian", match="ours_int8", precision="int8", directions=8),
        "cvae": row("cvae", overrides=("train.autoencoder.loss.kl=2e-2", "train.denoiser.optimiser.steps=20")),
        "cvae_fitted": row("cvae", parent="ours", prior="fitted", directions=8),
        "cloned": row("cloned", **size),
        "cloned_int8": row("cloned", parent="cloned", precision="int8", **size),
    }
