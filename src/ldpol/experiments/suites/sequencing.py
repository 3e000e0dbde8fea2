"""Suite `sequencing`: several behaviours in one episode, generated, nearest elite, and chosen by looking ahead."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import storage
from ldpol.evaluation.choosing import around, first, from_archive, from_generator, look_ahead
from ldpol.evaluation.intervals import Estimate
from ldpol.evaluation.sequence_metrics import compare_sequences, regions, summarise_sequences
from ldpol.evaluation.sequencing import (
    SegmentScore,
    SequenceScore,
    draw_sequences,
    play_sequences,
    segment_steps,
    trace_sequence,
)
from ldpol.experiments import session, settings
from ldpol.experiments.reading import grammar_of
from ldpol.experiments.settings import Config, ConfigError
from ldpol.experiments.suites.context import Context, Program, at_least, renumber
from ldpol.language.captions import captions
from ldpol.language.claims import satisfied
from ldpol.rollout import RolloutConfig, policy_mesh
from ldpol.tasks import Task
from ldpol.types import Key, Params, PyTree

NEEDS = ("sequencing",)
SHOWN = ("survival", "mem", "fitness", "hits", "length", "look_ahead")
"""What goes into the metrics as a number and an interval; the arrays go in as lists."""
SPOKEN = ("survival", "fitness", "length")
"""What is compared where sentences, not measures, were asked for."""
LISTS = ("segment_mem", "reached", "segment_survival", "transitions")
FEWEST_LANES = 16
"""Narrower batches waste a CPU core."""


def check(config: Config, task: Task) -> None:
    """Raise an error if sequences do not fit into episodes, or there is nothing to play."""
    section = config.eval.sequencing
    least = {"sequences": 2, "episodes": 1, "look_ahead_episodes": 1, "chunk": 1, "spread": 0.0, "quality": 0.0}
    at_least(section, "eval.sequencing", **least)
    if not section.candidates or min(section.candidates) < 1:
        raise ConfigError(
            f"eval.sequencing.candidates must name numbers of candidates, each at least 1, found {section.candidates}"
        )
    if section.quality > 1:
        raise ConfigError(f"eval.sequencing.quality is a rank of fitness in [0, 1], found {section.quality:g}")
    if section.look_ahead_episodes > section.episodes:
        raise ConfigError(
            f"eval.sequencing.look_ahead_episodes = {section.look_ahead_episodes} must be at most episodes = "
            f"{section.episodes}: the look-ahead plays the first of the same episodes"
        )
    steps = segment_steps(task, section.segments, section.settle)
    look_ahead(task, _no_policy, _no_proposal, steps=steps, settle=section.settle, horizon=section.horizon)


def run(context: Context) -> dict[str, Any]:
    """Play the same random sequences with the same keys in three ways; also writes `eval/sequencing.npz`."""
    section, task, grid = context.config.eval.sequencing, context.task, context.archive.grid
    measures, count = np.asarray(context.reference.measures), section.sequences
    places = jnp.arange(len(measures))[:, None]
    elites = np.asarray(draw_sequences(context.key(10), places, count, section.segments))[..., 0]
    wanted, number = measures[elites], np.arange(count, dtype=np.int32)
    how = {"size": _chunk(section.chunk), "unit": "sequence", "restore": _restore}

    # Samples and elites go through one program, a flag says which: physics takes long to compile.
    silent = np.full((count, section.segments, context.generator.words), np.nan, np.float32)
    asked = {"generated": (wanted, silent, False), "nearest_elite": (wanted, silent, True)}
    if context.generator.language is not None:
        texts, true_of = _sentences(context, elites)
        asked |= {"spoken": (np.full_like(wanted, np.nan), texts, False), "true": (measures[true_of], silent, True)}
    rows = {
        "wanted": np.concatenate([one for one, _, _ in asked.values()]),
        "text": np.concatenate([text for _, text, _ in asked.values()]),
        "elite": np.concatenate([np.full((count, section.segments), elite) for _, _, elite in asked.values()]),
        "pair": np.tile(number, len(asked)),
    }
    title = "sequences: generated and nearest elites"
    every = context.keep("sequences", title, _blind(context), rows, context.key(11), NEEDS, **how)
    played = {
        name: jax.tree.map(lambda leaf: leaf[i * count : (i + 1) * count], every)  # noqa: B023
        for i, name in enumerate(asked)
    }
    rows = {"wanted": wanted, "pair": number}
    ahead = {}
    for candidates in section.candidates:
        title, name = f"sequences: best of {candidates} samples, looking ahead", f"sequences_ahead_{candidates}"
        program = _ahead(context, candidates)
        ahead[candidates] = context.keep(name, title, program, rows, context.key(11), NEEDS, **how)
    played["lookahead"] = ahead[section.candidates[-1]]

    steps = segment_steps(task, section.segments, section.settle)
    areas = regions(grid)
    judged = {"steps": steps, "within": grid.diagonal, "areas": areas}
    scores = {name: values["score"] for name, values in played.items()}
    result: dict[str, Any] = {
        "sequences": count,
        "segments": section.segments,
        "steps": steps,
        "settle": section.settle,
        "regions": areas.shape,
    }
    spoken = {name: scores.pop(name) for name in ("spoken", "true") if name in scores}
    for name, score in scores.items():
        result[name] = _plain(summarise_sequences(score, wanted, **judged))  # type: ignore[arg-type]
        result[name]["episodes"] = int(score.length.shape[1])
    result["lookahead"]["candidates"] = section.candidates[-1]
    result["lookahead_by_candidates"] = [
        {"candidates": candidates} | _numbers(summarise_sequences(values["score"], wanted, **judged))  # type: ignore[arg-type]
        for candidates, values in ahead.items()
    ]
    # The look-ahead played the first of the same episodes.
    few = jax.tree.map(lambda leaf: leaf[:, : section.look_ahead_episodes], scores)
    for name, one, other in (
        ("generated_less_nearest_elite", scores["generated"], scores["nearest_elite"]),
        ("lookahead_less_generated", scores["lookahead"], few["generated"]),
        ("lookahead_less_nearest_elite", scores["lookahead"], few["nearest_elite"]),
    ):
        found = compare_sequences(one, other, wanted, **judged)  # type: ignore[arg-type]
        result[name] = {metric: found[metric].as_json() for metric in SHOWN}
    if spoken:
        result["language"] = _compare_spoken(spoken, wanted, judged)
    _write_traces(context, wanted, {name: played[name] for name in scores})
    _say(result)
    return {"sequencing": result}


def _sentences(context: Context, elites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Describe elites `[S, K]`, each in a sentence of its own.

    Returns:
      What the model reads in the sentences `[S, K, L]`, and for each an elite that it is true of, at random `[S, K]`:
      what a user who looks for it in the archive might find.
    """
    grammar = grammar_of(context.task, context.traits[context.kind == 0])
    random = np.random.default_rng([context.config.seed, 13])
    said, true_of = [], []
    for place, row in enumerate(elites.reshape(-1).tolist()):
        said += captions(grammar, context.traits[row], count=1, seed=(13, place))
        holds = satisfied(said[-1].claims, grammar.levels.names, context.traits).all(-1)
        true_of.append(random.choice(np.flatnonzero(holds)))
    texts = np.asarray(context.generator.read([caption.text for caption in said]))
    return texts.reshape(*elites.shape, -1), np.reshape(true_of, elites.shape)


