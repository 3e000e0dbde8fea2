"""How small can an archive of walker2d become, and what is left of it? Ours, the published method, and baselines.

    python -m ldpol.experiments study --config experiments/studies/retention.py
    (into runs/retention; --config.archive=runs/demo takes the archive of a finished run, otherwise one is searched)

Every row is trained or fitted for every seed on one archive, evaluated by the protocol of the evaluate stage, and kept
as soon as it is finished; `retention.json` and `retention.png` hold what there is by then. Some rows or seeds alone:
--config.only=ours,ours_int8 --config.seeds=0

Variants: cpu (default), smoke.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ldpol.baselines.cloned import ClonedConfig
from ldpol.distillation import DistillConfig, published
from ldpol.distillation.config import SMALL_UNET
from ldpol.settings import revise
from ldpol.study.methods import (
    Cloned,
    ConditionalVAE,
    LatentDiffusion,
    LatentTable,
    Method,
    PrincipalGaussian,
    Published,
    Quantised,
    Regression,
    Subsampled,
)
from ldpol.study.verified import VerifiedClone, VerifiedElites, VerifiedLatents
from ldpol.train_loop import OptimiserConfig

UNET = {"architecture": SMALL_UNET}
CLONED = OptimiserConfig(steps=36000, rate=3e-3)


def ours(base: DistillConfig) -> dict[str, Method]:
    """Our model: the sampler, the precision, the sizes, and one change at a time."""

    def changed(**changes: Any) -> LatentDiffusion:
        return LatentDiffusion(revise(base, **changes))

    def sampled(**changes: Any) -> LatentDiffusion:
        return LatentDiffusion(base, sampler=revise(base.sampler, **changes))

    def sized(rank: int, *, context: int = 64, hidden: int = 16, denoiser: int, joint: int) -> LatentDiffusion:
        network = {"hidden": denoiser, "embedding": denoiser, "joint": joint}
        architecture = {"rank": rank, "context": context, "hidden": hidden}
        return changed(autoencoder={"architecture": architecture}, denoiser={"architecture": network})

    matrix = {"architecture": {"head": "matrix"}}
    small = {
        "rank_12": changed(autoencoder={"architecture": {"rank": 12}}),
        "rank_12_small": sized(12, denoiser=64, joint=128),
        "rank_6_small": sized(6, denoiser=64, joint=128),
        "rank_6_tiny": sized(6, denoiser=40, joint=96),
        "rank_3_least": sized(3, context=32, hidden=8, denoiser=24, joint=64),
    }
    return {
        "ours": LatentDiffusion(base),
        "guidance_half": sampled(guidance=0.5),
        **{f"steps_{number}": sampled(steps=number) for number in (2, 4, 16)},
        **{f"ddim_{number}": sampled(steps=number, method="ddim") for number in (1, 2, 4, 8)},
        "ours_bfloat16": LatentDiffusion(base, "bfloat16"),
        "ours_int8": LatentDiffusion(base, "int8"),
        # Its decoder was rounded before its draws were verified, as that of a file in int8 is.
        "verified_int8": LatentDiffusion(revise(base, precision="int8"), "int8"),
        "rank_12_small_verified_int8": LatentDiffusion(revise(small["rank_12_small"].config, precision="int8"), "int8"),
        "rank_48": changed(autoencoder={"architecture": {"rank": 48}}),
        **small,
        **{f"{name}_int8": LatentDiffusion(row.config, "int8") for name, row in small.items()},
        # Conditions blurred by a third of a cell of ant's grid, as the default does by a third of walker2d's.
        "blurred": changed(autoencoder={"loss": {"noise": 0.05}}, denoiser={"loss": {"noise": 0.05}}),
        # What the defaults have that these lack: see docs/method.md.
        "raw_observations": changed(autoencoder={"architecture": {"normalise": False}}),
        "unverified": changed(verify={"rounds": 0}),
        "no_bank": changed(verify={"rows": 0}),
        "all_levels": changed(denoiser={"loss": {"visited": 0.0, "weighting": "target"}}),
        "sample_target": changed(denoiser={"loss": {"target": "sample"}}),
        "eps": changed(denoiser={"loss": {"schedule": "cosine", "parametrisation": "eps"}}),
        "no_dagger": changed(autoencoder={"dagger_rounds": 0}),
        "weak_kl": changed(autoencoder={"loss": {"kl": 1e-6}}),  # as published
        "latent_4": changed(autoencoder={"architecture": {"latent": (2, 2, 1)}}),
        "latent_64": changed(autoencoder={"architecture": {"latent": (4, 4, 4)}}),
        "matrix_head": changed(autoencoder=matrix),
        "parameter_loss": changed(autoencoder=matrix | {"loss": {"kind": "parameters"}}),
        "unet": changed(denoiser=UNET),
        "small_denoiser": changed(denoiser={"architecture": {"hidden": 64, "embedding": 64, "joint": 128}}),
    }


def baselines(base: DistillConfig, ours: Mapping[str, Method]) -> dict[str, Method]:
    """What a sceptic would try first."""

    def cloned(*hidden: int, precision: Any = "float32", **sizes: int) -> Cloned:
        # Drawn as for the autoencoder.
        loss = base.autoencoder.loss
        draws = {"policies": loss.policies, "states": loss.states, "noise": loss.noise}
        return Cloned(ClonedConfig(hidden=hidden, **sizes, **draws), CLONED, precision)

    fine = {"octaves": 7, "joint": 256}  # a measure is seen as finely as our denoiser sees it
    rows: dict[str, Method] = {
        "latents": LatentTable(base),
        "latents_int8": LatentTable(base, "int8"),
        "archive_float16": Quantised("float16"),
        "archive_int8": Quantised("int8"),
        "gaussian_mean_like_ours": PrincipalGaussian(LatentDiffusion(base), temperature=0.0),
        "cvae": ConditionalVAE(
            revise(base, autoencoder={"loss": {"kl": 2e-2}}, denoiser={"optimiser": {"steps": 200}})
        ),
        "cvae_fitted": ConditionalVAE(base, prior="fitted"),
        **{f"cloned_{width}": cloned(width, width) for width in (384, 192, 96)},
        **{f"cloned_{width}_int8": cloned(width, width, precision="int8") for width in (384, 192)},
        **{f"cloned_{width}_fine": cloned(width, width, **fine) for width in (384, 256)},
        **{f"cloned_{width}_fine_int8": cloned(width, width, precision="int8", **fine) for width in (384, 256)},
    }
    for name in ("ours", "ours_int8", "rank_6_small_int8"):
        like = ours[name]
        assert isinstance(like, LatentDiffusion)
        rows[f"subsampled_like_{name}"] = Subsampled(like, like.precision)
        rows[f"gaussian_like_{name}"] = PrincipalGaussian(like, like.precision)
    clones = {
        "cloned_384_fine": cloned(384, 384, precision="int8", **fine),
        "cloned_192": cloned(192, 192, precision="int8"),
    }
    return rows | verified(base, ours, clones)


def verified(base: DistillConfig, ours: Mapping[str, Method], clones: Mapping[str, Cloned]) -> dict[str, Method]:
    """What a sceptic would verify instead, with as many evaluations; equal bytes where less than all is kept."""
    whole = ours["verified_int8"]
    assert isinstance(whole, LatentDiffusion)
    return {
        "nearest_elite": Quantised("float32"),
        "latents_verified_int8": VerifiedLatents(whole.config, "int8"),
        "elites_verified_int8": VerifiedElites(whole, "int8"),
        **{f"{name}_verified_int8": VerifiedClone(clone, base.verify) for name, clone in clones.items()},
    }


def paper(base: DistillConfig) -> dict[str, Method]:
    """The published method: unchanged at our wall-clock, and at its own number of epochs."""
    as_published = published(base)
    short = _steps(as_published, 1200, 2000)
    # 1,000 and 500 epochs of about 1,380 elites in batches of 32, which the projection encoder and a small UNet make
    # feasible; as published, they take two and a half hours on two cores.
    epochs = revise(
        _steps(as_published, 43000, 21500), autoencoder={"architecture": {"encoder": "projection"}}, denoiser=UNET
    )
    narrow = revise(epochs, autoencoder={"architecture": {"hidden": 8, "context": 8}})
    return {"paper": Published(short), "paper_epochs": Published(epochs), "paper_epochs_8": Published(narrow)}


def _steps(config: DistillConfig, autoencoder: int, denoiser: int) -> DistillConfig:
    return revise(
        config, autoencoder={"optimiser": {"steps": autoencoder}}, denoiser={"optimiser": {"steps": denoiser}}
    )


def rows(config: ConfigDict, base: DistillConfig) -> dict[str, Method]:
    """Return the rows by name."""
    if config.smoke:
        return smoke(base)
    own = ours(base)
    return own | paper(base) | baselines(base, own)


def smoke(base: DistillConfig) -> dict[str, Method]:
    """One row of every kind, once; the numbers mean nothing."""
    int8, few = LatentDiffusion(base, "int8"), Regression(directions=8)
    # The published encoder alone takes as long to compile as everything else.
    near = revise(
        _steps(published(base), 20, 20),
        autoencoder={"architecture": {"encoder": "projection", "coordinates": 8}},
        denoiser={"architecture": SMALL_UNET | {"channels": (8, 16), "embedding": 16}},
    )
    clone = ClonedConfig(hidden=(8, 8), embedding=8, joint=4, policies=16, states=8)
    return {
        "ours": LatentDiffusion(base),
        "steps_1": LatentDiffusion(base, sampler=revise(base.sampler, steps=1)),
        "ours_int8": int8,
        "paper": Published(near),
        "latents": LatentTable(base),
        "archive_int8": Quantised("int8"),
        "subsampled": Subsampled(int8),
        "gaussian": PrincipalGaussian(int8, "int8", regression=few),
        "cvae_fitted": ConditionalVAE(base, prior="fitted", regression=few),
        "cloned": Cloned(clone, OptimiserConfig(steps=40)),
        "cloned_int8": (cloned := Cloned(clone, OptimiserConfig(steps=40), "int8")),
        **verified(base, {"verified_int8": LatentDiffusion(base, "int8")}, {"cloned": cloned}),
    }


def get_config(variant: str = "cpu") -> ConfigDict:
    """Return what all rows share."""
    if variant not in ("cpu", "smoke"):
        raise KeyError(f"unknown variant {variant!r}; the variants are cpu and smoke")
    config = ConfigDict()
    config.smoke = variant == "smoke"
    config.base = f"experiments/walker2d.py:{variant}"
    # Of the base, for all rows: models without language, whose precision is the row's affair.
    config.overrides = ("train.language.captions=0", "train.precision=float32")
    config.archive = ""  # work directory of a finished run; empty: search one first
    config.seeds = (0, 1) if config.smoke else (0, 1, 2)
    config.only = ("all",)  # or names of rows
    config.diversity = {"conditions": 64, "samples": 4, "states": 32}
    if config.smoke:
        config.diversity = {"conditions": 4, "samples": 2, "states": 8}
    return config
