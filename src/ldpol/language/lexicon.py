"""The words for behaviours: what can be said, when it is true, and in which words.

Data and the few functions that fill in names of feet. Every meaning has wordings for training and others that are held
out for tests; no wording of one split occurs within one of the other.
"""

import math
import re
from typing import Literal, NamedTuple

from ldpol.tasks import Task

Split = Literal["train", "held_out"]
Grade = Literal["very low", "low", "middle", "high", "very high"]
STILL = 0.1
"""Metres a second below which a body stays where it is."""
LEAN = 0.1
"""Radians of pitch from which a body leans."""
NEVER = 1e-6
"""A fraction of steps below which something never happened; one step of fifty long episodes is 2e-5."""


class Bound(NamedTuple):
    """`low <= value < high`, and within the grade's interval of the archive if a grade is given."""

    trait: str
    low: float = -math.inf
    high: float = math.inf
    grade: Grade | None = None


class Meaning(NamedTuple):
    """Something that can be said.

    Attributes:
      topics: what it speaks of; a caption speaks of a topic once.
      bounds: what must hold for it to be true.
      train, held_out: wordings. Those of a verb give its inflections first: "go/goes/going forward".
    """

    topics: tuple[str, ...]
    bounds: tuple[Bound, ...]
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def wordings(self, split: Split) -> tuple[str, ...]:
        """Return the wordings of one split."""
        return self.train if split == "train" else self.held_out


class Scale(NamedTuple):
    """Where grades of a trait make sense: values from `low`, differing by `smallest` at least (in its unit)."""

    smallest: float
    low: float = -math.inf


SCALES: dict[str, Scale] = {
    "forward speed": Scale(0.1, STILL),
    "height": Scale(0.02),
    "height variation": Scale(0.01),
    "airborne": Scale(0.05),
    "cadence": Scale(0.5),
    "effort": Scale(0.02),
}

FRAMES: dict[Split, tuple[str, ...]] = {
    # Fields: a subject, the verb phrase in one of its forms, and the clauses: after it with what joins them, or before.
    "train": (
        "{subject} {third}{after}",
        "{base}{after}",
        "{subject} {gerund}{after}",
        "{before}, {subject} {third}",
        "{manner}, {subject} {third}{after}",
        "a policy that {third}{after}",
    ),
    "held_out": (
        "show me {subject} {gerund}{after}",
        "please {base}{after}",
        "{subject} should {base}{after}",
        "I want it to {base}{after}",
        "{before}, {subject} is {gerund}",
        "your task is to {base}{after}",
    ),
}

_SUBJECTS = {
    "walker2d": (("the walker", "a two-legged robot"), ("the figure", "a machine on two feet")),
    "hopper": (("the hopper", "a one-legged robot"), ("the device", "a machine on one foot")),
    "halfcheetah": (("the cheetah", "a robot with two legs"), ("the cat", "a machine on two feet")),
    "ant": (("the ant", "a four-legged robot"), ("the insect", "a machine on four feet")),
    "humanoid": (("the humanoid", "a human-like robot"), ("the person", "a machine like a person")),
}


def subjects(task: Task, split: Split) -> tuple[str, ...]:
    """Return what a caption of a task may call the body."""
    train, held_out = _SUBJECTS.get(task.name, ((), ()))
    return ("the robot", "a robot", *train) if split == "train" else ("the machine", "a machine", *held_out)


def manners() -> tuple[Meaning, ...]:
    """Return the adverbials of pace; they stand next to the verb."""

    def pace(grade: Grade, train: tuple[str, ...], held_out: tuple[str, ...]) -> Meaning:
        return Meaning(("pace",), (Bound("forward speed", grade=grade),), train, held_out)

    return (
        pace("very low", ("very slowly", "at a very slow pace"), ("extremely gradually", "at the lowest velocity")),
        pace("low", ("slowly", "at a slow pace", "at low speed"), ("gradually", "at low velocity")),
        pace("middle", ("at a moderate pace", "at medium speed"), ("at average velocity", "at an intermediate rate")),
        pace("high", ("fast", "quickly", "at high speed"), ("rapidly", "swiftly", "at high velocity")),
        pace("very high", ("very fast", "at top speed"), ("extremely rapidly", "at maximum velocity")),
    )


