"""The archive that everything is measured against: its elites evaluated again, and which of them training may see."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from ldpol.archive import Archive, check_import, check_task, checked, depends_on, take
from ldpol.errors import UserError
from ldpol.hooks import Hooks
from ldpol.player import Player, make_player
from ldpol.regions import Region, make_region
from ldpol.tasks import Task
from ldpol.types import Behaviour, Key, Score

TRAINED, HELD_OUT, IN_BOX = 0, 1, 2
"""Kinds of elites in a `Split`."""
Box = tuple[Sequence[Any], Sequence[Any]]
"""Two opposite corners in task units, or those of several boxes: all low corners, then all high ones."""
NO_BOX: Box = ((), ())
BLANK = Behaviour(Score(0, 0, 0), 0, Score(0, 0, 0))  # type: ignore[arg-type]


def reevaluate(
    archive: Archive,
    task: Task,
    *,
    key: Key,
    episodes: int = 10,
    player: Player | None = None,
    check: bool = True,
    hooks: Hooks = Hooks(),
) -> Archive:
    """Evaluate the elites again: means over fresh episodes in place of the single draws that won their cells.

    What a search stored is often luck. The means are the labels that training learns and the reference of every
    comparison.

    Args:
      archive: N elites.
      task: where they act.
      key: decides the episodes.
      episodes: per policy; not looked at where there is a player, which has its own.
      player: evaluates policies; None compiles one.
      check: refuse an import whose policies do not do what is stored, see `archive.check_import`.
      hooks: of the caller.

    Returns:
      The archive with other `fitness` and `measures`, and with `traits`.

    Raises:
      UserError: if the archive does not fit the task, or fails the check.
    """
    check_task(archive, task)
    player = make_player(task, archive.network.apply, episodes=episodes) if player is None else player
    title = "evaluating the elites again"
    about = {"episodes": player.episodes, **depends_on(archive, task, key)}
    found = hooks.remember(
        "again", about, lambda: player(archive.policies, key, title=title, progress=hooks.progress), BLANK
    )
    archive = check_import(archive, task, key, found.score) if check else checked(archive)
    return dataclasses.replace(
        archive,
        fitness=jnp.asarray(found.score.fitness),
        measures=jnp.asarray(found.score.measures),
        traits=jnp.asarray(found.traits),
    )


@struct.dataclass
class Split:
    """Which elites of an archive training may see.

    Attributes:
      archive: all N elites.
      kind: `[N]` 0 for trained elites, 1 for random held-out ones, 2 for those inside the region.
      region: part of the measure space; empty for none.
    """

    archive: Archive
    kind: np.ndarray
    region: Region = struct.field(pytree_node=False, default=Region())

    @property
    def trained(self) -> Archive:
        """The elites that training may see."""
        return take(self.archive, self.kind == TRAINED)

    @property
    def held_out(self) -> Archive:
        """The random ones that it may not see."""
        return take(self.archive, self.kind == HELD_OUT)

    @property
    def in_box(self) -> Archive:
        """Those in the region, which it may not see either."""
        return take(self.archive, self.kind == IN_BOX)


def check_split(fraction: float, box: Box, bounds: tuple[Sequence[float], Sequence[float]]) -> Region:
    """Return the region of one box or several, if it fits measures with least and largest values `bounds`.

    Raises:
      UserError: if it does not, or the fraction is not in [0, 1).
    """
    region = make_region(*box, bounds)
    if not 0 <= fraction < 1:
        raise UserError(f"the held-out fraction must be in [0, 1), found {fraction}")
    return region


def split(archive: Archive, *, fraction: float = 0.1, box: Box = NO_BOX, seed: int = 0) -> Split:
    """Hold elites out of training: a random part, and all whose measures lie in a box or in one of several.

    Args:
      archive: N elites, re-evaluated: boxes are cut by the labels that training would see.
      fraction: of all elites, at random.
      box: two opposite corners `[M]` in task units, or `[K, M]` of K boxes, such as `regions.checkerboard` makes;
        empty for none.
      seed: decides the random ones.

    Raises:
      UserError: if nothing is left to train on, or the box does not fit the measures.
    """
    count = len(archive)
    region = check_split(fraction, box, (archive.grid.low, archive.grid.high))
    kind = np.zeros(count, np.int32)
    kind[np.random.default_rng(seed).permutation(count)[: round(fraction * count)]] = HELD_OUT
    kind[region.holds(archive.measures)] = IN_BOX
    if (kind == TRAINED).sum() < 2:
        raise UserError(f"only {(kind == TRAINED).sum()} of {count} elites are left to train on; hold fewer out")
    return Split(archive, kind, region)
