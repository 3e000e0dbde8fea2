"""The section of the page about language: how many claims come true, example captions, and ranks of fitness."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ldpol.report.page import is_number, percent, table
from ldpol.report.tables import head, number, row, with_ends

SPLITS = (
    ("train", "Phrasings of training", "words and sentence frames the model learnt from"),
    ("held_out", "Phrasings never seen", "synonyms and frames kept out of training"),
)


def language(metrics: Mapping[str, Any]) -> str:
    """One row a split, then captions with what became of each claim."""
    found = metrics["language"]
    columns = head(
        ("Claims satisfied", "% of all"),
        ("Of the elites' own", "the ceiling"),
        ("By chance", "a random elite"),
        ("Whole captions", "every claim holds"),
        ("Understood", "% of claims"),
    )
    rows = []
    for split, name, note in SPLITS:
        part = found[split]
        cells = (
            with_ends(percent, part["value"], (part["low"], part["high"])),
            percent(part["of_ceiling"]),
            percent(part["chance"]["value"]),
            percent(part["whole"]),
            percent(part["understood"]["recall"]),
        )
        rows.append(row(name, note, "main" if split == "train" else "sub", cells))
    text = (
        f"{found['captions']} elites, each described in a sentence of its own; a policy is sampled from the sentence "
        "alone, and every claim is checked against what that policy does."
    )
    return f"<p>{escape(text)}</p>{table(columns, ''.join(rows))}{_examples(found['examples'])}"


def _examples(examples: list[Mapping[str, Any]]) -> str:
    if not examples:
        return ""
    columns = head(("Read as", "by the model"), ("Reached", "mean of the episodes"))
    rows = []
    for one in examples:
        held = sum(claim["holds"] for claim in one["claims"])
        claims = "<br>".join(
            f"{'✓' if claim['holds'] else '✗'} {escape(claim['trait'])} {number(claim['reached'], 2)}"
            for claim in one["claims"]
        )
        note = f"{held} of {len(one['claims'])} claims hold"
        rows.append(row(one["text"], note, "sub", (escape(one["understood"]), claims)))
    return table(columns, "".join(rows), "texts")


def quality(metrics: Mapping[str, Any]) -> str:
    """One row a rank asked for: what comes out, as a rank and as fitness."""
    columns = head(("Rank reached", "among elites"), ("Fitness", "generated"), ("Fitness", "of that rank"))
    rows = [
        row(
            f"Rank {number(one['asked'], 2)}",
            "asked for, and nothing else",
            "sub",
            (number(one["reached"], 2), number(one["fitness"], 0), number(one["elites"], 0)),
        )
        for one in metrics["quality"]
        if is_number(one.get("asked"))
    ]
    return table(columns, "".join(rows))
