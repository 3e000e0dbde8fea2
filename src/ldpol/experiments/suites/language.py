"""Suite `language`: say what an elite does, sample a policy from the sentence alone, and check every claim."""

from typing import Any

import jax
import numpy as np

from ldpol.evaluation.satisfaction import by_chance, by_trait, checked, rate, understood
from ldpol.experiments import session
from ldpol.experiments.reading import grammar_of
from ldpol.experiments.settings import Config
from ldpol.experiments.suites.context import Context, at_least
from ldpol.generator import PolicyGenerator
from ldpol.language.captions import Caption, captions
from ldpol.language.claims import satisfied
from ldpol.language.understanding import describe_understanding
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params

NEEDS = ("episodes", "language")
SPLITS = ("train", "held_out")


def check(config: Config, task: Task) -> None:
    """Raise `ConfigError` if there is nothing to say."""
    at_least(config.eval.language, "eval.language", elites=2, ranks=2, draws=1, examples=0)


def _spoken(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, text=request["text"], guidance=model.text_guidance)


def _ranked(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, quality=request["quality"])


def run(context: Context) -> dict[str, Any]:
    """Caption the same elites in phrasings of training and in others, and ask for ranks of fitness alone."""
    if context.generator.language is None:
        session.say("language: left out, the model was trained without (train.language.captions)")
        return {"language": {}, "quality": []}
    return {"language": _language(context), "quality": _quality(context)}


def _language(context: Context) -> dict[str, Any]:
    section, task, model = context.config.eval.language, context.task, context.generator
    language = model.language
    assert language is not None
    grammar = grammar_of(task, context.traits[context.kind == 0])
    names = grammar.levels.names
    rows = context.choose(section.elites, 20)
    said: dict[str, list[Caption]] = {
        split: [captions(grammar, context.traits[row], count=1, seed=(21, int(row)), split=split)[0] for row in rows]  # type: ignore[arg-type]
        for split in SPLITS
    }
    both = [caption for split in SPLITS for caption in said[split]]
    read = np.asarray(model.read([caption.text for caption in both]))
    # The same elite, and the same random numbers, whatever the words.
    requests = {"text": read, "pair": np.tile(np.arange(len(rows), dtype=np.int32), 2)}
    title = "policies from captions, of training phrasings and others"
    spoken = context.keep("language", title, context.asking(_spoken, pairs=True), requests, context.key(20), NEEDS)
    elites = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], context.archive.policies)
    title = "the captions' own elites, again"
    again = context.keep("language_ceiling", title, context.play, elites, context.key(21), NEEDS)

    count = len(rows)
    result: dict[str, Any] = {"captions": count}
    for i, split in enumerate(SPLITS):
        part = slice(i * count, (i + 1) * count)
        traits = np.asarray(spoken.traits)[part]
        found = rate(checked(said[split], names, traits))
        top = rate(checked(said[split], names, again.traits))
        result |= {
            f"{split}_satisfaction": found["value"],
            split: found
            | {
                "ceiling": top,
                "chance": rate(by_chance(said[split], names, context.traits)),
                "of_ceiling": found["value"] / top["value"],
                "understood": understood(said[split], language.claims, read[part]),
                "reward_ratio": float(np.mean(np.asarray(spoken.score.fitness)[part]) / np.mean(again.score.fitness)),
                "by_trait": by_trait(said[split], names, traits),
            },
        }
    result["ceiling"], result["chance"] = (
        float(np.mean([result[split][name]["value"] for split in SPLITS])) for name in ("ceiling", "chance")
    )
    result["examples"] = [
        _example(said[split][k], language.claims, read[i * count + k], names, np.asarray(spoken.traits)[i * count + k])
        for i, split in enumerate(SPLITS)
        for k in range(min(section.examples, count))
    ]
    _say(result)
    return result


def _example(caption: Caption, known: Any, read: np.ndarray, names: tuple[str, ...], traits: np.ndarray) -> dict:
    """A caption, what the model understood, and what became of each claim."""
    reached = dict(zip(names, traits.tolist(), strict=True))
    holds = satisfied(caption.claims, names, traits).tolist()
    claims = [
        {
            "trait": claim.trait,
            "low": claim.low if np.isfinite(claim.low) else None,
            "high": claim.high if np.isfinite(claim.high) else None,
            "reached": reached[claim.trait],
            "holds": held,
        }
        for claim, held in zip(caption.claims, holds, strict=True)
    ]
    return {"text": caption.text, "understood": describe_understanding(known, read), "claims": claims}


def _quality(context: Context) -> list[dict[str, float]]:
    """Ask for ranks of fitness and nothing else: which fitness comes out, as a value and as a rank among elites."""
    section = context.config.eval.language
    asked = (np.arange(section.ranks, dtype=np.float32) + 0.5) / section.ranks
    requests = {
        "quality": np.repeat(asked, section.draws),
        "pair": np.tile(np.arange(section.draws, dtype=np.int32), section.ranks),
    }
    title = "policies by rank of fitness alone"
    played = context.keep("quality", title, context.asking(_ranked, pairs=True), requests, context.key(22), NEEDS)
    known = np.sort(np.asarray(context.reference.fitness)[context.kind == 0])
    fitness = np.asarray(played.score.fitness).reshape(section.ranks, section.draws)
    rank = np.searchsorted(known, fitness) / len(known)
    rows = [
        {"asked": float(q), "reached": float(r.mean()), "fitness": float(f.mean()), "elites": float(e)}
        for q, r, f, e in zip(asked, rank, fitness, np.quantile(known, asked), strict=True)
    ]
    lines = ["rank of fitness       asked    reached    fitness     elites"]
    lines += [
        f"{'':18}{row['asked']:9.2f}{row['reached']:11.2f}{row['fitness']:11.1f}{row['elites']:11.1f}" for row in rows
    ]
    session.say("\n".join(lines))
    return rows


def _say(result: dict[str, Any]) -> None:
    columns = ("satisfied", "of ceiling", "chance", "understood")
    lines = ["captions          " + "".join(f"{name:>14}" for name in columns)]
    for split in SPLITS:
        part = result[split]
        values = (part["value"], part["of_ceiling"], part["chance"]["value"], part["understood"]["recall"])
        lines.append(f"{split:18}" + "".join(f"{value:14.3f}" for value in values))
    session.say("\n".join(lines))
