"""The protocol: suites of measurements on objects in memory."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from ldpol import storage
from ldpol.archive import Archive, check, check_task, depends_on
from ldpol.errors import UserError
from ldpol.evaluation.context import Context, Suite
from ldpol.evaluation.suites.reconstruction import Reconstruction
from ldpol.generator import PolicyGenerator
from ldpol.generator_settings import arrays_of, settings_of
from ldpol.hooks import Hooks
from ldpol.player import Player, make_player
from ldpol.reference import Split
from ldpol.reference import split as hold_out
from ldpol.rollout import copied_to, keep_states, over_chunks, rollout_batch
from ldpol.tasks import Task
from ldpol.types import Key

STATES = 32
"""Observations per elite in which policies are compared, where the caller gives none."""


def open_context(
    generator: PolicyGenerator,
    archive: Archive,
    task: Task,
    *,
    key: Key,
    split: Split | None = None,
    player: Player | None = None,
    hooks: Hooks = Hooks(),
    observations: Callable[[], np.ndarray] | None = None,
) -> Context:
    """Put together what suites work with, and check that it belongs together; arguments as in `evaluate`."""
    check(archive)
    check_task(archive, task)
    if (generator.task, generator.shape, generator.grid) != (archive.task, archive.network, archive.grid):
        raise UserError(
            f"the generator (of {generator.task}, policies {generator.shape}) does not belong to the archive (of "
            f"{archive.task}, policies {archive.network}); distil this archive"
        )
    split = hold_out(archive, fraction=0.0) if split is None else split
    if len(split.kind) != len(archive):
        raise UserError(f"the split is of {len(split.kind)} elites, the archive has {len(archive)}; split this archive")
    player = make_player(task, archive.network.apply, episodes=10) if player is None else player
    return Context(
        generator=jax.device_put(generator, copied_to(player.mesh)),
        archive=jax.device_get(archive),
        split=split,
        task=task,
        player=player,
        key=key,
        hooks=hooks,
        observations=partial(visited, archive, task, player, key, hooks) if observations is None else observations,
        identity={
            "model": storage.fingerprint_of(arrays_of(generator), settings_of(generator)),
            "split": storage.fingerprint_of({"kind": split.kind}, {}),
            **depends_on(archive, task, key),
        },
    )


def visited(archive: Archive, task: Task, player: Player, key: Key, hooks: Hooks) -> np.ndarray:
    """Return observations `[B, O]` that the elites visit, `STATES` each."""
    how = {"mesh": player.mesh, "recorder": keep_states(task, STATES)}
    program = jax.jit(lambda policies, keys: rollout_batch(task, archive.network.apply, policies, keys, **how)[1][0])
    with hooks.progress("states of the elites", len(archive)) as done:
        states = over_chunks(program, archive.policies, key, size=player.chunk, mesh=player.mesh, done=done)
    return states.reshape(-1, task.observation_size)


def evaluate(
    generator: PolicyGenerator,
    archive: Archive,
    task: Task,
    *,
    key: Key,
    split: Split | None = None,
    suites: Sequence[Suite] = (Reconstruction(),),
    player: Player | None = None,
    hooks: Hooks = Hooks(),
    observations: Callable[[], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Measure a generator against the archive that it was distilled from.

    Args:
      generator: the model.
      archive: all N elites, re-evaluated (`ldpol.reevaluate`): the reference of every ratio.
      task: where they act.
      key: decides everything random.
      split: which elites training saw; None: all.
      suites: what to measure, see `evaluation.suites`.
      player: evaluates policies, its number of episodes each; None compiles one of 10 episodes.
      hooks: kept results, log and progress.
      observations: gives `[B, O]` states in which the actions of policies are compared; None: states of the elites.

    Returns:
      The metrics of all suites, JSON-able.

    Raises:
      UserError: if generator, archive, task and split do not belong together, or a suite does not fit the task.
    """
    for suite in suites:
        suite.check_task(task)
    context = open_context(
        generator, archive, task, key=key, split=split, player=player, hooks=hooks, observations=observations
    )
    metrics: dict[str, Any] = {}
    for suite in suites:
        metrics |= suite.run(context).metrics
    return metrics
