"""Captions: true of their elite, varied, deterministic, disjoint splits; claims and levels by hand."""

import itertools
import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from toy import make_toy

from ldpol.language import lexicon
from ldpol.language.captions import Caption, captions, make_grammar
from ldpol.language.claims import Claim, measure_levels, satisfied
from ldpol.tasks import SPECS, make_task
from ldpol.traits import columns

DATA = Path(lexicon.__file__).parent
SECTIONS = ("verbs", "pace", "body", "sides", "foot")
TASKS = {name: make_task(name) for name in SPECS}


def random_table(task, seed=0, count=300):
    """Behaviours of every kind, with the repeated values (never in the air, never fallen) that archives have."""
    rng = np.random.default_rng(seed)
    made = {
        "forward speed": rng.normal(0.8, 1.0, count),
        "height": rng.normal(1.2, 0.1, count),
        "height variation": rng.gamma(2.0, 0.03, count),
        "pitch": rng.normal(0.0, 0.2, count),
        "airborne": np.clip(rng.normal(0.1, 0.15, count), 0.0, 1.0),
        "cadence": rng.gamma(3.0, 2.0, count),
        "asymmetry": rng.normal(0.0, 0.2, count),
        "effort": rng.beta(2.0, 3.0, count),
        "survival": np.minimum(rng.uniform(0.2, 1.6, count), 1.0),
    }
    made |= {name: np.clip(rng.uniform(-0.2, 1.2, count), 0.0, 1.0) for name in task.measure_names}
    return np.stack([made[column.name] for column in columns(task)], 1)


def names_of(task):
    return [column.name for column in columns(task)]


def grammar_of(name, seed=0):
    table = random_table(TASKS[name], seed)
    return make_grammar(TASKS[name], measure_levels(names_of(TASKS[name]), table)), table


def holds(caption: Caption, row: dict[str, float]) -> bool:
    return all(low <= row[trait] < high for trait, low, high in caption.claims)


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("name", SPECS)
def test_every_caption_is_true_of_its_elite(name, split):
    grammar, table = grammar_of(name)
    for elite, row in enumerate(table[:100]):
        by_name = dict(zip(names_of(TASKS[name]), row.tolist(), strict=True))
        for caption in captions(grammar, row, count=6, seed=(1, elite), split=split):
            assert caption.claims
            assert holds(caption, by_name), (caption, by_name)
            assert satisfied(caption.claims, grammar.levels.names, row).all()
            traits = [claim.trait for claim in caption.claims]
            assert len(set(traits)) == len(traits)


# What words mean, written down a second time and independently of the lexicon: (pattern, what must hold of the elite).
MEANINGS = (
    (r"(move|moves|moving|go|goes|going|travel|travels|traveling) forward", lambda t: t["forward speed"] >= 0.1),
    (r"proceed(?!(ing)? in)|making progress|\bhop|\brun|\bwalk|\bmarch|on foot", lambda t: t["forward speed"] >= 0.1),
    (r"backwards|in reverse", lambda t: t["forward speed"] < -0.1),
    (r"in place|in one place|on the spot|position", lambda t: abs(t["forward speed"]) <= 0.1),
    (r"leaving the ground|single flight|constantly in touch", lambda t: t["airborne"] < 0.05),
    (r"(?<!hardly )leaving the ground|always in contact|single flight", lambda t: t["airborne"] == 0),
    (r"(?<!neither )leaning forward|tilted forward|bent forward|nose down", lambda t: t["pitch"] >= 0.1),
    (r"leaning back|tilted back|bent back|nose up|the sky", lambda t: t["pitch"] < -0.1),
    (r"without leaning|neither leaning|straight", lambda t: abs(t["pitch"]) <= 0.1),
    (r"never falling|without falling|no collapse|very end", lambda t: t["survival"] == 1),
    (r"falling early|soon falling|early collapse|early end", lambda t: t["survival"] < 0.5),
    (r"hop.* on the left|along on the left|ahead on the left", lambda t: t["right foot"] < 0.15 <= t["left foot"]),
    (r"with the right foot mostly in the air", lambda t: t["right foot"] < 0.15),
    (r"without ever touching the ground with the left foot", lambda t: t["left foot"] == 0),
    (r"keeping the left foot on the ground most", lambda t: t["left foot"] >= 0.75),
    (r"favoring the right foot|right foot more than", lambda t: t["asymmetry"] >= 0.1),
    (r"preference for the left foot|left foot on the floor longer", lambda t: t["asymmetry"] < -0.1),
)  # fmt: skip


