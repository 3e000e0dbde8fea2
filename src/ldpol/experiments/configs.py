"""Configs: files and overrides, and `ml_collections` sections to the library's dataclasses and back.

Defaults live in the dataclasses; this is the only place that knows both forms.
"""

import dataclasses
import importlib.util
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict

from ldpol import settings
from ldpol.distillation import DistillConfig
from ldpol.errors import UserError, meant
from ldpol.evaluation import suites
from ldpol.evaluation.context import Suite
from ldpol.reference import check_split
from ldpol.rollout import RolloutConfig
from ldpol.search.config import SearchConfig
from ldpol.tasks import Task, make_task

T = TypeVar("T")
Config: TypeAlias = Any
"""A locked `ml_collections.ConfigDict`; what its attributes hold, no type checker can know."""
SUITES = {suite.name: suite for suite in suites.ALL}
SHARED = {"hidden": "policy.hidden", "episodes": "eval.episodes", "chunk": "rollout.chunk", "rollout": "rollout.device"}
"""Fields of settings that a config keeps in one place for all stages, and where."""


def base(task: str) -> Config:
    """Return the default config: a laptop's two cores, under twenty minutes for all stages."""
    config: Config = ConfigDict({"seed": 0, "task": {}, "policy": {}, "rollout": {}, "archive": {}, "train": {}})
    config.task.update(name=task, backend="spring", episode_length=500, reset_noise=5e-3)
    config.task.source = ""  # the config file, where it defines `make_task(config)`
    # The other suites (guidance, composition, language, sequencing, held_out_region, steadiness, damage) take minutes.
    config.eval = ConfigDict({"suites": ("reconstruction",)})
    put_search(config, SearchConfig())
    # Reset noise while MAP-Elites searches; verification and PPGA have the task's.
    config.archive.update(search_noise=0.0, checkpoint_every=10)
    put_distill(config, DistillConfig())
    # Two corners, or as many low corners as high ones for a region of several boxes.
    config.train.held_out = ConfigDict({"fraction": 0.1, "low": (0.5, 0.5), "high": (0.6, 0.6)})
    config.train.update(steps_per_call=200, checkpoint_seconds=20.0)
    put_suites(config, [suite() for suite in suites.ALL])
    return config


def as_section(values: Any, *elsewhere: str) -> Config:
    """Return a settings dataclass as a config section, without the fields `elsewhere`."""
    return ConfigDict({name: value for name, value in dataclasses.asdict(values).items() if name not in elsewhere})


def build(cls: type[T], section: Config, path: str, **elsewhere: Any) -> T:
    """Build a settings dataclass from the config section `path`; see `settings.build`.

    Raises:
      UserError: naming the key whose value makes no sense.
    """
    try:
        return settings.build(cls, section, **elsewhere)
    except settings.SettingsError as error:
        name = SHARED[error.name] if error.name in elsewhere else f"{path}.{error.name}"
        raise UserError(f"{name} {error.problem}") from error


def rollout_of(config: Config) -> RolloutConfig:
    """Return how rollouts use a device."""
    return build(RolloutConfig, config.rollout.device, "rollout.device")


def task_of(config: Config, reset_noise: float | None = None) -> Task:
    """Build the task; `reset_noise` replaces the config's.

    Raises:
      UserError: if what the config file's `make_task(config)` returns is no task.
    """
    own: Any = ConfigDict(config.to_dict())
    section = own.task
    if reset_noise is not None:
        section.reset_noise = reset_noise
    if not section.source:
        how = {name: section[name] for name in ("backend", "episode_length", "reset_noise")}
        return make_task(section.name, **how)
    task = load_module(section.source).make_task(own)
    if not isinstance(task, Task):
        raise UserError(f"{section.source}: make_task(config) must return a Task, found a {type(task).__name__}")
    return task


def search_of(config: Config) -> SearchConfig:
    """Return the settings of the archive stage."""
    hidden = tuple(config.policy.hidden)
    return build(SearchConfig, config.archive, "archive", hidden=hidden, rollout=rollout_of(config))


def put_search(config: Config, search: SearchConfig) -> None:
    """Write settings of the archive stage into a config."""
    config.policy.hidden = search.hidden
    config.rollout.device = as_section(search.rollout)
    config.archive.update(as_section(search, *SHARED))


def distill_of(config: Config) -> DistillConfig:
    """Return the settings of the train stage."""
    shared = {"episodes": config.eval.episodes, "chunk": config.rollout.chunk, "rollout": rollout_of(config)}
    return build(DistillConfig, config.train, "train", **shared)


def put_distill(config: Config, distill: DistillConfig) -> None:
    """Write settings of the train stage into a config."""
    config.eval.episodes = distill.episodes
    config.rollout.update(device=as_section(distill.rollout), chunk=distill.chunk)
    config.train.update(as_section(distill, *SHARED))


def held_out_of(section: Any) -> dict[str, Any]:
    """Return what `train.held_out`, also one that a file holds, says to `ldpol.split`."""
    return {"fraction": section["fraction"], "box": (tuple(section["low"]), tuple(section["high"]))}