def _compare_spoken(scores: dict[str, SequenceScore], wanted: np.ndarray, judged: dict[str, Any]) -> dict[str, Any]:
    """Compare policies sampled from sentences with elites of which the sentences are true."""
    result: dict[str, Any] = {}
    for name, score in (("generated", scores["spoken"]), ("elite", scores["true"])):
        found = summarise_sequences(score, wanted, **judged)  # type: ignore[arg-type]
        result[name] = {metric: found[metric].as_json() for metric in SPOKEN}
    found = compare_sequences(scores["spoken"], scores["true"], wanted, **judged)  # type: ignore[arg-type]
    return result | {"generated_less_elite": {metric: found[metric].as_json() for metric in SPOKEN}}


def _no_policy(params: Params, observation: Any) -> Any:
    raise AssertionError("only the settings are checked")


def _no_proposal(key: Key, wanted: PyTree) -> Params:
    raise AssertionError("only the settings are checked")


def _chunk(wanted: int) -> int:
    """Round up to a multiple of the devices."""
    devices = policy_mesh().size
    return -(-wanted // devices) * devices


def _lanes(context: Context, candidates: int) -> int:
    device = settings.build(RolloutConfig, context.config.rollout.device)
    lanes = device.on(jax.default_backend()).lanes
    return max(FEWEST_LANES, lanes // candidates)


def _blind(context: Context) -> Program[dict[str, Any]]:
    """Return the program that plays one sample a segment, or the nearest elite where the row's flag says so."""
    section, mesh = context.config.eval.sequencing, policy_mesh()

    @jax.jit
    def program(model: Any, policies: Params, measures: Any, key: Key, rows: PyTree) -> dict[str, Any]:
        def one(key: Key, asked: PyTree) -> Params:
            silent = jnp.isnan(asked["text"]).any() | (model.words == 0)
            guidance = jnp.where(silent, model.guidance, model.text_guidance)
            return model.sample(key, asked["wanted"], text=asked["text"], guidance=guidance)

        sample = from_generator(one, 1)
        elite = from_archive(policies, measures)

        def propose(key: Key, asked: PyTree) -> Params:
            made, found = sample(key, asked), elite(key, asked["wanted"])
            return jax.tree.map(lambda one, other: jnp.where(asked["elite"], other, one), made, found)

        asked = {name: rows[name] for name in ("wanted", "text", "elite")}
        return _traced(
            play_sequences(
                context.task,
                model.apply,
                first(propose),
                asked,
                renumber(key, rows["pair"]),
                episodes=section.episodes,
                settle=section.settle,
                lanes=_lanes(context, 1),
                mesh=mesh,
                play=trace_sequence,
            )
        )

    measures = jnp.asarray(context.reference.measures)
    # What is the same for all chunks is an argument, not a constant of the program.
    return lambda rows, keys: program(context.generator, context.archive.policies, measures, context.key(12), rows)


def _ahead(context: Context, candidates: int) -> Program[dict[str, Any]]:
    """Return the program that plays the best of several looked-ahead samples a segment."""
    section, mesh = context.config.eval.sequencing, policy_mesh()
    steps = segment_steps(context.task, section.segments, section.settle)

    grid = context.archive.grid

    @jax.jit
    def program(model: Any, key: Key, rows: PyTree) -> dict[str, Any]:
        def sample(key: Key, measures: Any, quality: Any = None) -> Params:
            return model.sample(key, measures, quality=quality, complete=False)

        choose = look_ahead(
            context.task,
            model.apply,
            around(sample, candidates, section.spread, section.quality, grid.low, grid.high),
            steps=steps,
            settle=section.settle,
            horizon=section.horizon,
            follow=from_generator(sample, 1),
            tolerance=section.tolerance,
        )
        return _traced(
            play_sequences(
                context.task,
                model.apply,
                choose,
                rows["wanted"],
                renumber(key, rows["pair"]),
                episodes=section.look_ahead_episodes,
                settle=section.settle,
                lanes=_lanes(context, candidates),
                mesh=mesh,
                play=trace_sequence,
            )
        )

    return lambda rows, keys: program(context.generator, context.key(12), rows)


def _traced(played: Any) -> dict[str, Any]:
    """Average the traces `[S, E, T, ...]` over the episodes that last: `measures` `[S, T, M]` and `alive` `[S, T]`."""
    score, trace = played
    lasting = trace.alive.sum(1)
    mean = trace.measures.sum(1) / jnp.maximum(lasting, 1)[..., None]
    return {"score": score, "measures": mean, "alive": lasting / trace.alive.shape[1]}


def _restore(arrays: dict[str, Any]) -> dict[str, Any]:
    score = arrays["score"]
    return arrays | {"score": SequenceScore(**score | {"segments": SegmentScore(**score["segments"])})}


def _plain(found: dict[str, Estimate]) -> dict[str, Any]:
    """Return numbers, intervals beside them, and lists, as JSON values."""
    plain = {name: estimate.as_json() for name, estimate in found.items()}
    return _numbers(found) | {name: plain[name]["value"] for name in LISTS}


def _numbers(found: dict[str, Estimate]) -> dict[str, Any]:
    """Return the numbers among the metrics, and their intervals."""
    plain = {name: found[name].as_json() for name in SHOWN}
    intervals = {name: [plain[name]["low"], plain[name]["high"]] for name in SHOWN}
    return {name: plain[name]["value"] for name in SHOWN} | {"intervals": intervals}


def _write_traces(context: Context, wanted: np.ndarray, played: dict[str, dict[str, Any]]) -> None:
    """Keep what happened in the first sequence, for the report."""
    arrays = {"targets": wanted[0]}
    for name, values in played.items():
        arrays |= {f"{name}_measures": values["measures"][0], f"{name}_alive": values["alive"][0]}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    storage.write_bytes(context.workdir / "eval" / "sequencing.npz", buffer.getvalue())


def _say(result: dict[str, Any]) -> None:
    names = ("generated", "lookahead", "nearest_elite")
    columns = ("survival", "mem", "fitness", "hits")
    lines = ["sequences         " + "".join(f"{name:>16}" for name in columns)]
    shown = lambda value: f"{value:16.3f}" if value is not None else f"{'–':>16}"  # noqa: E731
    lines += [f"{name:18}" + "".join(shown(result[name][column]) for column in columns) for name in names]
    few = result["lookahead_by_candidates"][:-1]
    lines += [f"  best of {row['candidates']:<8}" + "".join(shown(row[column]) for column in columns) for row in few]
    if "language" in result:
        ways = (result["language"][name]["survival"]["value"] for name in ("generated", "elite"))
        lines.append("from sentences     survival {:.3f}; of elites they are true of, {:.3f}".format(*ways))
    session.say("\n".join(lines))
