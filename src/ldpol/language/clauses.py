"""Clauses: what may be added to a sentence's verb, with the wordings of both splits."""

import math

from ldpol.language.meanings import LEAN, NEVER, Bound, Meaning, wordings
from ldpol.tasks import Task


def _clause(bound: Bound, train: str, held_out: str) -> Meaning:
    """Return a meaning about one trait, which is its topic; wordings are separated by semicolons."""
    return Meaning((bound.trait,), (bound,), wordings(train), wordings(held_out))


BODY = (
    _clause(
        Bound("height", grade="low"),
        """keeping the body low; staying low; with a low body; crouching; in a crouch; squatting down; ducking down;
        with the torso near the ground; staying near the ground; with the hips low; with bent knees""",
        "with the body close to the floor; at a reduced level",
    ),
    _clause(
        Bound("height", grade="middle"),
        """at a medium height; with the body at a moderate height; keeping the body at medium height;
        at ordinary height; with the torso at a normal height; with the body neither high nor low; at a middling height;
        with the hips at a moderate height""",
        "at an average level",
    ),
    _clause(
        Bound("height", grade="high"),
        """keeping the body high; standing tall; with a high body; staying high; stretched up tall; with stretched legs;
        with the torso well off the ground; keeping the hips high; rising up high; with the torso high up; on tiptoe""",
        "with the body far above the floor; at a raised level",
    ),
    _clause(
        Bound("height variation", grade="low"),
        """keeping a steady height; with a steady body; without bobbing up and down; with hardly any bouncing;
        keeping the torso steady; gliding; with the body staying at the same height; without going up and down;
        with a stable torso; with an unchanging height; bouncing very little""",
        "smoothly; with little vertical motion; at a constant level",
    ),
    _clause(
        Bound("height variation", grade="high"),
        """bobbing up and down; with the body going up and down; bouncing up and down; rising and sinking a lot;
        with a bouncy gait; with the torso bobbing a lot; heaving up and down; with the height changing a lot;
        moving up and down a lot; with big ups and downs""",
        "with much vertical motion; with large vertical movement",
    ),
    _clause(
        Bound("pitch", LEAN),
        """leaning forward; with the body tilted forward; bent forward; hunched forward; stooped; bowing down;
        with the torso tipped forward; with the chest pointing down; with a forward lean; with the head hanging down;
        pitched forward; looking down at the ground; looking down""",
        "facing the floor; with the nose down",
    ),
    _clause(
        Bound("pitch", high=-LEAN),
        """leaning back; with the body tilted back; bent back; reclining; with the torso tipped back;
        with a backward lean; with the chest pointing up; looking up at the ceiling; looking up; arched back;
        with the head thrown back; pitched back""",
        "facing the sky; with the nose up",
    ),
    _clause(
        Bound("pitch", -LEAN, LEAN),
        """without leaning; neither leaning forward nor back; upright; staying upright; with an upright torso;
        with the torso erect; without tilting; keeping the body upright; not leaning at all; with an upright posture;
        leaning neither way; looking out to the front""",
        "with a straight back; facing straight ahead",
    ),
    _clause(
        Bound("airborne", high=NEVER),
        """without ever leaving the ground; never leaving the ground; always on the ground; never taking off;
        never in the air; staying on the ground all the time; never off the ground; at all times on the ground;
        without ever taking off; without any leap""",
        "without a single flight; constantly in touch with the floor",
    ),
    _clause(
        Bound("airborne", high=0.05),
        """hardly leaving the ground; almost never in the air; seldom in the air; rarely off the ground;
        barely taking off; nearly always on the ground; with hardly any time in the air; almost always on the ground;
        with little time off the ground; seldom airborne; hardly ever taking off""",
        "scarcely flying; with very little flight",
    ),
    _clause(
        Bound("airborne", 0.1, grade="high"),
        """spending much time in the air; often in the air; with a lot of time off the ground;
        airborne a lot of the time; leaping through the air; soaring; in the air again and again; with big leaps;
        floating through the air; with much airborne time; often taking off""",
        "flying for long; with long periods of flight",
    ),
    _clause(
        Bound("cadence", grade="low"),
        """with few steps; with a low step rate; taking few steps; stepping seldom; with few footfalls;
        with widely spaced steps; rarely stepping; with a low cadence; with few strides; stepping now and then;
        with pauses between steps; seldom putting a foot down""",
        "with rare contacts; touching the floor only occasionally",
    ),
    _clause(
        Bound("cadence", grade="high"),
        """with many steps; with a high step rate; taking many steps; stepping often; with many footfalls;
        with a high cadence; with lots of little steps; stepping many times a second; with numerous strides;
        stepping again and again; often putting a foot down; with many small strides""",
        "with frequent contacts; touching the floor frequently",
    ),
    _clause(
        Bound("effort", grade="low"),
        """with little effort; gently; without using much force; effortlessly; without trying hard; lightly; tenderly;
        economically; using little force; easily; without strain; in a relaxed way; with weak pushes""",
        "saving energy; with low power; softly",
    ),
    _clause(
        Bound("effort", grade="high"),
        """with a lot of effort; pushing hard; using much force; forcefully; strenuously; with much exertion;
        vigorously; working hard; using lots of force; straining; with strong pushes; intensely""",
        "spending energy; with high power; with great strength",
    ),
    _clause(
        Bound("survival", 1.0 - NEVER),
        """without falling; never falling; without falling over; without tripping; never toppling over;
        keeping balance throughout; without losing balance; surviving the whole time; lasting the entire time;
        without any crash; never going down; without any fall to the finish""",
        "with no collapse; until the very end",
    ),
    _clause(
        Bound("survival", high=0.5),
        """falling early; soon falling down; falling over soon; losing balance early; toppling over early;
        tripping soon; going down early; crashing soon; with a fall early on; stumbling and falling soon;
        with an early crash; finishing too early""",
        "with an early collapse; with an early end",
    ),
)


