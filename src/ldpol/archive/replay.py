"""Do these policies do what the archive says? Roll some out again and compare; where they do not, find out why."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive.archive import Archive, check_task, checked, is_imported, take
from ldpol.archive.assembling import check_finite
from ldpol.archive.layouts import ORDERS, Order, from_vectors, to_vectors
from ldpol.errors import UserError
from ldpol.networks import MLP, Network
from ldpol.rollout import Recorder, RolloutConfig, rollout_batch
from ldpol.tasks import Task, TaskState
from ldpol.types import Array, Key, Params, PyTree, Score, mean_score

Verdict = Literal["same", "doubtful", "wrong"]
RANKS = (0.9, 0.5)
"""Rank correlation of fitness from which on policies count as the same, and below which as wrong."""
MISS = 0.05
"""Part of a measure's range by which the same policies may miss what is stored, half of them; or a cell, if larger."""
WRONG_MISS = 2.0
"""Times that much, they are wrong."""
CANDIDATES = tuple((activation, final) for activation in ("tanh", "relu", "swish") for final in ("clip", "tanh"))
MOST_SWAPPED = 4
"""Measures of which all permutations are tried."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far replayed scores agree with stored ones.

    Attributes:
      rank: Spearman's correlation of fitness; NaN where all of it is the same.
      ratio: mean fitness replayed by stored.
      miss: median over elites of the largest difference of a measure, of a range of 1.
      miss_90: the same, the 90th percentile.
    """

    rank: float
    ratio: float
    miss: float
    miss_90: float

    def verdict(self, side: float) -> Verdict:
        """Judge, where a cell is `side` wide of a range of 1."""
        limit = max(side, MISS)
        if self.rank < RANKS[1] or self.miss > WRONG_MISS * limit:
            return "wrong"
        alike = not self.rank < RANKS[0]  # NaN: nothing to rank
        return "same" if alike and self.miss <= limit else "doubtful"


@dataclasses.dataclass(frozen=True)
class Replay:
    """What `replay` found.

    Attributes:
      verdict: `same`, `doubtful` or `wrong`.
      agreement: the figures it is based on.
      elites: how many were rolled out.
      cells: median miss in cells.
      ended_early: share of episodes that ended before the time limit.
      at_bounds: share of actions at their bounds.
      candidates: other readings of the same parameters, what to change and how far they agree, best first; only where
        the verdict is not `same`.
    """

    verdict: Verdict
    agreement: Agreement
    elites: int
    cells: float
    ended_early: float
    at_bounds: float
    candidates: tuple[tuple[str, Agreement], ...] = ()

    def __str__(self) -> str:
        """Return the verdict in one sentence or two."""
        found = self.agreement
        text = f"{self.verdict}: replayed fitness ranks {found.rank:.2f} with the stored one"
        text += f", {found.ratio:.2f} of its mean, measures miss by {found.miss:.3g} ({self.cells:.1f} cells)"
        text += f" in {self.elites} elites; {self.ended_early:.0%} of the episodes end early, "
        text += f"{self.at_bounds:.0%} of the actions are at their bounds"
        better = self.better
        if better is not None:
            text += f"; with {better[0]} it is {better[1].rank:.2f} and {better[1].miss:.3g}"
        return text

    @property
    def better(self) -> tuple[str, Agreement] | None:
        """The best other reading, if it agrees better than the one given."""
        best = self.candidates[0] if self.candidates else None
        return best if best is not None and _quality(best[1]) > _quality(self.agreement) else None


def compare(archive: Archive, score: Score) -> tuple[Verdict, Agreement]:
    """Judge new scores `[N]` of all elites of an archive against the stored ones."""
    agreement = _agreement(archive, np.asarray(score.fitness), np.asarray(score.measures))
    return agreement.verdict(float(archive.grid.sides.max())), agreement


