"""Runs of many policies through the task, each kept on disk as soon as it is over."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ldpol import storage
from ldpol.archive import Archive
from ldpol.evaluation.reconstruction import score_policies
from ldpol.experiments import session, settings
from ldpol.experiments.settings import Config
from ldpol.policy import PolicyShape
from ldpol.rollout import RolloutConfig, over_chunks, policy_mesh
from ldpol.tasks import Task
from ldpol.types import Key, PyTree, Score


def common(config: Config) -> dict[str, Any]:
    """Return what every scoring of policies is called with: episodes, lanes, devices."""
    device = settings.build(RolloutConfig, config.rollout.device)
    return {"episodes": config.eval.episodes, "config": device, "mesh": policy_mesh()}


def player(config: Config, task: Task, shape: PolicyShape) -> Callable[[PyTree, Key], Score]:
    """Return the compiled scorer of given policies, `(policies, keys) -> Score [N]`."""
    return jax.jit(lambda policies, keys: score_policies(task, shape.apply, policies, keys, **common(config)))


def check(folder: Path, config: Config, sections: tuple[str, ...]) -> None:
    """Raise `ConfigError` if passes in `folder` were played under other settings than the ones asked for now."""
    for path in sorted(folder.glob("*")):
        if storage.exists(path):
            session.check_same(storage.load(path, kind="scores")[1]["config"], config, sections, folder.parent)


def run(
    config: Config,
    path: Path,
    title: str,
    program: Callable[..., Score],
    inputs: PyTree,
    key: Key,
    about: dict[str, Any],
    timer: session.Timer,
) -> Score:
    """Score all rows of `inputs`, or read the scores an earlier run with the same `about` left at `path`."""
    if storage.exists(path):
        arrays, found = storage.load(path, kind="scores")
        seconds = found.pop("seconds")
        if found == about:
            session.say(f"{title}: already done")
            timer.advance_to(seconds)
            return Score(**arrays)
    count = jax.tree.leaves(inputs)[0].shape[0]
    with session.progress(title, count, unit="policy") as bar:
        score = over_chunks(program, inputs, key, size=config.rollout.chunk, mesh=policy_mesh(), done=bar.update)
    storage.save(path, dataclasses.asdict(score), kind="scores", about=about | {"seconds": timer.seconds})
    return score


def reference(config: Config, workdir: Path, archive: Archive) -> Score:
    """Play the elites again, as the evaluation will: what the archive is worth, and what training takes as labels.

    What the search stored are single draws that won their cell, many of them by luck. The scores lie in
    `archive/again`; whoever comes first, the archive stage or one that was handed an archive, makes them.

    Returns:
      Mean `Score` `[N]` over `config.eval.episodes` episodes a policy.
    """
    task, shape, _ = session.make_setting(config)
    about = {
        "config": settings.as_json(config, "seed", "task", "policy") | {"episodes": config.eval.episodes},
        "archive": storage.fingerprint(workdir / "archive" / "elites"),
    }
    return run(
        config,
        workdir / "archive" / "again",
        "playing the elites again",
        player(config, task, shape),
        archive.policies,
        jax.random.fold_in(jax.random.key(config.seed), 3),
        about,
        session.Timer(),
    )