def test_words_mean_what_they_say():
    grammar, table = grammar_of("walker2d", seed=3)
    names, seen = names_of(TASKS["walker2d"]), set()
    speed = table[:, 0]
    slow, fast = np.quantile(speed[speed >= 0.1], (1 / 3, 2 / 3))
    paces = (
        (r"slow|gradual|low velocity|lowest", lambda t: 0.1 <= t["forward speed"] < slow),
        (r"moderate pace|medium speed|average velocity|intermediate", lambda t: slow <= t["forward speed"] < fast),
        (r"\bfast|quickly|high speed|top speed|rapidly|swiftly|high velocity|maximum",
         lambda t: t["forward speed"] >= fast),
        (r"\brun|\brac|\bdash", lambda t: t["forward speed"] >= fast and t["airborne"] >= 0.1),
    )  # fmt: skip
    for (elite, row), split in itertools.product(enumerate(table), ("train", "held_out")):
        traits = dict(zip(names, row.tolist(), strict=True))
        for caption in captions(grammar, row, count=8, seed=elite, split=split):
            text = caption.text.lower().replace("the walker", "it")
            for pattern, true in (*MEANINGS, *paces):
                if re.search(pattern, text):
                    seen.add(pattern)
                    assert true(traits), (pattern, caption.text, traits)
    assert {pattern for pattern, _ in (*MEANINGS, *paces)} == seen  # every pattern was put to the test


def wordings(task, split):
    """Every wording of a split, the inflections of a verb separately."""
    for meaning in lexicon.manners() + lexicon.clauses(task):
        yield from meaning.wordings(split)
    for meaning in lexicon.verbs(task):
        for words in meaning.wordings(split):
            inflections, _, rest = words.partition(" ")
            yield from (f"{form} {rest}".strip() for form in inflections.split("/"))
    yield from lexicon.subjects(task, split)
    for frame in lexicon.FRAMES[split]:
        yield from (part.strip(" ,") for part in re.split(r"\{\w+\}", frame) if part.strip(" ,"))


def test_both_splits_have_words_for_the_same_and_all_are_used():
    """Wordings of the data files with their fields taken out, against those of the meanings of all tasks."""
    files = {split: tomllib.loads((DATA / f"{split}.toml").read_text()) for split in ("train", "held_out")}
    layout = {split: {s: set(v) for s, v in words.items() if s != "frames"} for split, words in files.items()}
    assert layout["train"] == layout["held_out"] and layout["train"].keys() == {*SECTIONS, "subjects"}
    for split, words in files.items():
        said = [
            text
            for task in TASKS.values()
            for meaning in (*lexicon.manners(), *lexicon.verbs(task), *lexicon.clauses(task))
            for text in meaning.wordings(split)
        ]
        assert not any("{" in text for text in said)
        listed = [text for section in SECTIONS for texts in words[section].values() for text in texts]
        for text in listed:
            pattern = re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(text)))
            assert any(pattern.fullmatch(one) for one in said), text


FIXED = [
    "A gait in which a robot covers some distance, at a medium tempo.",
    "have the robot move forward, keeping the hips high",
    "the biped must tread forward without hurry with the left foot seldom on the ground",
    "relying on the right foot and forcefully, move forward, at a leisurely pace",
    "Your task is to make progress, at an intermediate rate.",
    "I want it to proceed, at a raised level",
    "Only occasionally setting the left foot on the floor, a machine on two feet is marching at low velocity.",
    "Show me a machine on two feet proceeding with very little flight.",
]


def test_captions_of_fixed_traits():
    """Written down before the words moved into data files: a seed keeps its captions."""
    grammar, table = grammar_of("walker2d")
    found = [
        caption.text
        for split in ("train", "held_out")
        for elite in (0, 1)
        for caption in captions(grammar, table[elite], count=2, seed=(1, elite), split=split)
    ]
    assert found == FIXED


def within(part, text):
    return re.search(rf"\b{re.escape(part.lower())}\b", text.lower()) is not None


