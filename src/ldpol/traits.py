"""How a policy behaves beyond its measures: statistics of an episode, accumulated in fixed memory while it is played.

    recorder = trait_recorder(task)
    score, record = rollout_batch(..., episodes=E, recorder=recorder)
    each = jax.vmap(jax.vmap(partial(traits_and_measures, task)))(score, record)  # [N, E, K + M]
    traits = each.mean(1)  # [N, K + M]

A recorder sees the state before each step lived. Of a life of T steps it therefore sees the T states from the start to
one step before the end, and T - 1 changes between them; speed and cadence are over these.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ldpol.errors import UserError
from ldpol.rollout import NO_RECORD, Recorder
from ldpol.tasks import Task, TaskState, Torso
from ldpol.types import Array, Behaviour, Key, PyTree, Score, mean_score


class Trait(NamedTuple):
    """A column of a table of behaviours.

    Attributes:
      name: what it is called.
      unit: SI; 1 for fractions.
      meaning: in a sentence.
    """

    name: str
    unit: str
    meaning: str


TRAITS = (
    Trait("forward speed", "m/s", "mean velocity of the torso along x"),
    Trait("height", "m", "mean height of the torso's origin above the ground"),
    Trait("height variation", "m", "standard deviation of that height over the episode"),
    Trait("pitch", "rad", "circular mean of the torso's pitch, positive when it leans forward"),
    Trait("airborne", "1", "fraction of steps at which no foot touches the ground"),
    Trait("cadence", "Hz", "steps a second: touch-downs of any foot that was in the air for 0.02 s or more"),
    Trait("asymmetry", "1", "fraction of steps at which the feet of the first side touch, less that of the second"),
    Trait("effort", "1", "mean of the squared actions"),
    Trait("survival", "1", "steps lived over the length of an episode"),
)


def has_traits(task: Task) -> bool:
    """Tell whether a task has traits: it says where its torso is, and its measures are contacts of every step."""
    return task.torso is not None and task.is_mean_of_steps


def traits(task: Task) -> tuple[Trait, ...]:
    """Return the K traits that a task has: all `TRAITS`, less the asymmetry where feet do not pair up.

    Raises:
      UserError: if the task does not say where its torso is, or its measures are not means over the steps.
    """
    if task.torso is None:
        raise UserError(f"task {task.name!r} has no traits: it does not say where its torso is; set `Task.torso`")
    if not task.is_mean_of_steps:
        raise UserError(
            f"task {task.name!r} has no traits: they count contacts step by step, its measures are no means over steps"
        )
    return tuple(trait for trait in TRAITS if task.sides or trait.name != "asymmetry")


def columns(task: Task) -> tuple[Trait, ...]:
    """Return what the K + M columns of `traits_and_measures` are: the task's traits, then its measures.

    Raises:
      ValueError: if the task does not say where its torso is.
    """
    touches = "fraction of steps after which the foot touches the ground"
    return (*traits(task), *(Trait(name, "1", touches) for name in task.measure_names))


FLIGHT = 0.02
"""Seconds in the air after which a touch-down is a step. Simulated contacts chatter: when random policies lift a foot
of walker2d off the ground, more than half of the times last a single step of the task."""


@struct.dataclass
class TraitSums:
    """Running sums of one episode.

    Attributes:
      steps: `[]` states seen.
      first, last: `[3]` position of the torso in the first and the latest of them, metres.
      rise, rise_squared: `[]` sums over the states of the height above the first one, and of its square. Differences
        to a nearby height, because the squares of heights themselves would round away their small variation.
      pitch: `[2]` sums of its cosine and sine, so that angles average well where they wrap around.
      airborne: `[]` states at which no foot touches.
      flight: `[M]` states for which each foot has been in the air, 0 for one that touches.
      touchdowns: `[]` times that a foot came down after long enough in the air, over all feet.
      contacts: `[M]` states at which each foot touches.
      effort: `[]` sum of the mean squared action.
    """

    steps: Array
    first: Array
    last: Array
    rise: Array
    rise_squared: Array
    pitch: Array
    airborne: Array
    flight: Array
    touchdowns: Array
    contacts: Array
    effort: Array


def trait_recorder(task: Task) -> Recorder:
    """Return the recorder of a task's traits; its record is a `TraitSums`.

    Raises:
      ValueError: if the task does not say where its torso is.
    """
    traits(task)
    torso = task.torso
    assert torso is not None
    least = max(1, math.ceil(FLIGHT / task.dt - 1e-6))

    def init() -> TraitSums:
        zero, feet, place = jnp.zeros(()), jnp.zeros(task.measures), jnp.zeros(3)
        return TraitSums(zero, place, place, zero, zero, jnp.zeros(2), zero, feet, zero, feet, zero)

    def update(sums: TraitSums, state: TaskState, action: Array, key: Key) -> TraitSums:
        return _add(sums, torso(state), task.measure(state), jnp.clip(action, -1.0, 1.0), least)

    return Recorder(init, update)


def _add(sums: TraitSums, torso: Torso, touching: Array, action: Array, least: int) -> TraitSums:
    """Add one state: its torso, its contacts `[M]`, and the action `[A]` taken in it; `least` states make a flight."""
    first = jnp.where(sums.steps > 0, sums.first, torso.position)
    down = touching > 0.5
    rise = torso.position[2] - first[2]
    return TraitSums(
        steps=sums.steps + 1.0,
        first=first,
        last=torso.position,
        rise=sums.rise + rise,
        rise_squared=sums.rise_squared + rise**2,
        pitch=sums.pitch + jnp.stack([jnp.cos(torso.pitch), jnp.sin(torso.pitch)]),
        airborne=sums.airborne + ~down.any(),
        flight=jnp.where(down, 0.0, sums.flight + 1.0),
        touchdowns=sums.touchdowns + (down & (sums.flight >= least)).sum(),
        contacts=sums.contacts + touching,
        effort=sums.effort + (action**2).mean(),
    )


def summarise_traits(task: Task, sums: TraitSums) -> Array:
    """Turn the sums of one episode into its traits `[K]`, in the order of `traits(task)`."""
    steps = jnp.maximum(sums.steps, 1.0)
    seconds = jnp.maximum(sums.steps - 1.0, 1.0) * task.dt  # nothing moved in a life of one step: 0 a second
    rise = sums.rise / steps
    values = {
        "forward speed": (sums.last[0] - sums.first[0]) / seconds,
        "height": sums.first[2] + rise,
        "height variation": jnp.sqrt(jnp.maximum(sums.rise_squared / steps - rise**2, 0.0)),
        "pitch": jnp.arctan2(sums.pitch[1], sums.pitch[0]),
        "airborne": sums.airborne / steps,
        "cadence": sums.touchdowns / seconds,
        "asymmetry": _asymmetry(task, sums.contacts / steps),
        "effort": sums.effort / steps,
        "survival": sums.steps / task.episode_length,
    }
    return jnp.stack([values[trait.name] for trait in traits(task)])


def _asymmetry(task: Task, contacts: Array) -> Array:
    """Mean contact of the first side's feet less that of the second's."""
    if not task.sides:
        return jnp.zeros(())
    first, second = (contacts[jnp.asarray(feet)].mean() for _, feet in task.sides)
    return first - second


def traits_and_measures(task: Task, score: Score, sums: TraitSums) -> Array:
    """Put one episode's traits and measures side by side `[K + M]`, in the order of `columns(task)`."""
    return jnp.concatenate([summarise_traits(task, sums), score.measures])


def behaviour_recorder(task: Task) -> Recorder:
    """Return the recorder whose record `summarise_behaviour` reads; an empty one of a task without traits."""
    return trait_recorder(task) if has_traits(task) else NO_RECORD


def summarise_behaviour(task: Task, score: Score, record: PyTree) -> Behaviour:
    """Average the episodes of one policy.

    Args:
      task: the task.
      score: `[E]` of its episodes.
      record: of the recorder `behaviour_recorder(task)`, leading axis E; anything for a task without traits.
    """
    traits = jnp.zeros(0)
    if has_traits(task):
        traits = jax.vmap(partial(traits_and_measures, task))(score, record).mean(0)
    return Behaviour(mean_score(score), traits, score)
