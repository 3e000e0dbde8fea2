"""What answers are made with: the model, the archive, the physics, and the compiled programs."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from ldpol import generator_file, precision, sample, storage
from ldpol.archive import Archive
from ldpol.errors import UserError
from ldpol.explore import elsewhere, programs
from ldpol.explore.programs import Asked
from ldpol.explore.requests import DRAWS, Limits, Wish, free
from ldpol.explore.source import Source, plain_arrays
from ldpol.language.reader import load_encoder
from ldpol.model import answering
from ldpol.report.filmstrip import encode_film
from ldpol.tasks import Task
from ldpol.types import Params, PyTree

ELITES = "elites"
"""Kind of the file of some of an archive's policies."""
START_SEED = 0
"""Decides the initial state of every film, and those of the ten episodes: what differs is the policy."""


class Stage:
    """Loads what a source names; programs are compiled when they are first needed, or ahead by `warm`.

    Attributes:
      source: what is explored.
      model: the generator, or None for an archive alone.
      task: with a skeleton.
      arrays: what is known of the elites, see `Source.arrays`.
      elites: policies of the elites that can be played, leading axis n; None if there are none.
      rows: `[n]` which elites these are.
      measures: `[n, M]` what they do.
      limits: what can be asked for.
      cell: `[M]` sides of a cell.
    """

    def __init__(self, source: Source, say: Callable[[str], None] = lambda text: None) -> None:
        """Load everything.

        Args:
          source: what is explored.
          say: called with what is under way.

        Raises:
          ValueError: if files are damaged or do not belong together, or the task cannot be drawn.
        """
        say("reading the model" if source.model else "reading the archive")
        self.source = source
        self.model = None if source.model is None else generator_file.load(source.model)
        archive = None if source.archive is None else elsewhere.load(source.archive, source.stated)
        known: Any = archive if self.model is None else self.model
        say(f"starting the physics of {known.task}")
        self.task: Task = sample.make_task(known)
        if self.task.skeleton is None:
            raise UserError(f"task {known.task!r} cannot be explored: it does not say how to draw its body")
        network = known.network if self.model is None else self.model.shape
        self.apply = network.apply
        self.arrays = source.arrays or _without_evaluation(known, archive, self.task)
        self.elites, self.rows = _playable(source, archive)
        self.measures = np.asarray(self.known("measures"), np.float64)[self.rows]
        self.cell = known.grid.sides * (np.asarray(known.grid.high) - np.asarray(known.grid.low))
        speaks = self.model is not None and self.model.language is not None
        self.limits = Limits(self.task.measure_names, known.grid.low, known.grid.high, speaks, self.model is not None)
        self._policy = network.abstract()
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._encoder: Any = None

    def known(self, name: str) -> NDArray[Any]:
        """Return "fitness" `[N]` or "measures" `[N, M]` of all elites: means where there are any, else as stored."""
        return self.arrays[f"reference_{name}" if f"reference_{name}" in self.arrays else f"stored_{name}"]

    @property
    def ways(self) -> tuple[str, ...]:
        """How the policies of a sequence can be chosen."""
        return ("blind", "nearest", "best") if len(self.rows) else ("blind", "best")

    # Compiled once for arguments of these shapes.

    def _compiled(self, name: Any, function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        if name not in self._programs:
            self._programs[name] = jax.jit(function).lower(*arguments).compile()
        return self._programs[name]

    def warm(self, what: str) -> None:
        """Compile what "films", "numbers" or "sequences" need; another thread may do so."""
        key, policy = jax.random.key(START_SEED), self._policy
        if what == "films":
            if self.model is not None:
                self._drawer(None, True)
            self._compiled("shoot", partial(programs.shoot, self.task, self.apply), _stacked(policy, DRAWS + 1), key)
        if what == "numbers":
            self._compiled("judge", partial(programs.judge, self.task, self.apply), policy, key)
        if what == "sequences" and self.model is not None:
            self._compiled("reset", self.task.reset, key)
            state, asked = jax.eval_shape(self.task.reset, key), self.asked(Wish((None,) * self.task.measures), None)
            arguments = (self.model, key, asked, state, (key, asked, np.asarray(True)))
            self._compiled("choose", partial(programs.choose, self.task), *arguments)
            count = len(self.ways)
            arguments = (_stacked(policy, count), _stacked(state, count), np.ones(count, bool))
            self._compiled("segment", partial(programs.segment, self.task, self.apply), *arguments)

    def _drawer(self, steps: int | None, verified: bool) -> Callable[..., Any]:
        asked, how = self.asked(Wish((None,) * self.task.measures), None), {"steps": steps, "verified": verified}
        program = partial(programs.draw, count=DRAWS, **how)
        return self._compiled(("draw", *how.values()), program, self.model, jax.random.key(0), asked)

    def draw(
        self, seed: int, asked: Asked, steps: int | None = None, verified: bool = True
    ) -> tuple[Params, answering.Source]:
        """Draw `DRAWS` policies that do it in different ways; see `programs.draw`."""
        return jax.tree.map(np.asarray, self._drawer(steps, verified)(self.model, jax.random.key(seed), asked))

    def nearest(self, wanted: NDArray[Any], count: int = 1) -> NDArray[Any]:
        """Return the places of the elites nearest to measures `[M]`, in cells; the fittest where all are NaN."""
        if np.isnan(wanted).all():
            return np.argsort(-np.asarray(self.known("fitness"))[self.rows], kind="stable")[:count]
        gap = np.where(np.isnan(wanted), 0.0, (self.measures - wanted) / self.cell)
        return np.argsort(np.linalg.norm(gap, axis=1), kind="stable")[:count]

    def shoot(self, policies: Params) -> Any:
        """Film `DRAWS + 1` policies from the same start."""
        arguments = (policies, jax.random.key(START_SEED))
        program = self._compiled("shoot", partial(programs.shoot, self.task, self.apply), *arguments)
        return jax.tree.map(np.asarray, program(*arguments))

    def judge(self, policy: Params) -> Any:
        """Play ten episodes of one policy; see `programs.judge`."""
        arguments = (policy, jax.random.key(START_SEED))
        program = self._compiled("judge", partial(programs.judge, self.task, self.apply), *arguments)
        return jax.tree.map(np.asarray, program(*arguments))

    def reset(self) -> PyTree:
        """Return the state that every film starts from."""
        key = jax.random.key(START_SEED)
        return jax.tree.map(np.asarray, self._compiled("reset", self.task.reset, key)(key))

    def choose(self, *arguments: Any) -> Params:
        """Choose the policy of a segment by looking ahead; see `programs.choose`."""
        program = self._compiled("choose", partial(programs.choose, self.task), self.model, *arguments)
        return jax.tree.map(np.asarray, program(self.model, *arguments))

    def segment(self, *arguments: Any) -> Any:
        """Film the next segment of one episode a way; see `programs.segment`."""
        program = self._compiled("segment", partial(programs.segment, self.task, self.apply), *arguments)
        return jax.tree.map(np.asarray, program(*arguments))

    # What needs no program.

    def read(self, text: str) -> NDArray[Any]:
        """Return how probable it is that a sentence makes each of the model's claims `[L]`.

        Raises:
          ValueError: if it says nothing that can be read.
        """
        assert self.model is not None and self.model.language is not None
        if self._encoder is None:
            self._encoder = load_encoder(self.model.language)
        return np.asarray(self.model.read([text], self._encoder)[0])

    def asked(self, wish: Wish, heard: NDArray[Any] | None, guidance: float | None = None) -> Asked:
        """Return a wish as arrays, `heard` being what was read of its sentence."""
        assert self.model is not None
        words = np.full(self.model.words, np.nan) if heard is None else heard
        usual = self.model.guidance if heard is None else self.model.text_guidance
        quality = math.nan if wish.quality is None else wish.quality
        values = (free(wish.measures), quality, words, usual if guidance is None else guidance)
        numbers: list[Any] = [np.asarray(value, np.float32) for value in values]
        return Asked(*numbers)

    def encode(self, shots: Any) -> dict[str, Any]:
        """Return a film for the page, up to where the episode ends."""
        skeleton, lived = self.task.skeleton, max(int(shots.alive.sum()), 1)
        assert skeleton is not None
        look = {"radii": skeleton.radii, "sides": skeleton.sides, "dt": self.task.dt}
        return encode_film(shots.ends[:lived], shots.measures[:lived], shots.rewards[:lived], **look)


def _stacked(tree: PyTree, count: int) -> PyTree:
    """The shapes of `count` of these."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), tree)


def _without_evaluation(known: Any, archive: Archive | None, task: Task) -> dict[str, NDArray[Any]]:
    """The arrays of a model or an archive that nobody evaluated."""
    none = np.zeros(0), np.zeros((0, task.measures))
    fitness, measures = none if archive is None else (np.asarray(archive.fitness), np.asarray(archive.measures))
    return plain_arrays(fitness, measures, known.grid.regular, task.measure_names)


def _playable(source: Source, archive: Archive | None) -> tuple[Params, NDArray[Any]]:
    """The elites that can be played, and which rows of the archive they are."""
    if archive is not None:
        return jax.tree.map(np.asarray, archive.policies), np.arange(len(archive))
    if source.elites is None or not source.elites.is_file():
        return None, np.zeros(0, int)
    arrays, _ = storage.load(source.elites, kind=ELITES)
    policies = jax.jit(jax.vmap(precision.expand))(arrays["policies"])
    return jax.tree.map(np.asarray, policies), np.asarray(arrays["rows"])