def replay(
    archive: Archive,
    task: Task,
    key: Key,
    *,
    elites: int = 64,
    episodes: int = 1,
    candidates: bool = True,
    rollouts: RolloutConfig = RolloutConfig(),
) -> Replay:
    """Roll out elites of an archive and compare with what is stored: the check of an import.

    Stored scores of noisy episodes are lucky draws: a ratio below 1 is no fault, and the verdict goes by ranks. An
    archive that was made from one fixed reset is compared best with that one, see `task_from_qdax(env, reset_key=)`.

    Args:
      archive: the archive.
      task: what it was collected on.
      key: decides the episodes.
      elites: how many to roll out, spread over fitness and measures; all if there are fewer.
      episodes: episodes each; their means are compared.
      candidates: where they differ, try other activations, orders of flat vectors and of measures.
      rollouts: how rollouts use a device.

    Raises:
      UserError: if the archive's policies do not fit the task, or its measures are not finite.
    """
    check_task(archive, task)
    chosen = take(archive, spread_out(archive, elites))
    count = len(chosen)
    recorder = _bounds_recorder(archive.network)

    @jax.jit
    def play(policies: Params, keys: Key) -> Any:
        return rollout_batch(
            task, archive.network.apply, policies, keys, episodes=episodes, config=rollouts, recorder=recorder
        )

    keys = jax.random.split(key, count)
    scores, at_bounds = play(chosen.policies, keys)
    score = jax.tree.map(np.asarray, mean_score(scores))
    check_finite(score.measures, task)
    verdict, agreement = compare(chosen, score)
    side = float(archive.grid.sides.max())
    tried: list[tuple[str, Agreement]] = []
    if verdict != "same" and candidates:
        few = take(chosen, np.arange(0, count, max(1, count // 32)))
        tried = _try_others(few, task, key, rollouts)
    return Replay(
        verdict=verdict,
        agreement=agreement,
        elites=count,
        cells=agreement.miss / side,
        ended_early=float((np.asarray(scores.length) < task.episode_length).mean()),
        at_bounds=float((np.asarray(at_bounds) / np.maximum(np.asarray(scores.length), 1.0)).mean()),
        candidates=tuple(tried),
    )


def check_import(archive: Archive, task: Task, key: Key, score: Score | None = None) -> Archive:
    """Refuse an import whose policies do not do what is stored; an archive that is none is returned as it is.

    Args:
      archive: the archive.
      task: what it was collected on.
      key: decides the episodes.
      score: `[N]` of all elites, where they have been rolled out already; None rolls some out.

    Returns:
      The archive, marked as checked.

    Raises:
      UserError: if the verdict is `wrong`; it names what would be right, if anything tried is.
    """
    if not is_imported(archive):
        return archive
    if score is None or compare(archive, score)[0] == "wrong":
        found = replay(archive, task, key)
        if found.verdict == "wrong":
            raise UserError(
                f"these policies do not do what the archive says ({found}); import it with the right network, order "
                "and task, or pass check=False"
            )
    return checked(archive)


def spread_out(archive: Archive, count: int) -> np.ndarray:
    """Return the rows of `count` elites far from each other in fitness and measures, the best one first."""
    fitness = np.asarray(archive.fitness)
    if len(fitness) <= count:
        return np.arange(len(fitness))
    rank = np.argsort(np.argsort(fitness)) / len(fitness)
    places = np.column_stack([np.asarray(archive.grid.scaled(np.asarray(archive.measures))), rank])
    rows = [int(fitness.argmax())]
    distance = np.full(len(fitness), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, ((places - places[rows[-1]]) ** 2).sum(1))
        rows.append(int(distance.argmax()))
    return np.asarray(rows)


def _agreement(archive: Archive, fitness: np.ndarray, measures: np.ndarray) -> Agreement:
    stored = np.asarray(archive.fitness)
    apart = np.abs(archive.grid.scaled(measures) - archive.grid.scaled(np.asarray(archive.measures))).max(-1)
    ratio = float(fitness.mean() / stored.mean()) if stored.mean() else math.nan
    return Agreement(_spearman(stored, fitness), ratio, float(np.median(apart)), float(np.quantile(apart, 0.9)))


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Return the rank correlation of two vectors `[N]`, ties at their mean rank; NaN where either is constant."""

    def ranks(values: np.ndarray) -> np.ndarray:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    if len(np.unique(one)) < 2 or len(np.unique(other)) < 2:
        return math.nan
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def _quality(agreement: Agreement) -> float:
    return (0.0 if math.isnan(agreement.rank) else agreement.rank) - agreement.miss / (WRONG_MISS * MISS)


def _bounds_recorder(network: Network) -> Recorder:
    """Add up, over the steps of an episode, the share of actions within a hundredth of a bound."""

    def update(record: PyTree, state: TaskState, action: Array, key: Key) -> PyTree:
        if not isinstance(network, MLP) or network.final == "identity":
            return record
        edge = 0.005 * (network.high - network.low)
        return record + ((action >= network.high - edge) | (action <= network.low + edge)).mean()

    return Recorder(lambda: jnp.zeros(()), update)


def _try_others(archive: Archive, task: Task, key: Key, rollouts: RolloutConfig) -> list[tuple[str, Agreement]]:
    """Score the same parameters under other activations and orders, and with measures swapped; best first.

    One program plays them all: which network acts is data.
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
    for i, (net, order) in enumerate(ways):
        rows = slice(i * count, (i + 1) * count)
        what = [text for text in (names[net], laid_out[order][0]) if text]
        for swap in _swaps(task.measures):
            found = _agreement(archive, scores.fitness[rows], scores.measures[rows][:, list(swap)])
            said = [*what, f"measures in the order {swap}"] if swap != tuple(range(task.measures)) else what
            if said and np.isfinite(scores.measures[rows]).all():
                tried.append((", ".join(said), found))
    return sorted(tried, key=lambda pair: -_quality(pair[1]))


def _swaps(measures: int) -> Sequence[tuple[int, ...]]:
    straight = tuple(range(measures))
    return list(itertools.permutations(straight)) if measures <= MOST_SWAPPED else [straight]


def _other_orders(archive: Archive) -> list[tuple[str, Params]]:
    """Read the flat vectors that an archive came from in the other orders; none if it came from none."""
    stated: Order | None = dict(archive.settings).get("order")
    if stated not in ORDERS or not isinstance(archive.network, MLP):
        return []
    vectors = to_vectors(archive.policies, archive.network, stated)
    others = [order for order in ORDERS if order != stated]
    return [(f"order={order!r}", from_vectors(vectors, archive.network, order)) for order in others]  # type: ignore[arg-type]