def sides(task: Task) -> tuple[Meaning, ...]:
    """Return how contact is shared between the two sides; nothing where feet do not pair up."""
    if not task.sides:
        return ()
    one, other = (task.measure_names[feet[0]] if len(feet) == 1 else f"{side} feet" for side, feet in task.sides)
    both = "both feet" if task.measures == 2 else "both sides"
    neither = "neither foot" if task.measures == 2 else "neither side"

    def favour(noun: str, other: str, bound: Bound) -> Meaning:
        return _clause(
            bound,
            f"""favoring the {noun}; using the {noun} more than the {other}; relying on the {noun};
            with the {noun} on the ground more than the {other}; using the {other} less than the {noun};
            mainly using the {noun}; standing more on the {noun} than on the {other}; mainly stepping with the {noun};
            resting on the {noun} more than on the {other}; with more time on the {noun}; neglecting the {other}""",
            f"with a preference for the {noun}; with the {noun} on the floor longer than the {other}",
        )

    return (
        favour(one, other, Bound("asymmetry", 0.1)),
        favour(other, one, Bound("asymmetry", high=-0.1)),
        _clause(
            Bound("asymmetry", -0.05, 0.05),
            f"""using {both} evenly; favoring {neither}; symmetrically; using {both} alike; treating {both} the same;
            relying on {both} alike; with {both} on the ground the same amount of time; with even time on {both};
            neglecting {neither}; using {both} in the same way""",
            f"with equal use of {both}; with a preference for {neither}",
        ),
    )


def foot(name: str) -> tuple[Meaning, ...]:
    """Return how long one foot touches the ground; nothing if the measure is not that of a foot."""
    if not name.endswith("foot"):
        return ()
    it = f"the {name}"
    return (
        _clause(
            Bound(name, high=NEVER),
            f"""without ever touching the ground with {it}; never putting {it} down; with {it} always in the air;
            never stepping on {it}; with {it} never on the ground; keeping {it} in the air all the time;
            with {it} up at all times; without using {it} at all; with {it} off the ground the whole time;
            never standing on {it}; always hanging {it} in the air""",
            f"with {it} constantly lifted; at no time setting {it} on the floor",
        ),
        _clause(
            Bound(name, high=0.15),
            f"""rarely touching the ground with {it}; with {it} mostly in the air; hardly using {it};
            seldom putting {it} down; with {it} off the ground most of the time; with {it} rarely on the ground;
            barely stepping on {it}; keeping {it} in the air most of the time; using {it} very little;
            with {it} almost always up; with {it} seldom on the ground; hardly ever putting {it} down""",
            f"with {it} lifted for the most part; only occasionally setting {it} on the floor",
        ),
        _clause(
            Bound(name, 0.4, 0.6),
            f"""with {it} on the ground half of the time; touching the ground with {it} about half the time;
            with {it} down half the time; with {it} in the air half of the time; using {it} half of the time;
            putting {it} down about half of the time; with {it} as often up as down; with {it} up half the time;
            stepping on {it} around half of the time; with {it} off the ground about half of the time""",
            f"with {it} on the floor for about half of the steps; raising {it} for half of the steps",
        ),
        _clause(
            Bound(name, 0.75, math.inf),
            f"""with {it} mostly on the ground; keeping {it} on the ground most of the time;
            with {it} nearly always on the ground; rarely taking {it} off the ground; with {it} down most of the time;
            hardly ever with {it} in the air; with {it} rarely in the air; with {it} hardly ever up;
            standing on {it} most of the time; using {it} nearly all the time; with {it} seldom off the ground;
            barely moving {it} off the ground""",
            f"with {it} on the floor for the most part; scarcely raising {it}",
        ),
    )
