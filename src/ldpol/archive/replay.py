"""Do these policies do what the archive says? Roll some out again and compare; where they do not, find out why."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive.agreement import Agreement, Verdict, agreement_of
from ldpol.archive.archive import Archive, check_task, checked, is_imported, take
from ldpol.archive.assembling import check_finite
from ldpol.archive.candidates import other_readings
from ldpol.errors import UserError
from ldpol.networks import MLP, Network
from ldpol.rollout import Recorder, RolloutConfig, rollout_batch
from ldpol.tasks import Task, TaskState
from ldpol.types import Array, Key, Params, PyTree, Score, mean_score


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
        return best if best is not None and best[1].quality > self.agreement.quality else None

    def to_json(self) -> dict[str, Any]:
        """Return the verdict and what it is based on, as JSON values."""
        return {"verdict": self.verdict, "rank": self.agreement.rank, "miss": self.agreement.miss}


def compare(archive: Archive, score: Score) -> tuple[Verdict, Agreement]:
    """Judge new scores `[N]` of all elites of an archive against the stored ones."""
    found = agreement_of(archive, np.asarray(score.fitness), np.asarray(score.measures))
    return found.verdict(float(archive.grid.sides.max())), found


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
      candidates: where they differ, try other activations, orders of flat vectors and of measures, and measures
        reduced otherwise, before steps or after them.
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
    verdict, found = compare(chosen, score)
    side = float(archive.grid.sides.max())
    tried: list[tuple[str, Agreement]] = []
    if verdict != "same" and candidates:
        few = take(chosen, np.arange(0, count, max(1, count // 32)))
        tried = other_readings(few, task, key, rollouts)
    return Replay(
        verdict=verdict,
        agreement=found,
        elites=count,
        cells=found.miss / side,
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


def _bounds_recorder(network: Network) -> Recorder:
    """Add up, over the steps of an episode, the share of actions within a hundredth of a bound."""

    def update(record: PyTree, state: TaskState, action: Array, key: Key) -> PyTree:
        if not isinstance(network, MLP) or network.final == "identity":
            return record
        edge = 0.005 * (network.high - network.low)
        return record + ((action >= network.high - edge) | (action <= network.low + edge)).mean()

    return Recorder(lambda: jnp.zeros(()), update)
