"""Runs of many policies through the task, each kept on disk as soon as it is over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
from flax import serialization

from ldpol import storage
from ldpol.archive import Archive
from ldpol.evaluation.reconstruction import score_policies
from ldpol.experiments import session, settings
from ldpol.experiments.settings import Config
from ldpol.policy import PolicyShape
from ldpol.rollout import RolloutConfig, over_chunks, policy_mesh
from ldpol.tasks import Task
from ldpol.types import Behaviour, Key, PyTree, Score

T = TypeVar("T")


def common(config: Config) -> dict[str, Any]:
    """Return what every scoring of policies is called with: episodes, lanes, devices."""
    device = settings.build(RolloutConfig, config.rollout.device)
    return {"episodes": config.eval.episodes, "config": device, "mesh": policy_mesh()}


def player(config: Config, task: Task, shape: PolicyShape) -> Callable[[PyTree, Key], Behaviour]:
    """Return the compiled player of given policies, `(policies, keys) -> Behaviour [N]`."""
    return jax.jit(lambda policies, keys: score_policies(task, shape.apply, policies, keys, **common(config)))


def check(folder: Path, config: Config, sections: tuple[str, ...]) -> None:
    """Raise `ConfigError` if passes in `folder` were played under other settings than the ones asked for now.

    A pass names the settings that it depends on; others may change.
    """
    now = settings.as_json(config, *sections)
    for path in sorted(folder.glob("*")):
        if storage.exists(path):
            stored = storage.load(path, kind="scores")[1]["config"]
            session.check_equal(stored, settings.restrict(now, stored), folder.parent)


def as_behaviour(arrays: dict[str, Any]) -> Behaviour:
    """Return the `Behaviour` that was stored."""
    return Behaviour(Score(**arrays["score"]), arrays["traits"])


def run(
    config: Config,
    path: Path,
    title: str,
    program: Callable[..., T],
    inputs: PyTree,
    key: Key,
    about: dict[str, Any],
    timer: session.Timer,
    *,
    size: int | None = None,
    unit: str = "policy",
    restore: Callable[[dict[str, Any]], T] = as_behaviour,
) -> T:
    """Run a program over all rows of `inputs`, or read what an earlier run with the same `about` left at `path`.

    Args:
      config: gives the rows a chunk, unless `size` does.
      path: where the results are kept.
      title: of the progress bar.
      program: `(rows, keys) -> results`, jitted; see `over_chunks`.
      inputs: N rows.
      key: gives each row its own.
      about: what the results depend on; kept beside them.
      timer: of the suite; its time at the end is kept too.
      size: rows a chunk.
      unit: what a row is.
      restore: nested dicts of arrays to results.
    """
    if storage.exists(path):
        arrays, found = storage.load(path, kind="scores")
        seconds = found.pop("seconds")
        if found == about:
            session.say(f"{title}: already done")
            timer.advance_to(seconds)
            return restore(arrays)
    count = jax.tree.leaves(inputs)[0].shape[0]
    rows = config.rollout.chunk if size is None else size
    with session.progress(title, count, unit=unit) as bar:
        result = over_chunks(program, inputs, key, size=rows, mesh=policy_mesh(), done=bar.update)
    arrays = serialization.to_state_dict(result)
    storage.save(path, arrays, kind="scores", about=about | {"seconds": timer.seconds})
    return result


def reference(config: Config, workdir: Path, archive: Archive) -> Behaviour:
    """Play the elites again, as the evaluation will: what the archive is worth, and what training takes as labels.

    What the search stored are single draws that won their cell, many of them by luck. The scores lie in
    `archive/again`; whoever comes first, the archive stage or one that was handed an archive, makes them.

    Returns:
      Mean `Behaviour` `[N]` over `config.eval.episodes` episodes a policy.
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
