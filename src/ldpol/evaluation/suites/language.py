"""Suite `language`: say what an elite does, sample a policy from the sentence alone, and check every claim."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from ldpol.distillation.reader import grammar_of
from ldpol.evaluation.context import Context, Result
from ldpol.evaluation.satisfaction import by_chance, by_trait, checked, rate, understood
from ldpol.evaluation.tables import Column, Row, Table, is_number, write
from ldpol.generator import PolicyGenerator
from ldpol.language.captions import Caption, captions
from ldpol.language.claims import satisfied
from ldpol.language.understanding import describe_understanding
from ldpol.reference import TRAINED
from ldpol.settings import check
from ldpol.tasks import Task
from ldpol.types import Array, Key, Params

SPLITS = ("train", "held_out")
NAMES = {
    "train": ("Phrasings of training", "words and sentence frames the model learnt from"),
    "held_out": ("Phrasings never seen", "synonyms and frames kept out of training"),
}


@dataclass(frozen=True)
class Sentences:
    """Caption the same elites in phrasings of training and in others, and ask for ranks of fitness alone.

    Attributes:
      elites: that are described, each in a sentence of its own.
      ranks: of fitness that are asked for.
      draws: policies per rank.
      examples: captions that are shown with what became of them.
    """

    name: ClassVar[str] = "language"
    elites: int = 256
    ranks: int = 5
    draws: int = 51
    examples: int = 6

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"elites": 2, "ranks": 2, "draws": 1, "examples": 0})

    def check_task(self, task: Task) -> None:
        """Every task will do; a model without language is left out."""

    def run(self, context: Context) -> Result:
        """Measure."""
        if context.generator.language is None:
            context.without(self.name, "the model was trained without (train.language.captions)")
            return Result({"language": {}, "quality": []})
        return Result({"language": self._captions(context), "quality": self._ranks(context)})

    def _captions(self, context: Context) -> dict[str, Any]:
        model, traits = context.generator, np.asarray(context.archive.traits)
        language = model.language
        assert language is not None
        grammar = grammar_of(context.task, traits[context.split.kind == TRAINED])
        names = grammar.levels.names
        rows = context.choose(self.elites, "language/elites")
        written: dict[str, list[Caption]] = {
            split: [captions(grammar, traits[row], count=1, seed=(21, int(row)), split=split)[0] for row in rows]  # type: ignore[arg-type]
            for split in SPLITS
        }
        both = [caption for split in SPLITS for caption in written[split]]
        read = np.asarray(model.read([caption.text for caption in both]))
        # The same elite, and the same random numbers, whatever the words.
        pair = np.tile(np.arange(len(rows), dtype=np.int32), 2)
        title = "policies from captions, of training phrasings and others"
        spoken = context.sample(self, "language", title, _spoken, {"text": read}, context.key_for("language"), pair)
        elites = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], context.archive.policies)
        title = "the captions' own elites, again"
        ceiling = context.evaluate(self, "language_ceiling", title, elites, context.key_for("language/elites again"))

        count = len(rows)
        result: dict[str, Any] = {"captions": count}
        for i, split in enumerate(SPLITS):
            part = slice(i * count, (i + 1) * count)
            own = np.asarray(spoken.traits)[part]
            found = rate(checked(written[split], names, own))
            top = rate(checked(written[split], names, ceiling.traits))
            result |= {
                f"{split}_satisfaction": found["value"],
                split: found
                | {
                    "ceiling": top,
                    "chance": rate(by_chance(written[split], names, traits)),
                    "of_ceiling": found["value"] / top["value"],
                    "understood": understood(written[split], language.claims, read[part]),
                    "reward_ratio": float(
                        np.mean(np.asarray(spoken.score.fitness)[part]) / np.mean(ceiling.score.fitness)
                    ),
                    "by_trait": by_trait(written[split], names, own),
                },
            }
        result["ceiling"], result["chance"] = (
            float(np.mean([result[split][name]["value"] for split in SPLITS])) for name in ("ceiling", "chance")
        )
        reached = np.asarray(spoken.traits)
        result["examples"] = [
            _example(written[split][k], language.claims, read[i * count + k], names, reached[i * count + k])
            for i, split in enumerate(SPLITS)
            for k in range(min(self.examples, count))
        ]
        return result

    def _ranks(self, context: Context) -> list[dict[str, float]]:
        """Ask for ranks of fitness and nothing else: which fitness comes out, as a value and as a rank among elites."""
        ranks = (np.arange(self.ranks, dtype=np.float32) + 0.5) / self.ranks
        requests = {"quality": np.repeat(ranks, self.draws)}
        pair = np.tile(np.arange(self.draws, dtype=np.int32), self.ranks)
        title = "policies by rank of fitness alone"
        found = context.sample(self, "quality", title, _ranked, requests, context.key_for("language/ranks"), pair)
        known = np.sort(np.asarray(context.reference.fitness)[context.split.kind == TRAINED])
        fitness = np.asarray(found.score.fitness).reshape(self.ranks, self.draws)
        rank = np.searchsorted(known, fitness) / len(known)
        return [
            {"asked": float(q), "reached": float(r.mean()), "fitness": float(f.mean()), "elites": float(e)}
            for q, r, f, e in zip(ranks, rank, fitness, np.quantile(known, ranks), strict=True)
        ]

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return one row per split, example captions with what became of each claim, and one row per rank."""
        found, ranks = metrics.get("language") or {}, metrics.get("quality") or []
        made = []
        if found:
            made.append(_claims_table(found))
            if found.get("examples"):
                made.append(_examples_table(found["examples"]))
        if ranks:
            columns = (
                Column("Rank reached", "among elites", ".2f"),
                Column("Fitness", "generated", "count"),
                Column("Fitness", "of that rank", "count"),
            )
            rows = tuple(
                Row(
                    f"Rank {write(one['asked'], '.2f')}",
                    (one["reached"], one["fitness"], one["elites"]),
                    "asked for, and nothing else",
                )
                for one in ranks
                if is_number(one.get("asked"))
            )
            made.append(Table("Fitness on demand", columns, rows))
        return made


