"""Suite `sequencing`: several behaviours in one episode, generated, nearest elite, and chosen by looking ahead."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.distillation.reader import grammar_of
from ldpol.evaluation.context import Context, Result
from ldpol.evaluation.intervals import Estimate
from ldpol.evaluation.sequence_metrics import compare_sequences, regions, summarise_sequences
from ldpol.evaluation.tables import Column, Row, Table, signed, write
from ldpol.language.captions import captions
from ldpol.language.claims import satisfied
from ldpol.planning.choosing import around, check_horizon, first, from_archive, from_generator, look_ahead
from ldpol.planning.sequencing import (
    SegmentScore,
    SequenceScore,
    draw_sequences,
    play_sequences,
    segment_steps,
    trace_sequence,
)
from ldpol.reference import TRAINED
from ldpol.rollout import RolloutConfig, over_chunks
from ldpol.settings import check, fail
from ldpol.tasks import Task
from ldpol.types import Key, Params, PyTree

SHOWN = ("survival", "mem", "fitness", "hits", "length", "look_ahead")
"""What goes into the metrics as a number and an interval; the arrays go in as lists."""
SPOKEN = ("survival", "fitness", "length")
"""What is compared where sentences, not measures, were asked for."""
LISTS = ("segment_mem", "reached", "segment_survival", "transitions")
FEWEST_LANES = 16
"""Narrower batches waste a CPU core."""
WAYS = {
    "generated": "one sample per segment",
    "lookahead": "best of several, looking ahead",
    "nearest_elite": "nearest elite",
}
"""Ways to find the policy of a segment, in reading order."""
DIFFERENCES = {
    "generated_less_nearest_elite": "One sample less nearest elite",
    "lookahead_less_generated": "Looking ahead less one sample",
    "lookahead_less_nearest_elite": "Looking ahead less nearest elite",
}
_NOTHING: Any = 0
BLANK = {
    "score": SequenceScore(_NOTHING, _NOTHING, SegmentScore(*(_NOTHING,) * 4), _NOTHING),
    "measures": _NOTHING,
    "alive": _NOTHING,
}


@dataclass(frozen=True)
class Sequencing:
    """Roll out the same random sequences with the same keys in several ways.

    Attributes:
      sequences: of different elites' measures.
      segments: per sequence; they divide the episode.
      episodes: per sequence.
      settle: steps after a switch in which measures do not count yet.
      candidates: to look ahead with, in turn; the last is compared with the blind sample.
      spread: how far from the target measures, scaled to [0, 1], candidates but the first may ask.
      quality: the least rank of fitness that they ask for.
      look_ahead_episodes: the first of the episodes: a look-ahead costs `candidates` times as much.
      horizon: steps to look ahead, beyond the segment too; None: the segment.
      tolerance: distances in the same multiple of it count as equal, so that reward decides.
      chunk: sequences per call of the compiled program.
      rollout: lanes of a device.
    """

    name: ClassVar[str] = "sequencing"
    sequences: int = 100
    segments: int = 4
    episodes: int = 50
    settle: int = 25
    candidates: tuple[int, ...] = (4, 20)
    spread: float = 0.4
    quality: float = 0.5
    look_ahead_episodes: int = 4
    horizon: int | None = 250
    tolerance: float = 0.0
    chunk: int = 20
    rollout: RolloutConfig = RolloutConfig()

    def __post_init__(self) -> None:
        """Check the settings."""
        counts = ("segments", "episodes", "look_ahead_episodes", "chunk", "candidates", "horizon")
        least = {"sequences": 2, "settle": 0, "spread": 0, "quality": 0, "tolerance": 0, **dict.fromkeys(counts, 1)}
        check(self, least=least, most={"quality": 1})
        if not self.candidates:
            fail(self, "candidates", "is empty; give at least one number of candidates, for instance (4,)")
        if self.look_ahead_episodes > self.episodes:
            problem = f"must be at most episodes = {self.episodes}, found {self.look_ahead_episodes}"
            fail(self, "look_ahead_episodes", f"{problem}: the look-ahead rolls out the first of the same episodes")

    def check_task(self, task: Task) -> None:
        """Raise `UserError` if sequences do not fit into episodes; where measures are no means, they are left out."""
        if task.is_mean_of_steps:
            steps = segment_steps(task, self.segments, self.settle)
            check_horizon(steps, self.settle, self.horizon)

    def run(self, context: Context) -> Result:
        """Measure; left out where the measures of a segment would not be those of an episode."""
        task, grid, count = context.task, context.archive.grid, self.sequences
        if not task.is_mean_of_steps:
            context.without(self.name, f"the measures of {task.name} are not means over steps: a segment has none")
            return Result({"sequencing": {}})
        measures = np.asarray(context.reference.measures)
        places = jnp.arange(len(measures))[:, None]
        elites = np.asarray(draw_sequences(context.key_for("sequencing/sequences"), places, count, self.segments))[
            ..., 0
        ]
        targets, number = measures[elites], np.arange(count, dtype=np.int32)

        # Samples and elites go through one program, a flag says which: physics takes long to compile.
        silent = np.full((count, self.segments, context.generator.words), np.nan, np.float32)
        ways = {"generated": (targets, silent, False), "nearest_elite": (targets, silent, True)}
        if context.generator.language is not None:
            texts, true_of = self._sentences(context, elites)
            ways |= {
                "spoken": (np.full_like(targets, np.nan), texts, False),
                "true": (measures[true_of], silent, True),
            }
        rows = {
            "target": np.concatenate([one for one, _, _ in ways.values()]),
            "text": np.concatenate([text for _, text, _ in ways.values()]),
            "elite": np.concatenate([np.full((count, self.segments), elite) for _, _, elite in ways.values()]),
        }
        title = "sequences: generated and nearest elites"
        every = self._roll_out(context, "sequences", title, self._blind(context), rows, np.tile(number, len(ways)))
        found = {
            name: jax.tree.map(lambda leaf: leaf[i * count : (i + 1) * count], every)  # noqa: B023
            for i, name in enumerate(ways)
        }
        ahead = {}
        for candidates in self.candidates:
            title, name = f"sequences: best of {candidates} samples, looking ahead", f"sequences_ahead_{candidates}"
            program = self._ahead(context, candidates)
            ahead[candidates] = self._roll_out(context, name, title, program, {"target": targets}, number)
        found["lookahead"] = ahead[self.candidates[-1]]

        steps = segment_steps(task, self.segments, self.settle)
        areas = regions(grid)
        judged = {"steps": steps, "within": grid.diagonal, "areas": areas}
        scores = {name: values["score"] for name, values in found.items()}
        result: dict[str, Any] = {
            "sequences": count,
            "segments": self.segments,
            "steps": steps,
            "settle": self.settle,
            "regions": areas.shape,
        }
        spoken = {name: scores.pop(name) for name in ("spoken", "true") if name in scores}
        for name, score in scores.items():
            result[name] = _plain(summarise_sequences(score, targets, **judged))  # type: ignore[arg-type]
            result[name]["episodes"] = int(score.length.shape[1])
        result["lookahead"]["candidates"] = self.candidates[-1]
        result["lookahead_by_candidates"] = [
            {"candidates": number} | _numbers(summarise_sequences(values["score"], targets, **judged))  # type: ignore[arg-type]
            for number, values in ahead.items()
        ]
        # The look-ahead rolled out the first of the same episodes.
        few = jax.tree.map(lambda leaf: leaf[:, : self.look_ahead_episodes], scores)
        pairs = (
            (scores["generated"], scores["nearest_elite"]),
            (scores["lookahead"], few["generated"]),
            (scores["lookahead"], few["nearest_elite"]),
        )
        for name, (one, other) in zip(DIFFERENCES, pairs, strict=True):
            less = compare_sequences(one, other, targets, **judged)  # type: ignore[arg-type]
            result[name] = {metric: less[metric].as_json() for metric in SHOWN}
        if spoken:
            result["language"] = _compare_spoken(spoken, targets, judged)
        arrays = {"targets": targets[0]}
        for name in scores:  # what happened in the first sequence
            values = found[name]
            arrays |= {f"{name}_measures": values["measures"][0], f"{name}_alive": values["alive"][0]}
        return Result({"sequencing": result}, arrays)

    def _roll_out(
        self,
        context: Context,
        name: str,
        title: str,
        program: Callable[[PyTree, Key], Any],
        rows: PyTree,
        numbers: np.ndarray,
    ) -> dict[str, Any]:
        mesh, count = context.player.mesh, len(numbers)

        def compute() -> dict[str, Any]:
            size = -(-self.chunk // mesh.size) * mesh.size
            with context.hooks.progress(title, count, "sequence") as done:
                key = context.key_for("sequencing")
                return over_chunks(program, rows, key, size=size, mesh=mesh, done=done, numbers=numbers)

        return context.cached(self, name, compute, BLANK)

    def _sentences(self, context: Context, elites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Describe elites `[S, K]`, each in a sentence of its own.

        Returns:
          What the model reads in the sentences `[S, K, L]`, and for each an elite that it is true of, at random
          `[S, K]`: what a user who looks for it in the archive might find.
        """
        traits = np.asarray(context.archive.traits)
        grammar = grammar_of(context.task, traits[context.split.kind == TRAINED])
        random = context.random("sequencing/sentences")
        spoken, true_of = [], []
        for place, row in enumerate(elites.reshape(-1).tolist()):
            spoken += captions(grammar, traits[row], count=1, seed=(13, place))
            holds = satisfied(spoken[-1].claims, grammar.levels.names, traits).all(-1)
            true_of.append(random.choice(np.flatnonzero(holds)))
        texts = np.asarray(context.generator.read([caption.text for caption in spoken]))
        return texts.reshape(*elites.shape, -1), np.reshape(true_of, elites.shape)

    def _lanes(self, candidates: int) -> int:
        return max(FEWEST_LANES, self.rollout.on(jax.default_backend()).lanes // candidates)

    def _blind(self, context: Context) -> Callable[[PyTree, Key], Any]:
        """Return the program of one sample per segment, or the nearest elite where the row's flag says so."""

        @jax.jit
        def program(model: Any, policies: Params, measures: Any, rows: PyTree, keys: Key) -> dict[str, Any]:
            def one(key: Key, request: PyTree) -> Params:
                silent = jnp.isnan(request["text"]).any() | (model.words == 0)
                guidance = jnp.where(silent, model.guidance, model.text_guidance)
                return model.sample(key, request["target"], text=request["text"], guidance=guidance)

            sample = from_generator(one, 1)
            elite = from_archive(policies, measures)

            def propose(key: Key, request: PyTree) -> Params:
                made, found = sample(key, request), elite(key, request["target"])
                return jax.tree.map(lambda one, other: jnp.where(request["elite"], other, one), made, found)

            return _traced(
                play_sequences(
                    context.task,
                    model.apply,
                    first(propose),
                    rows,
                    keys,
                    episodes=self.episodes,
                    settle=self.settle,
                    lanes=self._lanes(1),
                    mesh=context.player.mesh,
                    play=trace_sequence,
                )
            )

        # What is the same for all chunks is an argument, not a constant of the program.
        shared = (context.generator, context.archive.policies, jnp.asarray(context.reference.measures))
        return lambda rows, keys: program(*shared, rows, keys)

    def _ahead(self, context: Context, candidates: int) -> Callable[[PyTree, Key], Any]:
        """Return the program of the best of several looked-ahead samples per segment."""
        steps, grid = segment_steps(context.task, self.segments, self.settle), context.archive.grid

        @jax.jit
        def program(model: Any, rows: PyTree, keys: Key) -> dict[str, Any]:
            def sample(key: Key, measures: Any, quality: Any = None) -> Params:
                return model.sample(key, measures, quality=quality, impute=False)

            choose = look_ahead(
                context.task,
                model.apply,
                around(sample, candidates, self.spread, self.quality, grid.low, grid.high),
                steps=steps,
                settle=self.settle,
                horizon=self.horizon,
                follow=from_generator(sample, 1),
                tolerance=self.tolerance,
            )
            return _traced(
                play_sequences(
                    context.task,
                    model.apply,
                    choose,
                    rows["target"],
                    keys,
                    episodes=self.look_ahead_episodes,
                    settle=self.settle,
                    lanes=self._lanes(candidates),
                    mesh=context.player.mesh,
                    play=trace_sequence,
                )
            )

        return lambda rows, keys: program(context.generator, rows, keys)

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return one row per way of choosing policies, with intervals, and what their differences are."""
        found = metrics.get("sequencing") or {}
        if not found:
            return []
        columns = (
            Column("Survived", "of episodes", "percent"),
            Column("On target", "of segments", "percent"),
            Column("Target error", "MEM"),
            Column("Reward", "per episode", "count"),
            Column("Looked ahead", "steps per episode", "count"),
        )
        rows = []
        for way, name in WAYS.items():
            rows.append(_way(name, way == "generated", found.get(way) or {}))
            for less in found.get("lookahead_by_candidates", [])[:-1] if way == "lookahead" else []:
                rows.append(_way(name, False, less))
        lines = [
            f"{found.get('sequences')} random sequences of {found.get('segments')} behaviours, {found.get('steps')} "
            "steps each; all ways roll out the same sequences with the same keys."
        ]
        for key, text in DIFFERENCES.items():
            if key in found:
                survival, hits = (signed(found[key].get(name)) for name in ("survival", "hits"))
                lines.append(f"{text}: survival {survival}, on target {hits}.")
        if "language" in found:
            ways = (found["language"][name]["survival"]["value"] for name in ("generated", "elite"))
            made, elite = (write(value, "percent") for value in ways)
            less = signed(found["language"]["generated_less_elite"]["survival"])
            lines.append(
                f"The same elites asked for in sentences: {made} survived; of elites that the sentences are true of, "
                f"{elite} (difference {less})."
            )
        return [Table("Sequences of behaviours", columns, tuple(rows), " ".join(lines))]


def _way(name: str, main: bool, values: Mapping[str, Any]) -> Row:
    ends = values.get("intervals") or {}
    shown = [
        {
            "value": values.get(key),
            "low": (ends.get(key) or (None, None))[0],
            "high": (ends.get(key) or (None, None))[1],
        }
        for key in ("survival", "hits", "mem", "fitness")
    ]
    note = f"best of {values['candidates']}" if "candidates" in values else ""
    return Row(name.capitalize(), (*shown, values.get("look_ahead")), note, main)


def _compare_spoken(scores: dict[str, SequenceScore], targets: np.ndarray, judged: dict[str, Any]) -> dict[str, Any]:
    """Compare policies sampled from sentences with elites of which the sentences are true."""
    result: dict[str, Any] = {}
    for name, score in (("generated", scores["spoken"]), ("elite", scores["true"])):
        found = summarise_sequences(score, targets, **judged)  # type: ignore[arg-type]
        result[name] = {metric: found[metric].as_json() for metric in SPOKEN}
    found = compare_sequences(scores["spoken"], scores["true"], targets, **judged)  # type: ignore[arg-type]
    return result | {"generated_less_elite": {metric: found[metric].as_json() for metric in SPOKEN}}


def _traced(found: Any) -> dict[str, Any]:
    """Average the traces `[S, E, T, ...]` over the episodes that last: `measures` `[S, T, M]` and `alive` `[S, T]`."""
    score, trace = found
    lasting = trace.alive.sum(1)
    mean = trace.measures.sum(1) / jnp.maximum(lasting, 1)[..., None]
    return {"score": score, "measures": mean, "alive": lasting / trace.alive.shape[1]}


def _plain(found: dict[str, Estimate]) -> dict[str, Any]:
    """Return numbers, intervals beside them, and lists, as JSON values."""
    plain = {name: estimate.as_json() for name, estimate in found.items()}
    return _numbers(found) | {name: plain[name]["value"] for name in LISTS}


def _numbers(found: dict[str, Estimate]) -> dict[str, Any]:
    """Return the numbers among the metrics, and their intervals."""
    plain = {name: found[name].as_json() for name in SHOWN}
    intervals = {name: [plain[name]["low"], plain[name]["high"]] for name in SHOWN}
    return {name: plain[name]["value"] for name in SHOWN} | {"intervals": intervals}