def verbs(task: Task) -> tuple[Meaning, ...]:
    """Return the verbs of a task; of the first three exactly one is true of any behaviour."""
    speed = "forward speed"
    ahead = Bound(speed, STILL)
    found = [
        Meaning(
            ("direction",),
            (ahead,),
            ("move/moves/moving forward", "go/goes/going forward", "travel/travels/traveling forward"),
            ("proceed/proceeds/proceeding", "make/makes/making progress"),
        ),
        Meaning(
            ("direction", "pace"),
            (Bound(speed, -STILL, STILL),),
            ("stay/stays/staying in place", "stand/stands/standing in one place"),
            ("remain/remains/remaining on the spot", "hold/holds/holding position"),
        ),
        Meaning(
            ("direction", "pace"),
            (Bound(speed, high=-STILL),),
            ("move/moves/moving backwards", "go/goes/going backwards"),
            ("drive/drives/driving in reverse", "proceed/proceeds/proceeding in reverse"),
        ),
        Meaning(
            ("direction", "pace", "airborne"),
            (Bound(speed, STILL, grade="high"), Bound("airborne", 0.1)),
            ("run/runs/running", "run/runs/running forward"),
            ("race/races/racing", "dash/dashes/dashing"),
        ),
    ]
    if task.measures > 1:
        found.append(
            Meaning(
                ("direction", "airborne"),
                (ahead, Bound("airborne", high=0.02)),
                ("walk/walks/walking", "walk/walks/walking forward"),
                ("march/marches/marching", "go/goes/going on foot"),
            )
        )
    else:
        found.append(
            Meaning(
                ("direction", "airborne"),
                (ahead, Bound("airborne", 0.05)),
                ("hop/hops/hopping", "hop/hops/hopping forward"),
                ("jump/jumps/jumping ahead", "spring/springs/springing along"),
            )
        )
    if {side for side, _ in task.sides} == {"left", "right"} and task.measures == 2:
        for (side, (foot,)), (_, (other,)) in (task.sides, task.sides[::-1]):
            names = task.measure_names
            found.append(
                Meaning(
                    ("direction", "airborne", "asymmetry", names[foot], names[other]),
                    (ahead, Bound(names[other], high=0.15), Bound(names[foot], 0.15), Bound("airborne", 0.05)),
                    (f"hop/hops/hopping on the {side} leg", f"hop/hops/hopping forward on the {side} foot"),
                    (
                        f"jump/jumps/jumping along on the {side} side",
                        f"spring/springs/springing ahead on the {side} leg alone",
                    ),
                )
            )
    return tuple(found)


def clauses(task: Task) -> tuple[Meaning, ...]:
    """Return what may be added after or before the verb phrase; every wording stands by itself between commas."""
    return (*_BODY, *_sides(task), *(clause for name in task.measure_names for clause in _foot(name)))


_BODY = (
    Meaning(
        ("height",),
        (Bound("height", grade="low"),),
        ("keeping the body low", "staying low", "with a low body"),
        ("with the body close to the floor", "at a reduced level"),
    ),
    Meaning(
        ("height",),
        (Bound("height", grade="middle"),),
        ("at a medium height", "with the body at a moderate height"),
        ("at an average level",),
    ),
    Meaning(
        ("height",),
        (Bound("height", grade="high"),),
        ("keeping the body high", "standing tall", "with a high body"),
        ("with the body far above the floor", "at a raised level"),
    ),
    Meaning(
        ("height variation",),
        (Bound("height variation", grade="low"),),
        ("keeping a steady height", "with a steady body", "without bobbing up and down"),
        ("smoothly", "with little vertical motion", "at a constant level"),
    ),
    Meaning(
        ("height variation",),
        (Bound("height variation", grade="high"),),
        ("bobbing up and down", "with the body going up and down"),
        ("with much vertical motion", "with large vertical movement"),
    ),
    Meaning(
        ("pitch",),
        (Bound("pitch", LEAN),),
        ("leaning forward", "with the body tilted forward", "bent forward"),
        ("facing the floor", "with the nose down"),
    ),
    Meaning(
        ("pitch",),
        (Bound("pitch", high=-LEAN),),
        ("leaning back", "with the body tilted back", "bent back"),
        ("facing the sky", "with the nose up"),
    ),
    Meaning(
        ("pitch",),
        (Bound("pitch", -LEAN, LEAN),),
        ("without leaning", "neither leaning forward nor back"),
        ("with a straight back", "facing straight ahead"),
    ),
    Meaning(
        ("airborne",),
        (Bound("airborne", high=NEVER),),
        ("without ever leaving the ground", "never leaving the ground", "always in contact with the ground"),
        ("without a single flight", "constantly in touch with the floor"),
    ),
    Meaning(
        ("airborne",),
        (Bound("airborne", high=0.05),),
        ("hardly leaving the ground", "almost never in the air"),
        ("scarcely flying", "with very little flight"),
    ),
    Meaning(
        ("airborne",),
        (Bound("airborne", 0.1, grade="high"),),
        ("spending much time in the air", "often in the air", "with a lot of time off the ground"),
        ("flying for long", "with long periods of flight"),
    ),
    Meaning(
        ("cadence",),
        (Bound("cadence", grade="low"),),
        ("with few steps", "with a low step rate", "taking few steps"),
        ("with rare contacts", "touching the floor only occasionally"),
    ),
    Meaning(
        ("cadence",),
        (Bound("cadence", grade="high"),),
        ("with many steps", "with a high step rate", "taking many steps"),
        ("with frequent contacts", "touching the floor frequently"),
    ),
    Meaning(
        ("effort",),
        (Bound("effort", grade="low"),),
        ("with little effort", "gently", "without using much force"),
        ("saving energy", "with low power", "softly"),
    ),
    Meaning(
        ("effort",),
        (Bound("effort", grade="high"),),
        ("with a lot of effort", "pushing hard", "using much force"),
        ("spending energy", "with high power", "with great strength"),
    ),
    Meaning(
        ("survival",),
        (Bound("survival", 1.0 - NEVER),),
        ("without falling", "never falling"),
        ("with no collapse", "until the very end"),
    ),
    Meaning(
        ("survival",),
        (Bound("survival", high=0.5),),
        ("falling early", "soon falling down"),
        ("with an early collapse", "with an early end"),
    ),
)