@pytest.mark.parametrize("name", SPECS)
def test_no_wording_of_one_split_occurs_in_the_other(name):
    train, held_out = set(wordings(TASKS[name], "train")), set(wordings(TASKS[name], "held_out"))
    assert len(train) > 60
    assert len(held_out) > 60
    assert not [(a, b) for a in train for b in held_out if (within(a, b) and a != "is") or (within(b, a) and b != "is")]


# Words that both splits may use: what holds a sentence together, parts of a body, and words of degree and place that
# no description of a gait does without. Every other word of the held-out wordings is theirs alone.
SHARED = frozenset(
    """a an the of on in at to with without and than about like most much very little half time
    foot feet leg body side sides left right front back both neither one two four up down high low
    go goes going early rate spend step touch""".split()
)


def stem(word):
    """The word without its ending, roughly: endings alone do not make another word."""
    for ending in ("ing", "est", "er", "ed", "es", "ly", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


@pytest.mark.parametrize("name", SPECS)
def test_held_out_words_are_not_learnt_in_any_form(name):
    train, held_out = (
        {stem(word) for part in wordings(TASKS[name], split) for word in re.findall("[a-z]+", part.lower())}
        for split in ("train", "held_out")
    )
    shared = {stem(word) for word in SHARED}
    assert train & held_out <= shared, sorted(train & held_out - shared)
    assert len(held_out - shared) > 60


@pytest.mark.parametrize("name", SPECS)
def test_training_captions_hold_no_held_out_wording(name):
    grammar, table = grammar_of(name)
    held_out = [words for words in wordings(TASKS[name], "held_out") if words != "is"]
    pattern = re.compile("|".join(rf"\b{re.escape(words.lower())}\b" for words in held_out))
    for elite, row in enumerate(table[:150]):
        for caption in captions(grammar, row, count=6, seed=elite):
            assert not pattern.search(caption.text.lower()), caption.text
    train = [words for words in wordings(TASKS[name], "train")]
    pattern = re.compile("|".join(rf"\b{re.escape(words.lower())}\b" for words in train))
    for elite, row in enumerate(table[:50]):
        for caption in captions(grammar, row, count=6, seed=elite, split="held_out"):
            assert not pattern.search(caption.text.lower()), caption.text
            markers = ("show me", "please", "should", "i want it to", "is", "your task is to")
            assert any(within(marker, caption.text) for marker in markers), caption.text


def test_captions_read_well():
    """No doubled blanks or commas, no field left open; half are sentences."""
    grammar, table = grammar_of("walker2d")
    texts = [c.text for i, row in enumerate(table[:100]) for c in captions(grammar, row, count=6, seed=i)]
    for text in texts:
        assert re.fullmatch(r"[A-Za-z][a-z,\- ]*[a-z]\.?", text), text
        assert not re.search(r"  | ,|,,|,\S|\band and\b", text), text
    sentences = sum(text.endswith(".") for text in texts) / len(texts)
    assert 0.4 < sentences < 0.6
    assert len(set(texts)) > 0.9 * len(texts)


def test_captions_are_deterministic_and_varied():
    grammar, table = grammar_of("walker2d")
    first = captions(grammar, table[0], count=40, seed=(5, 0))
    assert first == captions(grammar, table[0], count=40, seed=(5, 0))
    assert first != captions(grammar, table[0], count=40, seed=(6, 0))
    assert len({caption.text for caption in first}) == 40
    assert len({caption.claims for caption in first}) > 10
    assert {len(caption.claims) for caption in first} >= {1, 2, 3}


def test_a_caption_of_the_paper():
    """A one-legged gait is called so: hop on the left leg, fast."""
    task = TASKS["walker2d"]
    table = random_table(task)
    names = names_of(task)
    row = table.mean(0)
    speed = table[:, 0]
    for name, value in (("right foot", 0.0), ("left foot", 0.5), ("airborne", 0.4), ("forward speed", speed.max())):
        row[names.index(name)] = value
    grammar = make_grammar(task, measure_levels(names, table))
    texts = [caption.text.lower() for caption in captions(grammar, row, count=3000, seed=0)]
    assert any(re.search(r"hop(s|ping)? on the left leg,? (fast|quickly)", text) for text in texts)
    assert not any("on the right leg" in text for text in texts)


# Levels


def test_levels_by_hand():
    """Speeds 0 ... 1 in steps of a hundredth, of which those from 0.1 are on the scale: 91 values from 0.1 to 1."""
    levels = measure_levels(["forward speed", "other"], np.stack([np.arange(101) / 100, np.ones(101)], 1))
    grades = levels.grades["forward speed"]
    np.testing.assert_allclose([grades["very low"], grades["low"]], [(0.1, 0.19), (0.1, 0.4)])
    np.testing.assert_allclose([grades["middle"]], [(0.4, 0.7)])
    assert grades["high"] == (pytest.approx(0.7), math.inf)
    assert grades["very high"] == (pytest.approx(0.91), math.inf)
    assert list(levels.grades) == ["forward speed"]
    assert levels.spans["forward speed"] == pytest.approx((0.05, 0.95))


def test_what_does_not_vary_has_no_grades():
    """Nothing is said of noise, nor a word that would hold of nearly all."""
    noise = 1.2 + 1e-3 * np.random.default_rng(0).normal(size=200)
    ties = np.where(np.arange(200) < 170, 0.0, 0.5)
    levels = measure_levels(["height", "airborne"], np.stack([noise, ties], 1))
    assert "height" not in levels.grades
    assert set(levels.grades["airborne"]) == {"very high", "high"} or "low" not in levels.grades["airborne"]
    for interval in levels.grades["airborne"].values():
        assert not interval[0] <= 0.0 < interval[1]


def test_what_holds_of_all_is_not_said():
    task = TASKS["walker2d"]
    table, names = random_table(task), names_of(task)
    table[:, names.index("survival")] = 1.0
    grammar = make_grammar(task, measure_levels(names, table))
    texts = [c.text.lower() for i, row in enumerate(table) for c in captions(grammar, row, count=4, seed=i)]
    assert not any("falling" in text for text in texts)
    assert any(
        "falling" in c.text for r in random_table(task) for c in captions(grammar_of("walker2d")[0], r, count=9, seed=0)
    )


# Claims


def test_satisfied_by_hand():
    claims = [Claim("b", 0.0, 1.0), Claim("a", -math.inf, 0.5), Claim("b", 0.5, math.inf)]
    table = [[0.0, 0.0], [0.5, 0.5], [0.4, 1.0], [math.nan, 0.7]]
    expected = [[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 1]]
    np.testing.assert_array_equal(satisfied(claims, ["a", "b"], table), np.array(expected, bool))
    np.testing.assert_array_equal(satisfied(claims, ["a", "b"], np.array([table] * 2)), np.array([expected] * 2, bool))
    loose = satisfied(claims, ["a", "b"], table, tolerance=[0.1, 0.6])
    np.testing.assert_array_equal(loose, np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1]], bool))
    assert satisfied([], ["a", "b"], table).shape == (4, 0)


