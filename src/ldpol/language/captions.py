"""Captions: English sentences that are true of a behaviour, each with the claims it makes.

    levels = measure_levels([column.name for column in columns(task)], archive_behaviour)   # [N, K + M]
    grammar = make_grammar(task, levels)
    for caption in captions(grammar, archive_behaviour[0], count=8, seed=0):
        print(caption.text, satisfied(caption.claims, levels.names, generated))  # [N, claims]

Words that compare ("slowly", "with many steps") are relative to an archive: `Levels` says what they mean in numbers,
and is stored with a model that learnt from them. Everything here runs on the host, in NumPy.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from ldpol.errors import UserError
from ldpol.language import lexicon
from ldpol.language.claims import Claim, Levels, satisfied
from ldpol.language.lexicon import FRAMES
from ldpol.language.meanings import Bound, Meaning, Split
from ldpol.tasks import Task
from ldpol.traits import columns

CLAUSES = (0.15, 0.4, 0.3, 0.15)
"""How often a caption has 0, 1, 2, 3 clauses, if so many are true."""


class Caption(NamedTuple):
    """A sentence and everything it claims.

    Attributes:
      text: the sentence.
      claims: at most one per trait: where several were made, all hold.
      base_claims: the distinct claims of its words, as the grammar makes them, before they are merged.
    """

    text: str
    claims: tuple[Claim, ...]
    base_claims: tuple[Claim, ...]


class Grammar(NamedTuple):
    """All that can be said of a task's behaviours, with the numbers filled in.

    Attributes:
      levels: what the words were measured on.
      verbs, manners, clauses: meanings with the claims each of them makes.
      subjects: names for the body, by split.
    """

    levels: Levels
    verbs: tuple[tuple[Meaning, tuple[Claim, ...]], ...]
    manners: tuple[tuple[Meaning, tuple[Claim, ...]], ...]
    clauses: tuple[tuple[Meaning, tuple[Claim, ...]], ...]
    subjects: Mapping[Split, tuple[str, ...]]


def make_grammar(task: Task, levels: Levels) -> Grammar:
    """Build the grammar of a task with the words of an archive.

    What holds of (nearly) all of the archive is left out, verbs excepted: it would tell no elite from another.

    Raises:
      ValueError: if the levels are those of another task.
    """
    expected = tuple(column.name for column in columns(task))
    if levels.names != expected:
        raise UserError(
            f"these levels are not those of {task.name}: expected the columns {', '.join(expected)}; "
            f"found {', '.join(levels.names)}"
        )

    def speakable(meanings: Sequence[Meaning], obvious: bool) -> tuple[tuple[Meaning, tuple[Claim, ...]], ...]:
        found = []
        for meaning in meanings:
            claims = [_resolve(levels, bound) for bound in meaning.bounds]
            known = [claim for claim in claims if claim is not None and claim.low < claim.high]
            if len(known) == len(claims) and (obvious or not all(_obvious(levels, claim) for claim in known)):
                found.append((meaning, tuple(known)))
        return tuple(found)

    return Grammar(
        levels,
        speakable(lexicon.verbs(task), True),
        speakable(lexicon.manners(), False),
        speakable(lexicon.clauses(task), False),
        {split: lexicon.subjects(task, split) for split in get_args(Split)},
    )


def _resolve(levels: Levels, bound: Bound) -> Claim | None:
    """Fill in the numbers; None if the archive has no such grade."""
    if bound.grade is None:
        return Claim(bound.trait, bound.low, bound.high)
    interval = levels.grades.get(bound.trait, {}).get(bound.grade)
    return interval and Claim(bound.trait, max(bound.low, interval[0]), min(bound.high, interval[1]))


def _obvious(levels: Levels, claim: Claim) -> bool:
    low, high = levels.spans[claim.trait]
    return claim.low <= low and high < claim.high


def captions(
    grammar: Grammar, behaviour: ArrayLike, *, count: int, seed: int | Sequence[int], split: Split = "train"
) -> list[Caption]:
    """Write captions that are true of one behaviour.

    Args:
      grammar: of the task and the archive.
      behaviour: `[K + M]`, one row of the table.
      count: how many; they differ from one another as long as there is enough to say.
      seed: decides the words; for many elites give each its own, such as `(seed, elite)`.
      split: whose words and frames to use.

    Raises:
      ValueError: for a row of another length or with NaN, or an unknown split.
    """
    names = grammar.levels.names
    row = np.asarray(behaviour, np.float64)
    if row.shape != (len(names),) or not np.isfinite(row).all():
        raise UserError(f"captions: expected {len(names)} finite values ({', '.join(names)}), found {row}")
    if split not in get_args(Split):
        raise UserError(f"captions: unknown split {split!r}; choose one of {', '.join(get_args(Split))}")
    rng = np.random.default_rng(seed)
    verbs, manners, clauses = (
        [(meaning, claims) for meaning, claims in said if satisfied(claims, names, row).all()]
        for said in (grammar.verbs, grammar.manners, grammar.clauses)
    )
    subjects, found = grammar.subjects[split], {}
    for _ in range(10 * count):
        caption = _write(rng, verbs, manners, clauses, subjects, split)
        found.setdefault(caption.text, caption)
        if len(found) == count:
            break
    distinct = list(found.values())
    return [distinct[i % len(distinct)] for i in range(count)]


def _write(
    rng: np.random.Generator, verbs: list, manners: list, clauses: list, subjects: Sequence[str], split: Split
) -> Caption:
    """Choose what to say, then how."""
    pick = lambda options: options[rng.integers(len(options))]  # noqa: E731
    # The later verbs say more than the first three.
    verb, claims = pick(verbs[1:]) if len(verbs) > 1 and rng.random() < 0.5 else verbs[0]
    topics, made = set(verb.topics), list(claims)
    manners = [option for option in manners if not topics & set(option[0].topics)]
    manner = ""
    if manners and rng.random() < 0.7:
        meaning, claims = pick(manners)
        manner = pick(meaning.wordings(split))
        made += claims
    parts: list[str] = []
    for _ in range(rng.choice(len(CLAUSES), p=CLAUSES)):
        open_ = [option for option in clauses if not topics & set(option[0].topics)]
        if not open_:
            break
        # First the topic, so that one with many shades is not spoken of more often.
        topic = pick(sorted({option[0].topics[0] for option in open_}))
        meaning, claims = pick([option for option in open_ if option[0].topics[0] == topic])
        parts.append(pick(meaning.wordings(split)))
        topics |= set(meaning.topics)
        made += claims
    frames = [f for f in FRAMES[split] if (parts or "{before}" not in f) and (manner or "{manner}" not in f)]
    frame = pick(frames)
    inflections, _, rest = pick(verb.wordings(split)).partition(" ")
    tail = f" {rest}" if rest else ""
    if manner and "{manner}" not in frame:
        tail += pick((" ", " ", " ", ", ")) + manner
    base, third, gerund = (form + tail for form in inflections.split("/"))
    after = "".join(_joint(rng, part, i, len(parts)) + part for i, part in enumerate(parts))
    text = frame.format(
        subject=pick(subjects), base=base, third=third, gerund=gerund, manner=manner, after=after, before=_list(parts)
    )
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:] + "."
    return Caption(text, merge(made), tuple(dict.fromkeys(made)))


def _joint(rng: np.random.Generator, part: str, index: int, count: int) -> str:
    """What stands before a clause."""
    if index and index == count - 1:
        return " and " if rng.random() < 0.5 else ", "
    return " " if index == 0 and part.startswith("with") and rng.random() < 0.5 else ", "


def _list(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def merge(claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Return one claim per trait: where several were made, all hold. Contradictions leave an empty interval."""
    merged: dict[str, Claim] = {}
    for claim in claims:
        before = merged.get(claim.trait, claim)
        merged[claim.trait] = Claim(claim.trait, max(before.low, claim.low), min(before.high, claim.high))
    return tuple(merged.values())
