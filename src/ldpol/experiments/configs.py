"""Configs: files and overrides, `ml_collections` sections to the library's dataclasses and back, and the variants.

Defaults live in the dataclasses; this is the only place that knows both forms.
"""

import ast
import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict

from ldpol.distillation import DistillConfig
from ldpol.errors import UserError
from ldpol.evaluation import suites
from ldpol.evaluation.context import Suite
from ldpol.experiments.modules import load_module, own_task
from ldpol.reference import check_split
from ldpol.rollout import RolloutConfig
from ldpol.search.archive_search import SearchConfig
from ldpol.settings import SettingsError
from ldpol.tasks import Task, make_task

T = TypeVar("T")
Config: TypeAlias = Any
"""A locked `ml_collections.ConfigDict`; what its attributes hold, no type checker can know."""
SUITES = {suite.name: suite for suite in suites.ALL}
SHARED = ("episodes", "rollout", "chunk")
"""Fields of `DistillConfig` that a config keeps in one place for all stages."""


def base(task: str) -> Config:
    """Return the default config: a laptop's two cores, under twenty minutes for all stages."""
    config: Config = ConfigDict()
    config.seed = 0
    config.task = ConfigDict({"name": task, "backend": "spring", "episode_length": 500, "reset_noise": 5e-3})
    config.task.source = ""  # the config file, where it defines `make_task(config)`
    config.policy = ConfigDict({"hidden": SearchConfig.hidden})
    config.rollout = ConfigDict({"device": dataclasses.asdict(RolloutConfig()), "chunk": DistillConfig.chunk})
    config.archive = as_section(SearchConfig(), "hidden", "rollout")
    # Reset noise while MAP-Elites searches; verification and PPGA have the task's.
    config.archive.update(search_noise=0.0, checkpoint_every=10)
    config.train = as_section(DistillConfig(), *SHARED)
    # Two corners, or as many low corners as high ones for a region of several boxes.
    config.train.held_out = ConfigDict({"fraction": 0.1, "low": (0.5, 0.5), "high": (0.6, 0.6)})
    config.train.update(steps_per_call=200, checkpoint_seconds=20.0)
    # The other suites (guidance, composition, language, sequencing, held_out_region, steadiness, damage) take minutes.
    config.eval = ConfigDict({"suites": ("reconstruction",), "episodes": DistillConfig.episodes})
    for name, suite in SUITES.items():
        section = as_section(suite(), "rollout")
        config.eval.update(section if name == "reconstruction" else {name: section})
    return config


def as_section(settings: Any, *elsewhere: str) -> Config:
    """Return a settings dataclass as a config section, without fields that lie elsewhere in the config."""
    values = dataclasses.asdict(settings)
    return ConfigDict({name: value for name, value in values.items() if name not in elsewhere})


def build(cls: type[T], section: Config, path: str, **elsewhere: Any) -> T:
    """Build a settings dataclass from a config section with the same keys, nested ones included.

    Args:
      cls: the dataclass.
      section: other keys than its fields are left alone.
      path: of the section, for messages.
      **elsewhere: fields that are not in the section.

    Raises:
      UserError: naming the key whose value makes no sense.
    """
    hints, values = typing.get_type_hints(cls), dict(elsewhere)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in values:
            value = section[field.name]
            nested = isinstance(value, ConfigDict)
            values[field.name] = build(hints[field.name], value, f"{path}.{field.name}") if nested else _plain(value)
    try:
        return cls(**values)
    except SettingsError as error:
        name = {"hidden": "policy.hidden", "chunk": "rollout.chunk"}.get(error.name, f"{path}.{error.name}")
        raise UserError(f"{name} {error.problem}") from error


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def rollout_of(config: Config) -> RolloutConfig:
    """Return how rollouts use a device."""
    return build(RolloutConfig, config.rollout.device, "rollout.device")


def task_of(config: Config, reset_noise: float | None = None) -> Task:
    """Build the task; `reset_noise` replaces the config's."""
    section = config.task
    noise = section.reset_noise if reset_noise is None else reset_noise
    if section.source:
        return own_task(config, noise)
    return make_task(section.name, backend=section.backend, episode_length=section.episode_length, reset_noise=noise)


def search_of(config: Config) -> SearchConfig:
    """Return the settings of the archive stage."""
    hidden = _plain(config.policy.hidden)
    return build(SearchConfig, config.archive, "archive", hidden=hidden, rollout=rollout_of(config))


def distill_of(config: Config) -> DistillConfig:
    """Return the settings of the train stage."""
    shared = {"episodes": config.eval.episodes, "chunk": config.rollout.chunk, "rollout": rollout_of(config)}
    return build(DistillConfig, config.train, "train", **shared)


def all_suites(config: Config) -> list[Suite]:
    """Return all suites with their settings, in reading order."""
    made: list[Suite] = []
    for name, suite in SUITES.items():
        elsewhere = {"rollout": rollout_of(config)} if "rollout" in typing.get_type_hints(suite) else {}
        section, path = (config.eval, "eval") if name == "reconstruction" else (config.eval[name], f"eval.{name}")
        made.append(build(suite, section, path, **elsewhere))
    return made


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
        ("eval.episodes", config.eval.episodes, 1, None),
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
    held_out = config.train.held_out
    check_split(held_out.fraction, (held_out.low, held_out.high), (task.measure_low, task.measure_high))
    for suite in chosen:
        suite.check_task(task)


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
    _set(config, key, value)


def _set(config: Config, key: str, text: str) -> None:
    section: Any = config
    *parents, last = key.split(".")
    for depth, part in enumerate([*parents, last]):
        if not isinstance(section, ConfigDict) or part not in section:
            known = list(_leaves(config))
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(
                f"unknown config key {key!r}{hint} (keys under {'.'.join(parents[:depth]) or 'the top'}: "
                f"{', '.join(section) if isinstance(section, ConfigDict) else 'none'})"
            )
        if depth < len(parents):
            section = section[part]
    old = section[last]
    if isinstance(old, ConfigDict):
        raise UserError(f"{key!r} is a section; set one of its keys: {', '.join(f'{key}.{k}' for k in old)}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, str) and old and all(isinstance(item, str) for item in old):
        value = tuple(name.strip() for name in value.split(",") if name.strip())
    if isinstance(old, tuple) and isinstance(value, list | int | float):
        value = tuple(value) if isinstance(value, list) else (value,)
    if old is not None and type(value) is not type(old):
        raise UserError(
            f"config key {key!r} takes a {type(old).__name__} (now {old!r}), found {text!r} ({type(value).__name__})"
        )
    with config.unlocked():
        section[last] = value


def _leaves(config: Config, prefix: str = "") -> Iterable[str]:
    for name, value in config.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [f"{prefix}{name}"]


def as_json(config: Config, *sections: str) -> Any:
    """Return the config, or some of its sections, as plain JSON values."""
    whole = json.loads(config.to_json_best_effort())
    return {name: whole[name] for name in sections} if sections else whole


def restrict(value: Any, like: Any) -> Any:
    """Return the part of a nested dict `value` whose keys `like` has too."""
    if isinstance(value, dict) and isinstance(like, dict):
        return {name: restrict(part, like[name]) for name, part in value.items() if name in like}
    return value


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """List keys whose values differ, as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [line for n in names for line in differences(old.get(n), new.get(n), f"{prefix}{n}.")]
    return [] if old == new else [f"{prefix[:-1]}: {old!r} -> {new!r}"]
