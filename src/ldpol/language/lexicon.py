"""What can be said of behaviours, when it is true, and in which words.

The words are data: `train.toml` holds those of training captions, `held_out.toml` those kept for tests. Both have the
same entries. No wording of one split occurs within a wording of the other, and the words that carry the meaning of a
held-out wording occur in no training wording. This module says when each entry is true and fills in names of feet.
"""

import math
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, get_args

from ldpol.language.meanings import LEAN, NEVER, STILL, Bound, Grade, Meaning, Split
from ldpol.tasks import Task


def _load(split: Split) -> Mapping[str, Any]:
    return tomllib.loads(resources.files("ldpol.language").joinpath(f"{split}.toml").read_text(encoding="utf-8"))


_WORDS: dict[Split, Mapping[str, Any]] = {split: _load(split) for split in get_args(Split)}
FRAMES: dict[Split, tuple[str, ...]] = {split: tuple(words["frames"]) for split, words in _WORDS.items()}
"""Sentences with fields for a subject, the verb phrase in one of its forms, an adverbial of pace, and the clauses."""

_SPEED = "forward speed"
_AHEAD = Bound(_SPEED, STILL)
_VERBS: dict[str, tuple[tuple[str, ...], tuple[Bound, ...]]] = {
    # Entry: the topics it speaks of beside the direction, and what must hold.
    "forward": ((), (_AHEAD,)),
    "stay": (("pace",), (Bound(_SPEED, -STILL, STILL),)),
    "backwards": (("pace",), (Bound(_SPEED, high=-STILL),)),
    "run": (("pace", "airborne"), (Bound(_SPEED, STILL, grade="high"), Bound("airborne", 0.1))),
    "walk": (("airborne",), (_AHEAD, Bound("airborne", high=0.02))),
    "hop": (("airborne",), (_AHEAD, Bound("airborne", 0.05))),
}
_BODY = {
    "low body": Bound("height", grade="low"),
    "medium body": Bound("height", grade="middle"),
    "high body": Bound("height", grade="high"),
    "steady body": Bound("height variation", grade="low"),
    "bobbing body": Bound("height variation", grade="high"),
    "leaning forward": Bound("pitch", LEAN),
    "leaning back": Bound("pitch", high=-LEAN),
    "upright": Bound("pitch", -LEAN, LEAN),
    "never airborne": Bound("airborne", high=NEVER),
    "rarely airborne": Bound("airborne", high=0.05),
    "often airborne": Bound("airborne", 0.1, grade="high"),
    "few steps": Bound("cadence", grade="low"),
    "many steps": Bound("cadence", grade="high"),
    "little effort": Bound("effort", grade="low"),
    "much effort": Bound("effort", grade="high"),
    "never falling": Bound("survival", 1.0 - NEVER),
    "falling early": Bound("survival", high=0.5),
}
_FOOT = {"never": (-math.inf, NEVER), "rarely": (-math.inf, 0.15), "half": (0.4, 0.6), "mostly": (0.75,)}


def _meaning(section: str, entry: str, topics: tuple[str, ...], bounds: tuple[Bound, ...], **names: str) -> Meaning:
    """Return a meaning with the wordings that both splits have for an entry, names filled in."""
    train, held_out = (
        tuple(text.format(**names) for text in _WORDS[split][section][entry]) for split in get_args(Split)
    )
    return Meaning(topics, bounds, train, held_out)


def _clause(section: str, entry: str, bound: Bound, **names: str) -> Meaning:
    """Return a meaning about one trait, which is its topic."""
    return _meaning(section, entry, (bound.trait,), (bound,), **names)


def subjects(task: Task, split: Split) -> tuple[str, ...]:
    """Return what a caption of a task may call the body."""
    words = _WORDS[split]["subjects"]
    return (*words["any"], *words.get(task.name, ()))


def manners() -> tuple[Meaning, ...]:
    """Return the adverbials of pace; they stand next to the verb."""
    return tuple(_meaning("pace", grade, ("pace",), (Bound(_SPEED, grade=grade),)) for grade in get_args(Grade))


def verbs(task: Task) -> tuple[Meaning, ...]:
    """Return the verbs of a task; of the first three exactly one is true of any behaviour."""
    # A body with one foot cannot walk.
    entries = ("forward", "stay", "backwards", "run", "walk" if task.measures > 1 else "hop")
    found = [_meaning("verbs", entry, ("direction", *_VERBS[entry][0]), _VERBS[entry][1]) for entry in entries]
    if {side for side, _ in task.sides} == {"left", "right"} and task.measures == 2:
        for (side, (foot,)), (_, (other,)) in (task.sides, task.sides[::-1]):
            down, up = task.measure_names[foot], task.measure_names[other]
            bounds = (_AHEAD, Bound(up, high=0.15), Bound(down, 0.15), Bound("airborne", 0.05))
            topics = ("direction", "airborne", "asymmetry", down, up)
            found.append(_meaning("verbs", "hop on one side", topics, bounds, side=side))
    return tuple(found)


def clauses(task: Task) -> tuple[Meaning, ...]:
    """Return what may be added after or before the verb phrase; every wording stands by itself between commas."""
    body = tuple(_clause("body", entry, bound) for entry, bound in _BODY.items())
    return (*body, *_sides(task), *(clause for name in task.measure_names for clause in _foot(name)))


def _sides(task: Task) -> tuple[Meaning, ...]:
    """Return how contact is shared between the two sides; nothing where feet do not pair up."""
    if not task.sides:
        return ()
    one, other = (task.measure_names[feet[0]] if len(feet) == 1 else f"{side} feet" for side, feet in task.sides)
    noun, plural = ("foot", "feet") if task.measures == 2 else ("side", "sides")
    return (
        _clause("sides", "favored", Bound("asymmetry", 0.1), noun=one, other=other),
        _clause("sides", "favored", Bound("asymmetry", high=-0.1), noun=other, other=one),
        _clause("sides", "even", Bound("asymmetry", -0.05, 0.05), both=f"both {plural}", neither=f"neither {noun}"),
    )


def _foot(name: str) -> tuple[Meaning, ...]:
    """Return how long one foot touches the ground; nothing if the measure is not that of a foot."""
    if not name.endswith("foot"):
        return ()
    return tuple(_clause("foot", entry, Bound(name, *ends), foot=name) for entry, ends in _FOOT.items())


def vocabulary(task: Task) -> frozenset[str]:
    """Return the words that training captions of a task may hold: a model that learnt from them knows these."""
    meanings = [*manners(), *verbs(task), *clauses(task)]
    texts = [*FRAMES["train"], *subjects(task, "train"), *(text for meaning in meanings for text in meaning.train)]
    return frozenset(re.findall(r"[a-z]+", " ".join(re.sub(r"\{\w+\}", " ", text) for text in texts)))
