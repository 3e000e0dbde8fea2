"""Settings of distillation: every default in one place, checked when made."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ldpol.archive import Tessellation
from ldpol.language.understanding import TowerConfig
from ldpol.model.answering import Kernel
from ldpol.model.condition import Drop
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.denoiser import DenoiserConfig, make_network
from ldpol.model.diffusion import Parametrisation, ScheduleName
from ldpol.model.image import image_shape
from ldpol.model.sampler import SamplerConfig
from ldpol.networks import Network
from ldpol.precision import Precision
from ldpol.rollout import RolloutConfig
from ldpol.settings import check, fail
from ldpol.train_loop import OptimiserConfig

SMALL_UNET = {"network": "unet", "channels": (16, 32), "embedding": 80, "octaves": 5, "joint": 64}
"""A small UNet to compare our MLP with: changes to `DenoiserConfig`."""


@dataclass(frozen=True)
class WeightsConfig:
    """How often training draws which elite, see `dataset.elite_weights`.

    Attributes:
      quality: preference for fitness; 0 for none.
      balance: correction for the density of elites; 0 for none, 1 for all of it.
      radius: standard deviation of the Gaussian that makes neighbours, in measures scaled to [0, 1] on cells of 0.02;
        see `for_cells`.
    """

    quality: float = 0.7
    balance: float = 1.2
    radius: float = 0.03

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"quality": 0, "balance": 0}, above={"radius": 0})


@dataclass(frozen=True)
class CollectConfig:
    """Which states of the elites the autoencoder learns from.

    Attributes:
      repeats: times that the archive is rolled out.
      episodes: per policy and repeat.
      states: observations kept per episode.
      noise: standard deviation of the noise added to them.
      megabytes: of observations and actions of all elites and rounds together, at most; of more elites, or longer
        observations, fewer states are kept, see `for_memory`.
    """

    repeats: int = 3
    episodes: int = 2
    states: int = 64
    noise: float = 0.1
    megabytes: int = 1000

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"repeats": 1, "episodes": 1, "states": 1, "noise": 0, "megabytes": 1})

    @property
    def per_rollout(self) -> int:
        """Observations kept per policy and rollout of the archive."""
        return self.episodes * self.states


@dataclass(frozen=True)
class AutoencoderLoss:
    """What the autoencoder is trained for.

    Attributes:
      kind: `behaviour` (match the teacher's actions) or `parameters` (match standardised parameters, as published).
      weight: of the mean squared error of actions.
      kl: weight of the KL divergence of the latent.
      policies: policies a step.
      states: states a policy and step.
      noise: standard deviation of noise on the measures the decoder sees, scaled to [0, 1], on cells of 0.02; see
        `for_cells`. Labels are means over a few episodes, and what is asked for later is never exactly a label.
    """

    kind: Literal["behaviour", "parameters"] = "behaviour"
    weight: float = 10.0
    kl: float = 5e-3
    policies: int = 96
    states: int = 16
    noise: float = 0.0075

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"policies": 1, "states": 1, "kl": 0, "noise": 0, "weight": 0})


@dataclass(frozen=True)
class AutoencoderTraining:
    """How the autoencoder is trained.

    Attributes:
      architecture: of encoder and decoder.
      loss: what it is trained for.
      optimiser: gradient steps.
      dagger_rounds: times that decoded policies are rolled out and the elites label the states they visit.
    """

    architecture: AutoencoderConfig = AutoencoderConfig()
    loss: AutoencoderLoss = AutoencoderLoss()
    optimiser: OptimiserConfig = OptimiserConfig(steps=36000)
    dagger_rounds: int = 3

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"dagger_rounds": 0})
        if self.loss.kind == "parameters" and self.architecture.head != "matrix":
            fail(self, "loss.kind", f"parameters needs architecture.head matrix, found {self.architecture.head!r}")


@dataclass(frozen=True)
class VerifyConfig:
    """How decoded policies are compared with their elites, see `reliability`, and kept, see `model/verified.py`.

    Attributes:
      rounds: policies decoded around every elite and evaluated; 0 trusts all elites alike and keeps no draws.
      further: rounds of as many after those, around the elites whose measures no draw has reached so far.
      tolerance: errors by so many median errors count as large.
      rows: verified draws that the generator keeps; 0 for a generator without.
      again: times that those are evaluated once more, for they were chosen by means that flatter them.
      quality: preference for fitness among draws that behave alike, as in `WeightsConfig`.
      kernel: standard deviation of what answers a request, in diagonals of a cell.
      spread: how far from a request the draws of a set may lie, in diagonals of a cell.
      own_cell: how much likelier a draw answers that is in the cell of a request for all measures, in nats.
    """

    rounds: int = 2
    further: int = 2
    tolerance: float = 1.0
    rows: int = 3072
    again: int = 1
    quality: float = 1.4
    kernel: float = 0.2
    spread: float = 0.84
    own_cell: float = 5.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check(
            self,
            least={"rounds": 0, "further": 0, "rows": 0, "again": 0, "quality": 0, "spread": 0, "own_cell": 0},
            above={"tolerance": 0, "kernel": 0},
        )

    def answers(self, grid: Tessellation) -> Kernel:
        """Return which draws answer a request, distances in measures scaled to [0, 1]."""
        diagonal = float(np.linalg.norm(grid.sides))
        return Kernel(self.kernel * diagonal, self.spread * diagonal, self.own_cell)


@dataclass(frozen=True)
class DiffusionLoss:
    """What the denoiser is trained for.

    Attributes:
      schedule: `linear`, `cosine` or `flow`.
      parametrisation: `eps`, `v` or `flow`.
      batch: latents a step.
      visited: share of a batch at the few noise levels that the sampler visits by default; the rest is spread over all
        levels. In few steps, it is there alone that the denoiser must be right.
      weighting: whose squared error counts: that of the network's `target`, as published, which makes small noise count
        most; or that of the `clean` latent, on which the next step depends, at all levels alike.
      drop_all, drop_each: probabilities of leaving all measures, or each, free.
      drop_beside, drop_quality, drop_text: probabilities of leaving all measures free where fitness or text is asked
        for, and of leaving these free.
      noise: standard deviation of noise on the measures, scaled to [0, 1], on cells of 0.02; see `for_cells`.
      quality_noise: likewise on the rank of fitness, in quantiles.
      target: what the network's estimate of the clean latent is compared with: the `sample` the noisy one was made
        from, or the `posterior` mean over all elites, which is what that sample is on average, without its variance.
    """

    schedule: ScheduleName = "flow"
    parametrisation: Parametrisation = "v"
    batch: int = 256
    visited: float = 0.5
    weighting: Literal["target", "clean"] = "clean"
    drop_all: float = 0.05
    drop_each: float = 0.05
    drop_beside: float = 0.6
    drop_quality: float = 0.8
    drop_text: float = 0.6
    noise: float = 0.0075
    quality_noise: float = 0.05
    target: Literal["sample", "posterior"] = "posterior"

    def __post_init__(self) -> None:
        """Check the settings."""
        shares = ("visited", "drop_all", "drop_each", "drop_beside", "drop_quality", "drop_text")
        check(
            self,
            least={"batch": 1, "noise": 0, **dict.fromkeys(shares, 0)},
            most=dict.fromkeys(shares, 1),
            above={"quality_noise": 0},
        )
        if self.target == "posterior" and self.noise <= 0:
            fail(self, "noise", f"must be greater than 0 where target is posterior, found {self.noise:g}")
        if self.parametrisation == "eps" and self.schedule == "flow":
            fail(self, "parametrisation", "eps cannot start from pure noise, as the flow schedule does; use v or flow")

    @property
    def drop(self) -> Drop:
        """How wishes are left free."""
        return Drop(self.drop_all, self.drop_each, self.drop_beside, self.drop_quality, self.drop_text)


@dataclass(frozen=True)
class DenoiserTraining:
    """How the denoiser is trained.

    Attributes:
      architecture: of the network.
      loss: what it is trained for.
      optimiser: gradient steps.
    """

    architecture: DenoiserConfig = DenoiserConfig()
    loss: DiffusionLoss = DiffusionLoss()
    optimiser: OptimiserConfig = OptimiserConfig(steps=12000, rate=2e-3, ema=0.999)

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self)


@dataclass(frozen=True)
class LanguageConfig:
    """How a model learns to read sentences.

    Attributes:
      captions: per elite; 0 makes a model without language, which needs no `ldpol[language]`.
      tower: architecture and augmentation of the reader.
      optimiser: gradient steps.
    """

    captions: int = 12
    tower: TowerConfig = TowerConfig()
    optimiser: OptimiserConfig = OptimiserConfig(steps=4000)

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"captions": 0})


@dataclass(frozen=True)
class DistillConfig:
    """All settings of `distill`.

    Attributes:
      weights: how often training draws which elite.
      collect: states to learn from.
      autoencoder: its training.
      verify: how elites are weighed by how well they decode.
      denoiser: its training.
      language: captions and the reader.
      sampler: the generator's defaults.
      precision: of the numbers in the generator's file.
      episodes: per policy, where decoded policies are compared with their elites.
      rollout: lanes and blocks of a device.
      chunk: policies per call of a compiled program, a multiple of the devices.
    """

    weights: WeightsConfig = WeightsConfig()
    collect: CollectConfig = CollectConfig()
    autoencoder: AutoencoderTraining = AutoencoderTraining()
    verify: VerifyConfig = VerifyConfig()
    denoiser: DenoiserTraining = DenoiserTraining()
    language: LanguageConfig = LanguageConfig()
    sampler: SamplerConfig = SamplerConfig()
    precision: Precision = "int8"
    episodes: int = 10
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    chunk: int = 256

    def __post_init__(self) -> None:
        """Check the settings, also those that must fit each other."""
        check(self, least={"episodes": 1, "chunk": 1})
        make_network(self.denoiser.architecture, image_shape(self.autoencoder.architecture))


CELL = 0.02
"""Width of the cells, of a range of 1, for which noise and radii are stated."""
SPACING = 0.5
"""Part of the spacing of evenly spread elites that counts as a cell, where their cells are smaller."""


def for_cells(config: DistillConfig, grid: Tessellation, elites: int) -> DistillConfig:
    """Scale noise and radii to the cells of an archive: what blurs cells of 0.02 is nothing where they are 0.14 wide.

    Where there are few elites for their cells, half of the distance at which so many would be evenly spread counts.

    Args:
      config: settings, stated for cells of `CELL`.
      grid: of the archive.
      elites: N.
    """
    spacing = SPACING * elites ** (-1.0 / grid.dimensions)
    scale = max(float(np.mean(grid.sides)), spacing) / CELL
    autoencoder, denoiser = config.autoencoder, config.denoiser
    return replace(
        config,
        weights=replace(config.weights, radius=scale * config.weights.radius),
        autoencoder=replace(autoencoder, loss=replace(autoencoder.loss, noise=scale * autoencoder.loss.noise)),
        denoiser=replace(denoiser, loss=replace(denoiser.loss, noise=scale * denoiser.loss.noise)),
    )


def for_memory(config: DistillConfig, network: Network, elites: int) -> DistillConfig:
    """Keep fewer states per episode where those of all elites would not fit into `collect.megabytes`.

    Args:
      config: settings.
      network: of the policies: says how many numbers an observation and an action are.
      elites: N.
    """
    collect, rounds = config.collect, config.autoencoder.dagger_rounds
    episodes = elites * collect.episodes * (collect.repeats + rounds)
    room = 1e6 * collect.megabytes / (4 * episodes * (network.observation_size + network.action_size))
    return replace(config, collect=replace(collect, states=min(collect.states, max(int(room), 1))))


def without_rollouts(config: DistillConfig) -> DistillConfig:
    """Leave out what needs an environment: DAgger, verification, captions of traits."""
    return replace(
        config,
        autoencoder=replace(config.autoencoder, dagger_rounds=0),
        verify=replace(config.verify, rounds=0, rows=0),
        language=replace(config.language, captions=0),
    )


def without_normalising(config: DistillConfig) -> DistillConfig:
    """Compare raw weights, for a network without a layer that alone reads the observation (`CustomNetwork.first`).

    Where one observation is a thousand times larger than another, as a humanoid's are, that costs accuracy.
    """
    autoencoder = config.autoencoder
    architecture = replace(autoencoder.architecture, normalise=False)
    return replace(config, autoencoder=replace(autoencoder, architecture=architecture))
