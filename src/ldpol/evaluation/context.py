"""What every suite works with: a generator, the archive it stands for, one compiled player, and hooks."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from ldpol.archive import Archive
from ldpol.evaluation.tables import Table
from ldpol.generator import PolicyGenerator
from ldpol.hooks import Hooks
from ldpol.keys import key_for
from ldpol.player import Player, sample_policies
from ldpol.reference import BLANK, Split
from ldpol.rollout import split_over
from ldpol.tasks import Task
from ldpol.types import Array, Behaviour, Key, Params, PyTree, Score

T = TypeVar("T")
Program = Callable[[PyTree, Key], T]
"""`(rows, keys) -> results`, all with the same leading axis."""
Sample = Callable[[PolicyGenerator, Key, PyTree], Params]
"""`(generator, key, request) -> policy`; a function of a module, so that it is compiled once."""


class Result(NamedTuple):
    """What a suite found.

    Attributes:
      metrics: JSON-able.
      arrays: for figures, by name.
    """

    metrics: dict[str, Any]
    arrays: dict[str, np.ndarray] = {}  # noqa: RUF012


class Suite(Protocol):
    """A suite of measurements: a frozen dataclass of its settings, checked when made.

    Two suites that are equal measure the same.
    """

    name: ClassVar[str]

    def check_task(self, task: Task) -> None:
        """Raise `UserError` if the settings do not fit the task; called before any work."""
        ...

    def run(self, context: "Context") -> Result:
        """Measure."""
        ...

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return the tables of a suite's metrics; none where it was not run."""
        ...


def sample_measures(model: PolicyGenerator, key: Key, measures: Array) -> Params:
    """Sample a policy for measures `[M]` with the generator's own settings."""
    return model.sample(key, measures)


def sample_blind(model: PolicyGenerator, key: Key, measures: Array) -> Params:
    """Sample a policy for measures `[M]` by diffusion alone."""
    return model.sample(key, measures, verified=False)


@partial(jax.jit, static_argnames=("sample", "mesh"))
def draw(sample: Sample, model: PolicyGenerator, requests: PyTree, keys: Key, mesh: Mesh) -> Params:
    """Sample one policy per request, split over the devices.

    The generator is an argument, not a constant of the program: the program then fits any generator.
    """
    policies = sample_policies(lambda key, one: sample(model, key, one), requests, keys)
    return jax.lax.with_sharding_constraint(policies, split_over(mesh))


@dataclass(frozen=True)
class Context:
    """A generator and what it is measured against.

    Attributes:
      generator: on all devices.
      archive: N elites, re-evaluated: the reference.
      split: which of them training saw.
      task: the task.
      player: evaluates policies; compiled once for all suites.
      key: decides everything random.
      hooks: of the caller.
      observations: gives `[B, O]` states in which policies are compared.
      identity: what all results depend on, as JSON values: archive, split, generator, task and key.
    """

    generator: PolicyGenerator
    archive: Archive
    split: Split
    task: Task
    player: Player
    key: Key
    hooks: Hooks
    observations: Callable[[], np.ndarray]
    identity: Mapping[str, Any]

    @property
    def reference(self) -> Score:
        """Mean scores `[N]` of the elites; their lengths are not known."""
        fitness, measures = np.asarray(self.archive.fitness), np.asarray(self.archive.measures)
        return Score(fitness, measures, np.full(len(fitness), np.nan, np.float32))  # type: ignore[arg-type]

    def key_for(self, name: str) -> Key:
        """Return the key of a purpose."""
        return key_for(self.key, name)

    def random(self, name: str) -> np.random.Generator:
        """Return NumPy's random numbers of a purpose."""
        return np.random.default_rng(np.asarray(jax.random.key_data(self.key_for(name))))

    def choose(self, count: int, name: str) -> np.ndarray:
        """Choose elites at random, without repetition, in order: at most `count` rows `[n]`."""
        return np.sort(self.random(name).permutation(len(self.archive))[:count])

    def cached(self, suite: Suite, name: str, compute: Callable[[], T], blank: T) -> T:
        """Return what `compute` makes, or what an earlier run with an equal suite left; see `Hooks.remember`."""
        settings = asdict(suite)  # type: ignore[call-overload]
        about = {"episodes": self.player.episodes, "suite": suite.name, "settings": settings, **self.identity}
        return self.hooks.remember(name, about, compute, blank)

    def evaluate(
        self, suite: Suite, name: str, title: str, policies: Params, key: Key, numbers: np.ndarray | None = None
    ) -> Behaviour:
        """Evaluate N policies, for a suite."""
        return self._over(suite, name, title, self.player.play, policies, key, numbers)

    def sample(
        self,
        suite: Suite,
        name: str,
        title: str,
        sample: Sample,
        requests: PyTree,
        key: Key,
        numbers: np.ndarray | None = None,
    ) -> Behaviour:
        """Sample one policy per request and evaluate it, for a suite.

        Args:
          suite: whose result it is.
          name: of the result.
          title: for the progress.
          sample: how.
          requests: leading axis N on every leaf.
          key: decides draws and episodes.
          numbers: `[N]`; requests of one number share their random numbers, whatever else they ask for.
        """

        def program(requests: PyTree, keys: Key) -> Behaviour:
            policies = draw(sample, self.generator, requests, keys, self.player.mesh)
            return self.player.play(policies, keys)

        return self._over(suite, name, title, program, requests, key, numbers)

    def _over(
        self,
        suite: Suite,
        name: str,
        title: str,
        program: Program[Behaviour],
        rows: PyTree,
        key: Key,
        numbers: np.ndarray | None,
    ) -> Behaviour:
        how = {"title": title, "progress": self.hooks.progress, "numbers": numbers}
        return self.cached(suite, name, lambda: self.player.over(program, rows, key, **how), BLANK)

    def without(self, suite: str, reason: str) -> None:
        """Log that a suite is left out."""
        self.hooks.log(suite, 0, {"left_out": reason})


def with_hooks(context: Context, hooks: Hooks) -> Context:
    """Return the context with other hooks."""
    return replace(context, hooks=hooks)


def rows_of(tree: T, rows: np.ndarray) -> T:
    """Return some rows of scores or policies as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)
