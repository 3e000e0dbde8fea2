"""Stage `evaluate`: run the suites of measurements that the config names and write `eval/`."""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldpol import generator_file as generators
from ldpol import session, storage
from ldpol.errors import UserError
from ldpol.evaluation.context import Suite, with_hooks
from ldpol.evaluation.protocol import open_context
from ldpol.evaluation.tables import as_text
from ldpol.experiments import configs, stages
from ldpol.experiments.configs import Config
from ldpol.experiments.keeping import KIND, Keeper, check_equal
from ldpol.experiments.train import hold_out

SECTIONS = ("seed", "task", "policy")


def run(config: Config, workdir: Path) -> None:
    """Run the suites in order, skipping results an earlier run has, and write what is known by now.

    Metrics of suites that are not asked for this time are kept if they were measured on the same archive and model.

    Raises:
      FileNotFoundError: if archive or generator are missing.
      UserError: if files do not belong together, or the folder holds scores of other settings.
    """
    folder, task, chosen = workdir / "eval", configs.task_of(config), configs.suites_of(config)
    stored, generator = stages.load_archive(config, task, workdir), generators.load(workdir / "model")
    identity = {
        "archive": storage.fingerprint(stages.elites_of(workdir)),
        "model": storage.digest(workdir / "model"),
    }
    trained = storage.read_json(workdir / "train" / "metrics.json")
    if trained["archive"] != identity["archive"]:
        raise UserError(
            f"the generator in {workdir / 'model'} was trained on another archive than {workdir / 'archive'} "
            f"holds now; delete {workdir / 'train'} and run the train stage again"
        )
    _check(folder / "passes", config)
    player = stages.player_of(config, task, stored)
    archive = stages.reevaluated(config, workdir, stored, task, player)
    # What training really held out, whatever the config says now.
    parts = hold_out(archive, trained["seed"], trained["config"]["train"]["held_out"])
    context = open_context(
        generator,
        archive,
        task,
        key=stages.key_of(config, "evaluate"),
        split=parts,
        player=player,
        observations=lambda: _states(workdir),
    )
    for suite in chosen:
        keeper = Keeper("evaluate", folder / "passes", lambda found: _about(config, found) | identity)
        result = suite.run(with_hooks(context, keeper.hooks))
        if result.arrays:
            own = {"stored_fitness": np.asarray(stored.fitness), "stored_measures": np.asarray(stored.measures)}
            whole = suite.name == "reconstruction"
            _write_arrays(
                folder / ("arrays.npz" if whole else f"{suite.name}.npz"), result.arrays | (own if whole else {})
            )
        for table in suite.tables(result.metrics):
            session.say(as_text(table))
        about = {"about": _suite_about(config, suite) | identity, "seconds": round(keeper.timer.seconds, 3)}
        storage.write_json(folder / "suites" / f"{suite.name}.json", about | {"metrics": result.metrics})
    metrics = gather(config, identity, folder / "suites")
    storage.write_json(folder / "metrics.json", metrics | session.provenance(configs.as_json(config), config.seed))


def _states(workdir: Path) -> np.ndarray:
    """Return the observations `[B, O]` that training learnt from, elite by elite."""
    paths = [workdir / "train" / "data", *sorted((workdir / "train").glob("dagger-*"))]
    states = np.concatenate([storage.load(path, kind=KIND)[0]["states"] for path in paths], 1)
    return states.reshape(-1, states.shape[-1]).astype(np.float32)


def _about(config: Config, depends_on: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a result of a suite depends on: `config.eval` with the suite's own settings alone."""
    own = {"episodes": depends_on["episodes"], depends_on["suite"]: dict(depends_on["settings"])}
    return {"config": configs.as_json(config, *SECTIONS) | {"eval": own}}


def _suite_about(config: Config, suite: Suite) -> dict[str, Any]:
    depends_on = {
        "episodes": config.eval.episodes,
        "suite": suite.name,
        "settings": dataclasses.asdict(suite),  # type: ignore[call-overload]
    }
    return json.loads(json.dumps(_about(config, depends_on)))


def _check(folder: Path, config: Config) -> None:
    """Raise `UserError` if results in `folder` were measured under other settings than the ones asked for now."""
    suites = {suite.name: dataclasses.asdict(suite) for suite in configs.all_suites(config)}  # type: ignore[call-overload]
    now = configs.as_json(config, *SECTIONS) | {"eval": {"episodes": config.eval.episodes, **suites}}
    now = json.loads(json.dumps(now))
    for path in sorted(folder.glob("*")):
        if storage.exists(path):
            stored = storage.load(path, kind=KIND)[1]["config"]
            check_equal(stored, configs.restrict(now, stored), folder.parent)


def gather(config: Config, identity: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Merge the metrics of all suites that were measured on this archive and model with these settings."""
    metrics: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for suite in configs.all_suites(config):
        path = folder / f"{suite.name}.json"
        if path.is_file():
            found = storage.read_json(path)
            if found["about"] == _suite_about(config, suite) | dict(identity):
                metrics |= found["metrics"]
                seconds[suite.name] = found["seconds"]
            else:
                session.say(f"evaluate: {path} is of another archive, model or settings; left out")
    return metrics | {"suite_seconds": seconds, "seconds": round(sum(seconds.values()), 3)}


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    storage.write_bytes(path, buffer.getvalue())
