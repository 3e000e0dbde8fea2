"""Other readings of the same parameters: which of them do what is stored?"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive.agreement import Agreement, agreement_of
from ldpol.archive.archive import Archive
from ldpol.archive.layouts import ORDERS, Order, from_vectors, to_vectors
from ldpol.networks import MLP, Network
from ldpol.rollout import RolloutConfig, rollout_batch
from ldpol.tasks import Reduction, Task, TaskState, reduction
from ldpol.tasks.task import REDUCTIONS
from ldpol.types import Array, Key, Params, PyTree

CANDIDATES = tuple((activation, final) for activation in ("tanh", "relu", "swish") for final in ("clip", "tanh"))
MOST_SWAPPED = 4
"""Measures of which all permutations are tried."""
CHANGE = 0.02
"""What a change costs in quality: of readings that agree equally well, the one nearest to what was said is named."""


def other_readings(archive: Archive, task: Task, key: Key, rollouts: RolloutConfig) -> list[tuple[str, Agreement]]:
    """Score the same parameters under other activations and orders, and other measures of their episodes; best first.

    Measures are swapped, reduced otherwise, and taken before steps instead of after them. One program rolls all of them
    out: which network acts is data.
    """
    given = archive.network
    nets: list[Network] = [given]
    names = [""]
    if isinstance(given, MLP):
        for activation, final in CANDIDATES:
            if (activation, final) != (given.activation, given.final):
                nets.append(dataclasses.replace(given, activation=activation, final=final))
                names.append(f"activation={activation!r}, final={final!r}")
    laid_out: list[tuple[str, Params]] = [("", archive.policies), *_other_orders(archive)]
    reduced, task = _reduced_otherwise(task)
    count, ways = len(archive), list(itertools.product(range(len(nets)), range(len(laid_out))))

    def apply(params: tuple[Array, Params], observation: Array) -> Array:
        which, policy = params
        return jnp.stack([net.apply(policy, observation) for net in nets])[which]

    which = jnp.repeat(jnp.asarray([net for net, _ in ways]), count)
    policies = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(laid_out[order][1] for _, order in ways))
    keys = jnp.tile(jax.random.split(key, count), len(ways))  # the same starts for all
    play = jax.jit(lambda policies, keys: rollout_batch(task, apply, policies, keys, config=rollouts))
    scores = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], play((which, policies), keys))
    tried = []
    for (i, (net, order)), (j, how) in itertools.product(enumerate(ways), enumerate(reduced)):
        rows = slice(i * count, (i + 1) * count)
        measures = scores.measures[rows, j * task.measures : (j + 1) * task.measures]
        for swap in _swaps(task.measures):
            swapped = swap != tuple(range(task.measures))
            parts = (names[net], laid_out[order][0], how, f"measures in the order {swap}" if swapped else "")
            said = [part for part in parts if part]
            if said and np.isfinite(measures).all():
                tried.append((said, agreement_of(archive, scores.fitness[rows], measures[:, list(swap)])))
    tried.sort(key=lambda pair: CHANGE * len(pair[0]) - pair[1].quality)
    return [(", ".join(said), found) for said, found in tried]


def _swaps(measures: int) -> Sequence[tuple[int, ...]]:
    straight = tuple(range(measures))
    return list(itertools.permutations(straight)) if measures <= MOST_SWAPPED else [straight]


def _reduced_otherwise(task: Task) -> tuple[list[str], Task]:
    """Return what to say of every way of reducing steps, and the task whose episodes give all of them `[W * M]`.

    The given way comes first; a `Reduction` of the user's own stays the only one.
    """
    names, ways = [""], [task.reduction]
    if not isinstance(task.reduce, Reduction):
        for how, when in itertools.product(REDUCTIONS, ("before", "after")):
            if (how, when) != (task.reduce, task.when):
                said = (f"reduce={how!r}" if how != task.reduce else "", f"when={when!r}" if when != task.when else "")
                names.append(", ".join(part for part in said if part))
                ways.append(reduction(task.measure, task.measures, how, when))  # type: ignore[arg-type]

    def update(records: PyTree, before: TaskState, action: Array, after: TaskState) -> PyTree:
        return tuple(way.update(record, before, action, after) for way, record in zip(ways, records, strict=True))

    def finish(records: PyTree, length: Array) -> Array:
        return jnp.concatenate([way.finish(record, length) for way, record in zip(ways, records, strict=True)])

    together = Reduction(lambda: tuple(way.init() for way in ways), update, finish)
    return names, task.replace(reduce=together)  # type: ignore[attr-defined]


def _other_orders(archive: Archive) -> list[tuple[str, Params]]:
    """Read the flat vectors that an archive came from in the other orders; none if it came from none."""
    stated: Order | None = dict(archive.settings).get("order")
    if stated not in ORDERS or not isinstance(archive.network, MLP):
        return []
    vectors = to_vectors(archive.policies, archive.network, stated)
    others = [order for order in ORDERS if order != stated]
    return [(f"order={order!r}", from_vectors(vectors, archive.network, order)) for order in others]  # type: ignore[arg-type]
