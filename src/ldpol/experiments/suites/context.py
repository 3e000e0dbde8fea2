"""What every suite of the evaluate stage works with: the run's files, one program that plays, results kept on disk."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from ldpol import archive as archives
from ldpol import generator as generators
from ldpol import storage
from ldpol.archive import Archive
from ldpol.evaluation.reconstruction import sample_policies
from ldpol.experiments import passes, session, settings
from ldpol.experiments.settings import Config
from ldpol.experiments.train import held_out
from ldpol.generator import PolicyGenerator
from ldpol.rollout import copied_to, policy_mesh, split_over
from ldpol.tasks import Task
from ldpol.types import Array, Behaviour, Key, Params, PyTree, Score

SECTIONS = ("seed", "task", "policy", "eval")
T = TypeVar("T")
Program = Callable[[PyTree, Key], T]
"""`(rows, keys) -> results`, all with the same leading axis."""
Sample = Callable[[PolicyGenerator, Key, PyTree], Params]
"""`(generator, key, request) -> policy`."""


def plainly(model: PolicyGenerator, key: Key, measures: Array) -> Params:
    """Sample a policy for measures `[M]` with the generator's own settings."""
    return model.sample(key, measures)


@functools.cache
def drawing(sample: Sample) -> Callable[[PolicyGenerator, PyTree, Key], Params]:
    """Return the compiled `(generator, requests, keys) -> policies`, one policy a request, split over the devices."""
    # The generator is an argument, not a constant of the program: the program then fits any generator.
    return jax.jit(
        lambda model, requests, keys: sample_policies(lambda key, one: sample(model, key, one), requests, keys),
        out_shardings=split_over(policy_mesh()),
    )


@jax.jit
def renumber(key: Key, pair: Array) -> Key:
    """Return keys `[R]` by the numbers `pair` `[R]` of the rows: the same for rows of the same number."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, pair)


@dataclasses.dataclass(frozen=True)
class Context:
    """A trained generator, the archive it was trained on, and how to play and keep things.

    Attributes:
      config: the whole config.
      workdir: the run's folder.
      task: the task.
      archive: the archive, N elites.
      generator: the generator, copied to all devices.
      reference: `[N]` mean scores of the elites played again.
      traits: `[N, C]` how they behaved then.
      kind: `[N]` which elites training saw, see `held_out`.
      box: corners of the box that training left out; empty tuples without one.
      identity: fingerprints of archive and model.
      play: `(policies, keys) -> Behaviour`, compiled once for all suites: physics takes long to compile.
      timer: of the suite that runs.
    """

    config: Config
    workdir: Path
    task: Task
    archive: Archive
    generator: PolicyGenerator
    reference: Score
    traits: np.ndarray
    kind: np.ndarray
    box: tuple[tuple[float, ...], tuple[float, ...]]
    identity: dict[str, str]
    play: Program[Behaviour]
    timer: session.Timer

    def key(self, number: int) -> Key:
        """Return the key of a stage or suite: 0 to 3 are taken, by search, training, reconstruction, reference."""
        return jax.random.fold_in(jax.random.key(self.config.seed), number)

    def about(self, *needs: str) -> dict[str, Any]:
        """Return what results depend on, with only those keys of `config.eval` that are named."""
        json = settings.as_json(self.config, *SECTIONS)
        return {"config": json | {"eval": {name: json["eval"][name] for name in needs}}, **self.identity}

    def keep(
        self, name: str, title: str, program: Program[T], inputs: PyTree, key: Key, needs: tuple[str, ...], **how: Any
    ) -> T:
        """Run a program over all rows, or read what an earlier run left in `eval/passes/NAME`; see `passes.run`."""
        path, about = self.workdir / "eval" / "passes" / name, self.about(*needs)
        return passes.run(self.config, path, f"evaluate: {title}", program, inputs, key, about, self.timer, **how)

    def asking(self, sample: Sample, pairs: bool = False) -> Program[Behaviour]:
        """Return the program that samples one policy a request and plays it.

        Args:
          sample: `(generator, key, request) -> policy`; a function of a module, so that it is compiled once.
          pairs: whether requests are dicts whose `pair` `[]` numbers them; then rows of one number share their random
            numbers, for sampling and for playing, whatever else they ask for.
        """
        draw = drawing(sample)

        def program(requests: PyTree, keys: Key) -> Behaviour:
            if pairs:
                keys = renumber(self.key(9), requests["pair"])
            return self.play(draw(self.generator, requests, keys), keys)

        return program

    def rows(self, score: Score, rows: np.ndarray) -> Score:
        """Return some rows of scores as NumPy arrays."""
        return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], score)

    def choose(self, count: int, number: int) -> np.ndarray:
        """Choose elites at random, without repetition, in order: at most `count` rows `[n]`."""
        order = np.random.default_rng([self.config.seed, number]).permutation(len(self.archive))
        return np.sort(order[:count])


def open_run(config: Config, workdir: Path) -> Context:
    """Read archive, generator and reference of a run, and check that they belong together.

    Raises:
      FileNotFoundError: if archive or generator are missing.
      ConfigError: if they do not belong together, or the folder holds scores of other settings.
    """
    archive = archives.load(workdir / "archive" / "elites")
    generator = generators.load(workdir / "model")
    task, shape, _ = session.make_setting(config)
    archives.check_task(archive, task)
    if (generator.task, generator.shape, generator.grid) != (archive.task, archive.shape, archive.grid):
        raise settings.ConfigError(
            f"the generator in {workdir / 'model'} (of {generator.task}, policies {generator.shape}) does not belong "
            f"to the archive (of {archive.task}, policies {archive.shape}); run the train stage again"
        )
    identity = {
        "archive": storage.fingerprint(workdir / "archive" / "elites"),
        "model": storage.digest(workdir / "model"),
    }
    trained = storage.read_json(workdir / "train" / "metrics.json")
    if trained["archive"] != identity["archive"]:
        raise settings.ConfigError(
            f"the generator in {workdir / 'model'} was trained on another archive than {workdir / 'archive'} "
            f"holds now; delete {workdir / 'train'} and run the train stage again"
        )
    passes.check(workdir / "eval" / "passes", config, SECTIONS)
    # What training really held out, whatever the config says now.
    out = trained["config"]["train"]["held_out"]
    low, high = tuple(out["low"]), tuple(out["high"])
    again = passes.reference(config, workdir, archive)
    return Context(
        config=config,
        workdir=workdir,
        task=task,
        archive=archive,
        generator=jax.device_put(generator, copied_to(policy_mesh())),
        reference=again.score,
        traits=np.asarray(again.traits),
        kind=held_out(archive, trained["seed"], out["fraction"], low, high),
        box=(low, high),
        identity=identity,
        play=passes.player(config, task, shape),
        timer=session.Timer(),
    )


def at_least(section: Config, path: str, **least: float) -> None:
    """Raise `ConfigError` if a number of a config section is smaller than it must be."""
    for name, bound in least.items():
        if section[name] < bound:
            raise settings.ConfigError(f"{path}.{name} must be at least {bound:g}, found {section[name]}")