def test_what_does_not_fit():
    grammar, table = grammar_of("walker2d")
    with pytest.raises(ValueError, match="no column for speed; the columns are a, b"):
        satisfied([Claim("speed", 0.0, 1.0)], ["a", "b"], [[0.0, 0.0]])
    with pytest.raises(ValueError, match=r"expected 2 columns \(a, b\), found shape \(3,\)"):
        satisfied([], ["a", "b"], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"NaN or infinity in height; remove these elites"):
        measure_levels(["pitch", "height"], [[0.0, math.nan]])
    with pytest.raises(ValueError, match=r"expected a table \[N, 2\].*found shape \(0, 2\)"):
        measure_levels(["pitch", "height"], np.zeros((0, 2)))
    with pytest.raises(ValueError, match="these levels are not those of hopper: expected the columns forward speed"):
        make_grammar(TASKS["hopper"], grammar.levels)
    with pytest.raises(ValueError, match="captions: expected 11 finite values"):
        captions(grammar, table[0] * math.nan, count=1, seed=0)
    with pytest.raises(ValueError, match="unknown split 'test'; choose one of train, held_out"):
        captions(grammar, table[0], count=1, seed=0, split="test")  # type: ignore[arg-type]


def test_a_task_of_another_kind_is_still_described():
    """The toy's measures are not contacts of feet, so nothing is said of them, but it moves."""
    task = make_toy()
    table = random_table(task)
    grammar = make_grammar(task, measure_levels(names_of(task), table))
    said = [caption for row in table[:50] for caption in captions(grammar, row, count=5, seed=0)]
    assert not {claim.trait for caption in said for claim in caption.claims} & {"right", "up"}
    assert any("forward" in caption.text for caption in said)
