"""Stage `evaluate`: run the suites of measurements that the config names and write `eval/`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from ldpol import generator_file as generators
from ldpol import session, storage
from ldpol.distillation.dataset import kept_states
from ldpol.errors import UserError
from ldpol.evaluation.context import Suite, with_hooks
from ldpol.evaluation.protocol import open_context
from ldpol.evaluation.tables import as_text
from ldpol.experiments import configs, method, stages
from ldpol.experiments.configs import Config
from ldpol.keeping import KIND, Keeper, replace, restrict
from ldpol.reference import split

SECTIONS = ("seed", "task", "policy")


def run(config: Config, workdir: Path) -> None:
    """Run the suites in order, skipping results an earlier run has, and write what is known by now.

    Metrics of suites that are not asked for this time are kept if they were measured on the same archive and model, by
    the same code.

    Raises:
      FileNotFoundError: if archive or generator are missing.
      UserError: if files do not belong together, or the folder holds scores of other settings.
    """
    folder, task, chosen = workdir / "eval", configs.task_of(config), configs.suites_of(config)
    stored, generator = stages.load_archive(workdir, task), generators.load(workdir / "model")
    identity = {
        "archive": storage.fingerprint(stages.elites_of(workdir)),
        "model": storage.digest(workdir / "model"),
        "method": method.digest(),
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
    held_out = configs.held_out_of(trained["config"]["train"]["held_out"])
    parts = split(archive, **held_out, seed=trained["seed"])
    context = open_context(
        generator,
        archive,
        task,
        key=stages.key_of(config, "evaluate"),
        split=parts,
        player=player,
        observations=lambda: kept_states(workdir / "train"),
    )
    for suite in chosen:
        about = _about(config, suite) | identity
        keeper = Keeper(folder / "passes", "evaluate", lambda depends_on: about, replace)  # noqa: B023
        result = suite.run(with_hooks(context, keeper.hooks))
        if suite.name == "reconstruction":
            elites = {"stored_fitness": np.asarray(stored.fitness), "stored_measures": np.asarray(stored.measures)}
            storage.write_npz(folder / "arrays.npz", result.arrays | elites)
        elif result.arrays:
            storage.write_npz(folder / f"{suite.name}.npz", result.arrays)
        for table in suite.tables(result.metrics):
            session.say(as_text(table))
        found = {"about": about, "seconds": round(keeper.timer.seconds, 3), "metrics": result.metrics}
        storage.write_json(folder / "suites" / f"{suite.name}.json", found)
    metrics = gather(config, identity, folder / "suites")
    storage.write_json(folder / "metrics.json", metrics | session.provenance(configs.as_json(config), config.seed))


def _about(config: Config, *suites: Suite) -> dict[str, Any]:
    """Return what results of suites depend on: `config.eval` with these suites' own settings alone."""
    own = {suite.name: dataclasses.asdict(suite) for suite in suites}  # type: ignore[call-overload]
    about = {"config": configs.as_json(config, *SECTIONS) | {"eval": {"episodes": config.eval.episodes, **own}}}
    return json.loads(json.dumps(about))


def _check(folder: Path, config: Config) -> None:
    """Raise `UserError` if results in `folder` were measured under other settings than the ones asked for now."""
    now = _about(config, *configs.all_suites(config))["config"]
    for path in sorted(folder.glob("*")):
        if storage.exists(path):
            stored = storage.load(path, kind=KIND)[1]["config"]
            stages.check_equal(stored, restrict(now, stored), folder.parent)


def gather(config: Config, identity: dict[str, str], folder: Path) -> dict[str, Any]:
    """Merge the metrics of all suites that this code measured on this archive and model with these settings."""
    metrics: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for suite in configs.all_suites(config):
        path = folder / f"{suite.name}.json"
        if path.is_file():
            found = storage.read_json(path)
            if found["about"] == _about(config, suite) | identity:
                metrics |= found["metrics"]
                seconds[suite.name] = found["seconds"]
            else:
                session.say(f"evaluate: {path} is of another archive, model, settings or version of ldpol; left out")
    return metrics | {"suite_seconds": seconds, "seconds": round(sum(seconds.values()), 3)}
