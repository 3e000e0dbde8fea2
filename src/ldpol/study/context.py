"""What all rows of one seed share: the archive with its labels, one player, and trainings that are made once."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import distillation
from ldpol.archive import Archive
from ldpol.distillation.config import DistillConfig, for_memory
from ldpol.distillation.dataset import Dataset, Visit, collect, make_dataset, make_visit
from ldpol.distillation.encoder import Posterior
from ldpol.generator import PolicyGenerator
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.player import Player, score_policies
from ldpol.reference import NO_BOX, Box, Split
from ldpol.rollout import copied_to
from ldpol.settings import check
from ldpol.tasks import Task
from ldpol.types import Array, Behaviour, Key, PyTree, Score

T = TypeVar("T")
OpenHooks = Callable[[str], Hooks]
"""`(name of a piece of work) -> its hooks`; on disk, each piece has a folder of its own."""


@dataclass(frozen=True)
class StudyConfig:
    """What holds for all rows.

    Attributes:
      base: settings of distillation for what rows share: states to clone from, weights, rounds of DAgger, chunks.
      fraction, box: elites held out of training, see `ldpol.split`.
      conditions, samples, states: diversity is measured over so many elites, policies for each, and states.
    """

    base: DistillConfig = DistillConfig()
    fraction: float = 0.1
    box: Box = NO_BOX
    conditions: int = 64
    samples: int = 4
    states: int = 32

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"conditions": 1, "samples": 2, "states": 1})


class Trained(NamedTuple):
    """What rows need of a training.

    Attributes:
      generator: the model.
      posterior: of the latents of the trained elites.
      seconds: it took, in the process that finished it.
    """

    generator: PolicyGenerator
    posterior: Posterior
    seconds: float


@dataclass(frozen=True)
class StudyContext:
    """One archive under one seed.

    Attributes:
      config: what holds for all rows.
      split: the re-evaluated archive of N elites, and which of them training sees.
      task: the task.
      player: evaluates policies; compiled once for the whole study.
      ceiling: `[N]` scores of the elites, evaluated a second time.
      key: decides everything random.
      hooks: opens the hooks of a piece of work.
      kept: what rows share, by name; filled as it is made.
    """

    config: StudyConfig
    split: Split
    task: Task
    player: Player
    ceiling: Score
    key: Key
    hooks: OpenHooks
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def archive(self) -> Archive:
        """All elites, re-evaluated."""
        return self.split.archive

    @property
    def reference(self) -> Score:
        """Mean scores `[N]` of the elites."""
        return as_score(self.archive)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` makes, the same for all rows that ask for this name."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def trained(self, config: DistillConfig) -> Trained:
        """Distil the trained elites, once for all rows with these settings."""
        name = f"training-{digest(config)}"

        def make() -> Trained:
            hooks, elites = self.hooks(name), self.split.trained
            train = lambda: distillation.train(  # noqa: E731
                elites, self.task, config, key=key_for(self.key, "train"), player=self.player, hooks=hooks
            )
            made, seconds = timed(hooks, {"settings": describe(config)}, train)
            return Trained(made.generator, made.encoder.encode(elites.policies), seconds)

        return self.once(name, make)

    @property
    def _base(self) -> DistillConfig:
        elites = self.split.trained
        return for_memory(self.config.base, elites.network, len(elites))

    def dataset(self) -> Dataset:
        """Return states of the trained elites and what they do there, with room for the rounds of DAgger."""

        def make() -> Dataset:
            base, elites, key = self._base, self.split.trained, key_for(self.key, "states")
            visit, about = self.visit(self.archive.network.apply), {"settings": describe(base.collect)}
            found = self.hooks("states").memo("states", about, lambda: collect(elites, visit, base.collect, key))
            return make_dataset(elites, base.weights, found, base.autoencoder.dagger_rounds * base.collect.per_rollout)

        return self.once("dataset", make)

    def visit(self, apply: Callable[..., Array]) -> Visit:
        """Return the function that rolls policies out and keeps some of their states."""
        base = self._base
        how = {"rollout": base.rollout, "chunk": base.chunk, "mesh": self.player.mesh, "hooks": self.hooks("states")}
        return make_visit(self.task, apply, base.collect, **how)

    def play_shared(self, apply: Callable[..., Array], tree: PyTree) -> Callable[[PyTree, Key], Behaviour]:
        """Return the compiled evaluation of policies that share the numbers of their model.

        Args:
          apply: `(tree, policy, observation [O]) -> action [A]`.
          tree: the shared numbers.
        """
        player, base = self.player, self.config.base
        how = {"episodes": player.episodes, "config": base.rollout, "mesh": player.mesh}

        @jax.jit
        def play(tree: PyTree, policies: PyTree, keys: Key) -> Behaviour:
            return score_policies(self.task, partial(apply, tree), policies, keys, **how)

        return partial(play, jax.device_put(tree, copied_to(player.mesh)))


def as_score(archive: Archive) -> Score:
    """Return what the elites of a re-evaluated archive scored; how long they lived is not known."""
    return Score(archive.fitness, archive.measures, jnp.full(len(archive), jnp.nan))


def timed(hooks: Hooks, about: Mapping[str, Any], make: Callable[[], T]) -> tuple[T, float]:
    """Return what `make` makes, and the seconds it took where it was made first."""
    begun = time.monotonic()
    made = make()
    kept = hooks.memo("seconds", about, lambda: {"seconds": np.asarray(time.monotonic() - begun)})
    return made, float(kept["seconds"])


def describe(settings: Any) -> Any:
    """Return a settings dataclass as JSON values, with its class and those of its parts."""
    if dataclasses.is_dataclass(settings):
        values = {field.name: describe(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
        return {"class": type(settings).__name__, **values}
    return [describe(value) for value in settings] if isinstance(settings, tuple) else settings


def digest(*settings: Any) -> str:
    """Return a short name of settings, the same for equal ones."""
    return hashlib.sha256(json.dumps(describe(settings), sort_keys=True).encode()).hexdigest()[:8]