def pace_of(config: Config) -> dict[str, Any]:
    """Return how often a training is logged and kept, for its `Keeper`."""
    return {name: config.train[name] for name in ("steps_per_call", "checkpoint_seconds")}


def all_suites(config: Config) -> list[Suite]:
    """Return all suites with their settings, in reading order."""
    made: list[Suite] = []
    for name, suite in SUITES.items():
        elsewhere = {"rollout": rollout_of(config)} if "rollout" in typing.get_type_hints(suite) else {}
        section, path = (config.eval, "eval") if name == "reconstruction" else (config.eval[name], f"eval.{name}")
        made.append(build(suite, section, path, **elsewhere))
    return made


def put_suites(config: Config, made: Iterable[Suite]) -> None:
    """Write settings of suites into a config."""
    for suite in made:
        section = as_section(suite, "rollout")
        config.eval.update(section if suite.name == "reconstruction" else {suite.name: section})


def suites_of(config: Config) -> list[Suite]:
    """Return the suites that the config names, in reading order.

    Raises:
      UserError: for an unknown suite, or one whose settings make no sense.
    """
    unknown = [name for name in config.eval.suites if name not in SUITES]
    if unknown or not config.eval.suites:
        found = f"unknown suite {', '.join(map(repr, unknown))}" if unknown else "no suite is named"
        raise UserError(
            f"eval.suites: {found}; the suites are {', '.join(SUITES)}, for instance "
            "--config.eval.suites=reconstruction,guidance"
        )
    return [suite for suite in all_suites(config) if suite.name in config.eval.suites]


def check(config: Config) -> None:
    """Refuse a config that some stage could not use, before any of them does anything.

    Raises:
      UserError: naming the key, what was found and what was expected.
    """
    numbers = (
        ("seed", config.seed, 0, 2**32 - 1),
        ("archive.checkpoint_every", config.archive.checkpoint_every, 1, None),
        ("archive.search_noise", config.archive.search_noise, 0.0, 1e6),
        ("train.steps_per_call", config.train.steps_per_call, 1, None),
        ("train.checkpoint_seconds", config.train.checkpoint_seconds, 0.0, None),
    )
    for name, value, least, most in numbers:
        if not value >= least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"from {least} to {most}"
            raise UserError(f"{name} must be {limits}, found {value}")
    search_of(config)
    distill_of(config)
    chosen, task = suites_of(config), task_of(config)  # the task comes last: it takes a second to build
    check_split(**held_out_of(config.train.held_out), bounds=(task.measure_low, task.measure_high))
    for suite in chosen:
        suite.check_task(task)


def load_module(path: str) -> ModuleType:
    """Run a config file and return it as a module; `UserError` if there is no such Python file."""
    found = importlib.util.spec_from_file_location("ldpol_config", path) if Path(path).is_file() else None
    if found is None or found.loader is None:
        raise UserError(f"no config file {path!r}; give one such as experiments/walker2d.py:cpu")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def load_config(spec: str, overrides: Iterable[str] = ()) -> Config:
    """Read a config file, choose a variant, apply overrides, and lock the result.

    Args:
      spec: `path/to/file.py` or `path/to/file.py:variant`; the file defines `get_config(variant)`, and for a task of
        its own `make_task(config)`.
      overrides: `key.subkey=value`; values are Python literals, or plain strings.

    Raises:
      UserError: for a missing file, an unknown variant or key, or a value of another type.
    """
    path, _, variant = spec.partition(":")
    module = load_module(path)
    try:
        config = module.get_config(variant or "cpu")
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}") from error
    if hasattr(module, "make_task"):
        config.task.source = path
    config.lock()
    for text in overrides:
        override(config, text)
    return config


def override(config: Config, text: str) -> None:
    """Set one key of a config in place, given as `key.subkey=value`; `UserError` as in `load_config`."""
    key, separator, value = text.partition("=")
    if not separator:
        raise UserError(f"override {text!r} has no value; write --config.{key}=VALUE")
    *parents, last = key.split(".")
    section: Any = config
    for depth, part in enumerate([*parents, last]):
        if not isinstance(section, ConfigDict) or part not in section:
            there = ", ".join(section) if isinstance(section, ConfigDict) else "none"
            raise UserError(
                f"unknown config key {key!r}{meant(key, _leaves(config))} "
                f"(keys under {'.'.join(parents[:depth]) or 'the top'}: {there})"
            )
        if depth < len(parents):
            section = section[part]
    old: Any = section[last]
    if isinstance(old, ConfigDict):
        raise UserError(f"{key!r} is a section; set one of its keys: {', '.join(f'{key}.{name}' for name in old)}")
    try:
        with config.unlocked():
            section[last] = settings.read_like(value, old)
    except UserError as error:
        raise UserError(f"config key {key!r} {error}") from error


def _leaves(config: Config, prefix: str = "") -> Iterable[str]:
    for name, value in config.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [f"{prefix}{name}"]


def as_json(config: Config, *sections: str) -> Any:
    """Return the config, or some of its sections, as plain JSON values."""
    whole = json.loads(config.to_json_best_effort())
    return {name: whole[name] for name in sections} if sections else whole