def _sides(task: Task) -> tuple[Meaning, ...]:
    """How contact is shared between the two sides."""
    if not task.sides:
        return ()
    nouns = [task.measure_names[feet[0]] if len(feet) == 1 else f"{side} feet" for side, feet in task.sides]
    both = "both feet" if task.measures == 2 else "both sides"
    neither = "neither foot" if task.measures == 2 else "neither side"

    def favour(noun: str, other: str, bound: Bound) -> Meaning:
        train = (f"favoring the {noun}", f"using the {noun} more than the {other}")
        held_out = (f"with a preference for the {noun}", f"with the {noun} on the floor longer than the {other}")
        return Meaning(("asymmetry",), (bound,), train, held_out)

    return (
        favour(nouns[0], nouns[1], Bound("asymmetry", 0.1)),
        favour(nouns[1], nouns[0], Bound("asymmetry", high=-0.1)),
        Meaning(
            ("asymmetry",),
            (Bound("asymmetry", -0.05, 0.05),),
            (f"using {both} evenly", f"favoring {neither}"),
            (f"with equal use of {both}", f"with a preference for {neither}"),
        ),
    )


def _foot(name: str) -> tuple[Meaning, ...]:
    """How long one foot touches the ground; nothing if the measure is not that of a foot."""
    if not name.endswith("foot"):
        return ()

    def contact(low: float, high: float, train: tuple[str, ...], held_out: tuple[str, ...]) -> Meaning:
        fill = [tuple(words.replace("{foot}", f"the {name}") for words in split) for split in (train, held_out)]
        return Meaning((name,), (Bound(name, low, high),), *fill)

    return (
        contact(
            -math.inf,
            NEVER,
            (
                "without ever touching the ground with {foot}",
                "never putting {foot} down",
                "with {foot} always in the air",
            ),
            ("with {foot} constantly lifted", "at no time setting {foot} on the floor"),
        ),
        contact(
            -math.inf,
            0.15,
            ("rarely touching the ground with {foot}", "with {foot} mostly in the air", "hardly using {foot}"),
            ("with {foot} lifted for the most part", "only occasionally setting {foot} on the floor"),
        ),
        contact(
            0.4,
            0.6,
            ("with {foot} on the ground half of the time", "touching the ground with {foot} about half the time"),
            ("with {foot} on the floor for about half of the steps", "raising {foot} for half of the steps"),
        ),
        contact(
            0.75,
            math.inf,
            ("with {foot} mostly on the ground", "keeping {foot} on the ground most of the time"),
            ("with {foot} on the floor for the most part", "scarcely raising {foot}"),
        ),
    )


def vocabulary(task: Task) -> frozenset[str]:
    """Return the words that training captions of a task may hold: a model that learnt from them knows these."""
    said = [*manners(), *verbs(task), *clauses(task)]
    texts = [*FRAMES["train"], *subjects(task, "train"), *(words for meaning in said for words in meaning.train)]
    return frozenset(re.findall(r"[a-z]+", " ".join(re.sub(r"\{\w+\}", " ", text) for text in texts)))