def _claims_table(found: Mapping[str, Any]) -> Table:
    columns = (
        Column("Claims satisfied", "of all", "percent"),
        Column("Of the elites' own", "the ceiling", "percent"),
        Column("By chance", "a random elite", "percent"),
        Column("Whole captions", "every claim holds", "percent"),
        Column("Understood", "of claims", "percent"),
    )
    rows = []
    for split in SPLITS:
        part, (name, note) = found[split], NAMES[split]
        own = {end: part[end] for end in ("value", "low", "high")}
        values = (own, part["of_ceiling"], part["chance"]["value"], part["whole"], part["understood"]["recall"])
        rows.append(Row(name, values, note, split == "train"))
    text = (
        f"{found['captions']} elites, each described in a sentence of its own; a policy is sampled from the sentence "
        "alone, and every claim is checked against what that policy does."
    )
    return Table("Language", columns, tuple(rows), text)


def _examples_table(examples: list[Mapping[str, Any]]) -> Table:
    columns = (Column("Read as", "by the model"), Column("Reached", "mean of the episodes"))
    rows = []
    for one in examples:
        claims = [
            f"{'✓' if claim['holds'] else '✗'} {claim['trait']} {write(claim['reached'], '.2f')}"
            for claim in one["claims"]
        ]
        held = f"{sum(claim['holds'] for claim in one['claims'])} of {len(one['claims'])} claims hold"
        rows.append(Row(one["text"], (one["understood"], claims), held))
    return Table("Captions", columns, tuple(rows))


def _spoken(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, text=request["text"], guidance=model.text_guidance)


def _ranked(model: PolicyGenerator, key: Key, request: dict[str, Array]) -> Params:
    return model.sample(key, quality=request["quality"])


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
