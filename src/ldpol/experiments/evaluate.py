"""Stage `evaluate`: run the suites of measurements that the config names and write `eval/`."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

from ldpol import storage
from ldpol.experiments import session, settings
from ldpol.experiments.settings import Config
from ldpol.experiments.suites import composition, cutout, guidance, language, reconstruction, sequencing, steadiness
from ldpol.experiments.suites.context import Context, at_least, open_run

SUITES: dict[str, ModuleType] = {
    "reconstruction": reconstruction,
    "guidance": guidance,
    "composition": composition,
    "language": language,
    "sequencing": sequencing,
    "cutout": cutout,
    "steadiness": steadiness,
}
"""Each has `NEEDS`, the keys of `config.eval` it depends on, `check(config, task)` and `run(context) -> metrics`."""


def run(config: Config, workdir: Path) -> None:
    """Run the suites in order, skipping passes an earlier run finished, and write what is known by now.

    Metrics of suites that are not asked for this time are kept if they were measured on the same archive and model.

    Raises:
      FileNotFoundError: if archive or generator are missing.
      ConfigError: if a suite is unknown, its settings make no sense, files do not belong together, or the folder holds
        scores of other settings.
    """
    chosen = _chosen(config)
    at_least(config.eval, "eval", episodes=1)
    task, _, _ = session.make_setting(config)
    for name in chosen:
        SUITES[name].check(config, task)
    context = open_run(config, workdir)
    folder = workdir / "eval"
    for name in chosen:
        own = dataclasses.replace(context, timer=session.Timer())
        metrics = SUITES[name].run(own)
        seconds = round(own.timer.seconds, 3)
        storage.write_json(
            folder / "suites" / f"{name}.json", {"about": _about(own, name), "seconds": seconds, "metrics": metrics}
        )
    storage.write_json(folder / "metrics.json", gather(context, folder / "suites") | session.provenance(config))


def _chosen(config: Config) -> list[str]:
    """Return the suites asked for, in the order in which they are listed here."""
    unknown = [name for name in config.eval.suites if name not in SUITES]
    if unknown or not config.eval.suites:
        found = f"unknown suite {', '.join(map(repr, unknown))}" if unknown else "no suite is named"
        raise settings.ConfigError(
            f"eval.suites: {found}; the suites are {', '.join(SUITES)}, for instance "
            "--config.eval.suites=reconstruction,guidance"
        )
    return [name for name in SUITES if name in config.eval.suites]


def _about(context: Context, name: str) -> dict[str, Any]:
    return context.about(*SUITES[name].NEEDS)


def gather(context: Context, folder: Path) -> dict[str, Any]:
    """Merge the metrics of all suites that were measured on this archive and model with these settings."""
    metrics: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name in SUITES:
        path = folder / f"{name}.json"
        if path.is_file():
            found = storage.read_json(path)
            if found["about"] == _about(context, name):
                metrics |= found["metrics"]
                seconds[name] = found["seconds"]
            else:
                session.say(f"evaluate: {path} is of another archive, model or settings; left out")
    return metrics | {"suite_seconds": seconds, "seconds": round(sum(seconds.values()), 3)}
