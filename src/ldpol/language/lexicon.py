"""The words for behaviours: what can be said, when it is true, and in which words.

Data and the few functions that fill in names of feet. Every meaning has wordings for training and others that are held
out for tests; no wording of one split occurs within one of the other, and the words that carry the meaning of those
held out occur in no training wording.
"""

import re

from ldpol.language.clauses import BODY, foot, sides
from ldpol.language.meanings import STILL, Bound, Grade, Meaning, Split
from ldpol.language.meanings import wordings as words
from ldpol.tasks import Task

FRAMES: dict[Split, tuple[str, ...]] = {
    # Fields: a subject, the verb phrase in one of its forms, and the clauses: after it with what joins them, or before.
    "train": (
        "{subject} {third}{after}",
        "{base}{after}",
        "{subject} {gerund}{after}",
        "{before}, {subject} {third}",
        "{manner}, {subject} {third}{after}",
        "a policy that {third}{after}",
        "let {subject} {base}{after}",
        "have {subject} {base}{after}",
        "watch {subject} {gerund}{after}",
        "{subject} must {base}{after}",
        "a gait in which {subject} {third}{after}",
        "{before}, {base}",
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
    "walker2d": (("the walker", "a two-legged robot", "the biped"), ("the figure", "a machine on two feet")),
    "hopper": (("the hopper", "a one-legged robot", "the pogo stick"), ("the device", "a machine on one foot")),
    "halfcheetah": (("the cheetah", "a robot with two legs", "the animal"), ("the cat", "a machine on two feet")),
    "ant": (("the ant", "a four-legged robot", "the quadruped"), ("the insect", "a machine on four feet")),
    "humanoid": (("the humanoid", "a human-like robot", "the android"), ("the person", "a machine like a person")),
}


def subjects(task: Task, split: Split) -> tuple[str, ...]:
    """Return what a caption of a task may call the body."""
    train, held_out = _SUBJECTS.get(task.name, ((), ()))
    return (
        ("the robot", "a robot", "the agent", "this robot", *train)
        if split == "train"
        else ("the machine", "a machine", *held_out)
    )


def manners() -> tuple[Meaning, ...]:
    """Return the adverbials of pace; they stand next to the verb."""

    def pace(grade: Grade, train: str, held_out: str) -> Meaning:
        return Meaning(("pace",), (Bound("forward speed", grade=grade),), words(train), words(held_out))

    return (
        pace(
            "very low",
            """very slowly; at a very slow pace; at a crawl; incredibly slowly; as slowly as possible; ever so slowly;
            at very low speed; at minimum speed; painfully slowly; at a creeping pace""",
            "extremely gradually; at the lowest velocity",
        ),
        pace(
            "low",
            """slowly; at a slow pace; at low speed; unhurriedly; at a leisurely pace; sluggishly; without hurry;
            at a slow tempo; with little speed; lazily; taking plenty of time""",
            "gradually; at low velocity",
        ),
        pace(
            "middle",
            """at a moderate pace; at medium speed; at a normal pace; at a regular speed; at moderate speed;
            at a middling pace; at ordinary speed; at a medium tempo; at a comfortable pace; at mid speed""",
            "at average velocity; at an intermediate rate",
        ),
        pace(
            "high",
            """fast; quickly; at high speed; at a fast pace; speedily; briskly; hastily; in a hurry; at a quick pace;
            hurriedly; with much speed; at a quick tempo""",
            "rapidly; swiftly; at high velocity",
        ),
        pace(
            "very high",
            """very fast; at top speed; very quickly; at full speed; as fast as possible; incredibly fast;
            at very high speed; at breakneck speed; ever so fast; at lightning speed""",
            "extremely rapidly; at maximum velocity",
        ),
    )


def verbs(task: Task) -> tuple[Meaning, ...]:
    """Return the verbs of a task; of the first three exactly one is true of any behaviour."""
    speed = "forward speed"
    ahead = Bound(speed, STILL)

    def verb(topics: str, bounds: tuple[Bound, ...], train: str, held_out: str) -> Meaning:
        return Meaning(("direction", *words(topics)), bounds, words(train), words(held_out))

    found = [
        Meaning(
            ("direction",),
            (ahead,),
            words(
                """move/moves/moving forward; go/goes/going forward; travel/travels/traveling forward;
                advance/advances/advancing; head/heads/heading forward; step/steps/stepping forward;
                move/moves/moving onward; cover/covers/covering some distance; get/gets/getting somewhere"""
            ),
            words("proceed/proceeds/proceeding; make/makes/making progress"),
        ),
        verb(
            "pace",
            (Bound(speed, -STILL, STILL),),
            """stay/stays/staying in place; stand/stands/standing in one place; stand/stands/standing still;
            keep/keeps/keeping still; stop/stops/stopping; wait/waits/waiting; stay/stays/staying put;
            rest/rests/resting in place; stay/stays/staying here; linger/lingers/lingering; go/goes/going nowhere""",
            "remain/remains/remaining on the spot; hold/holds/holding position",
        ),
        verb(
            "pace",
            (Bound(speed, high=-STILL),),
            """move/moves/moving backwards; go/goes/going backwards; travel/travels/traveling backwards;
            back/backs/backing up; retreat/retreats/retreating; step/steps/stepping backwards;
            move/moves/moving to the rear; head/heads/heading backwards; back/backs/backing away;
            go/goes/going the opposite way""",
            "drive/drives/driving in reverse; proceed/proceeds/proceeding in reverse",
        ),
        verb(
            "pace; airborne",
            (Bound(speed, STILL, grade="high"), Bound("airborne", 0.1)),
            """run/runs/running; run/runs/running forward; sprint/sprints/sprinting; gallop/gallops/galloping;
            rush/rushes/rushing forward; charge/charges/charging forward; sprint/sprints/sprinting forward;
            bolt/bolts/bolting forward; hurtle/hurtles/hurtling forward""",
            "race/races/racing; dash/dashes/dashing",
        ),
    ]
    if task.measures > 1:
        found.append(
            verb(
                "airborne",
                (ahead, Bound("airborne", high=0.02)),
                """walk/walks/walking; walk/walks/walking forward; stride/strides/striding; stroll/strolls/strolling;
                tread/treads/treading forward; stride/strides/striding forward; amble/ambles/ambling;
                trudge/trudges/trudging; plod/plods/plodding""",
                "march/marches/marching; go/goes/going on foot",
            )
        )
    else:
        found.append(
            verb(
                "airborne",
                (ahead, Bound("airborne", 0.05)),
                """hop/hops/hopping; hop/hops/hopping forward; leap/leaps/leaping forward;
                bounce/bounces/bouncing forward; bound/bounds/bounding forward; skip/skips/skipping forward;
                leap/leaps/leaping; vault/vaults/vaulting forward""",
                "jump/jumps/jumping ahead; spring/springs/springing along",
            )
        )
    if {side for side, _ in task.sides} == {"left", "right"} and task.measures == 2:
        for (side, (foot,)), (_, (other,)) in (task.sides, task.sides[::-1]):
            names = task.measure_names
            found.append(
                verb(
                    f"airborne; asymmetry; {names[foot]}; {names[other]}",
                    (ahead, Bound(names[other], high=0.15), Bound(names[foot], 0.15), Bound("airborne", 0.05)),
                    f"""hop/hops/hopping on the {side} leg; hop/hops/hopping forward on the {side} foot;
                    bounce/bounces/bouncing forward on the {side} leg; skip/skips/skipping forward on the {side} foot;
                    leap/leaps/leaping forward with the {side} leg; hop/hops/hopping with just the {side} leg;
                    bounce/bounces/bouncing on the {side} foot; bound/bounds/bounding forward on the {side} leg;
                    leap/leaps/leaping on the {side} foot""",
                    f"""jump/jumps/jumping along on the {side} side;
                    spring/springs/springing ahead on the {side} leg alone""",
                )
            )
    return tuple(found)


def clauses(task: Task) -> tuple[Meaning, ...]:
    """Return what may be added after or before the verb phrase; every wording stands by itself between commas."""
    return (*BODY, *sides(task), *(clause for name in task.measure_names for clause in foot(name)))


def vocabulary(task: Task) -> frozenset[str]:
    """Return the words that training captions of a task may hold: a model that learnt from them knows these."""
    said = [*manners(), *verbs(task), *clauses(task)]
    texts = [*FRAMES["train"], *subjects(task, "train"), *(text for meaning in said for text in meaning.train)]
    return frozenset(re.findall(r"[a-z]+", " ".join(re.sub(r"\{\w+\}", " ", text) for text in texts)))
