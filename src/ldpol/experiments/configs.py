"""Configs: files and overrides, `ml_collections` sections to the library's dataclasses and back, and the variants.

Defaults live in the dataclasses; this is the only place that knows both forms.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict

from ldpol.archive import Archive
from ldpol.distillation import DistillConfig, published
from ldpol.errors import UserError
from ldpol.evaluation import suites
from ldpol.evaluation.context import Suite
from ldpol.reference import check_split
from ldpol.rollout import RolloutConfig
from ldpol.search.archive_search import SEARCHES, SearchConfig
from ldpol.settings import SettingsError
from ldpol.tasks import Task, make_task

T = TypeVar("T")
Config: TypeAlias = Any
"""A locked `ml_collections.ConfigDict`; what its attributes hold, no type checker can know."""
SCALES = ("cpu", "smoke", "gpu", "paper")
ITERATIONS = {
    "map_elites": {"cpu": 100, "smoke": 4, "gpu": 600, "paper": 600},
    "ppga": {"cpu": 300, "smoke": 4, "gpu": 600, "paper": 2000},
    "hybrid": {"cpu": SearchConfig.iterations, "smoke": 4, "gpu": 600, "paper": 600},
}
VARIANTS = (*SCALES, *(f"{search}_{scale}" for search in SEARCHES for scale in SCALES))
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
    config.train.held_out = ConfigDict({"fraction": 0.1, "low": (0.5, 0.5), "high": (0.6, 0.6)})
    config.train.update(steps_per_call=200, checkpoint_seconds=20.0)
    # Other suites: guidance, composition, language, sequencing, cutout and steadiness, which take minutes more.
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
        own: Any = ConfigDict(config.to_dict())
        own.task.reset_noise = noise
        task = load_module(section.source).make_task(own)
        if not isinstance(task, Task):
            raise UserError(f"{section.source}: make_task(config) must return a Task, found a {type(task).__name__}")
        return task
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
        elsewhere = {"rollout": rollout_of(config)} if name == "sequencing" else {}
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
        ("train.held_out.fraction", config.train.held_out.fraction, 0.0, 0.99),
    )
    for name, value, least, most in numbers:
        if not value >= least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"from {least} to {most}"
            raise UserError(f"{name} must be {limits}, found {value}")
    search_of(config)
    distill_of(config)
    task = task_of(config)
    held_out = config.train.held_out
    check_split(held_out.fraction, (held_out.low, held_out.high), task.measures)
    for suite in suites_of(config):
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


def load_archive(config: Config) -> Archive:
    """Return the archive that the config file brings along, with its `load_archive(config, task)`.

    Raises:
      UserError: if it has none.
    """
    path = config.task.source
    module = load_module(path) if path else None
    if module is None or not hasattr(module, "load_archive"):
        raise UserError(
            "to import an archive, the config file needs make_task(config) and load_archive(config, task), which "
            "returns what from_qdax, from_ribs, from_npz or from_policies makes"
        )
    return module.load_archive(config, task_of(config))


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


def vary(config: Config, variant: str) -> Config:
    """Turn the default config into a variant.

    Raises:
      KeyError: for an unknown variant.
    """
    if variant not in VARIANTS:
        close = difflib.get_close_matches(variant, VARIANTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise KeyError(
            f"unknown variant {variant!r}{hint} The variants are {', '.join(SCALES)}, and each of them with another "
            f"search before it: {', '.join(f'{search}_cpu' for search in SEARCHES)}, ..."
        )
    search, _, scale = variant.rpartition("_")
    if scale == "smoke":
        _smoke(config)
    if scale in ("gpu", "paper"):
        _accelerator(config)
    if scale == "paper":
        _published_ppga(config)
        config.train.held_out.update(fraction=0.0, low=(), high=())
        config.train.update(as_section(published(distill_of(config)), *SHARED))
    if search:
        config.archive.search = search
    if variant == "ppga_paper" and config.task.name != "ant":
        config.archive.cells = 50  # PPGA's own grid; the archives that the paper distils have 100
    config.archive.iterations = ITERATIONS[config.archive.search][scale]
    return config


def _smoke(config: Config) -> None:
    """Everything once, in about a minute; the numbers mean nothing."""
    names = ("reconstruction", "guidance", "composition", "language", "sequencing", "cutout", "steadiness")
    config.eval.suites = names
    config.task.episode_length = 50
    config.policy.hidden = (16, 16)
    config.rollout.chunk = 64
    config.rollout.device.lanes = 32
    config.archive.update(search="map_elites", cells=10, checkpoint_every=1)  # the quickest to compile
    config.archive.map_elites.batch = 64
    config.archive.hybrid.update(ppga_iterations=2, verify=16, verify_episodes=2)
    config.archive.ppga.emitter.update(gradient_updates=1, walk_updates=1)
    config.archive.ppga.ppo.update(environments=60, steps=8, critic=(16,))
    config.archive.ppga.xnes.population = 16
    config.train.collect.update(repeats=1, episodes=2, states=8)
    config.train.autoencoder.optimiser.steps = 60
    config.train.autoencoder.dagger_rounds = 1
    config.train.verify.rounds = 1
    config.train.autoencoder.architecture.update(rank=4, context=32, hidden=16, coordinates=8, encoder_hidden=32)
    config.train.autoencoder.loss.update(policies=16, states=8)
    config.train.denoiser.optimiser.steps = 60
    config.train.denoiser.architecture.update(hidden=16, layers=1, embedding=16, joint=8)
    config.train.denoiser.loss.batch = 64
    config.train.language.captions = 2
    config.train.language.optimiser.steps = 20
    config.train.update(steps_per_call=20, checkpoint_seconds=0.0)
    config.eval.update(episodes=2, unseen=16, uniform=64)
    config.eval.guidance.update(scales=(1.0, 2.0), conditions=16, diverse=2, samples=2, observations=8)
    config.eval.composition.conditions = 8
    config.eval.language.update(elites=8, ranks=2, draws=4, examples=2)
    config.eval.sequencing.update(
        sequences=4, segments=2, episodes=2, settle=5, candidates=(1, 2), horizon=30, look_ahead_episodes=1, chunk=8
    )
    config.eval.cutout.draws = 1
    config.eval.steadiness.plays = 2


def _accelerator(config: Config) -> None:
    """One accelerator: the paper's episodes, grid and policies, thousands of episodes side by side."""
    config.task.episode_length = 1000
    config.policy.hidden = (128, 128)
    config.rollout.chunk = 4096
    config.rollout.device.update(lanes=8192, block=25)
    config.archive.update(cells={"ant": 10, "hopper": 1000}.get(config.task.name, 100))
    config.archive.map_elites.batch = 16384
    config.archive.hybrid.verify = 2048
    config.archive.ppga.emitter.update(gradient_updates=10, walk_updates=10)
    config.archive.ppga.ppo.update(environments=3840, steps=32, minibatches=8, critic=(256, 256))
    config.archive.ppga.xnes.population = 1024
    config.train.autoencoder.architecture.update(rank=48, context=256, layers=2, hidden=64, encoder_hidden=512)
    config.train.autoencoder.optimiser.steps = 40000
    config.train.autoencoder.loss.update(policies=256, states=64)
    config.train.collect.states = 16  # humanoids see 244 numbers, and there are ten thousand of them
    config.train.denoiser.architecture.update(hidden=256, embedding=256, joint=512)
    config.train.denoiser.optimiser.steps = 40000
    config.train.denoiser.loss.batch = 2048
    config.train.steps_per_call = 500
    config.eval.update(episodes=50, unseen=10000, uniform=10000)
    config.eval.guidance.update(scales=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0), conditions=2048, diverse=256, samples=16)
    config.eval.composition.conditions = 2048
    config.eval.language.update(elites=2048, draws=400)
    config.eval.sequencing.update(
        sequences=1000, candidates=(4, 16, 64), horizon=500, look_ahead_episodes=50, chunk=200
    )
    config.eval.cutout.draws = 50


def _published_ppga(config: Config) -> None:
    """PPGA as published (Batra et al. 2024), with the settings that differ for humanoid and ant."""
    task = config.task.name
    config.archive.search = "ppga"
    config.archive.ppga.emitter.update(
        gradient_updates=10,
        walk_updates=10,
        archive_rate=0.1 if task in ("humanoid", "ant") else 0.5,
        episodes=10,
        threshold_min=-500.0 if task == "ant" else 200.0,
        reward_iterations=0,
    )
    config.archive.ppga.ppo.update(
        environments=3000,
        steps=128,
        epochs=4,
        minibatches=8,
        gamma=0.99,
        entropy_weight=0.0,
        max_log_std=None,
        target_kl=0.008,
        learning_rate=3e-4 if task == "humanoid" else 1e-3,
        critic=(256, 256),
    )
    config.archive.ppga.xnes.update(population=300, sigma={"humanoid": 0.5, "ant": 3.0}.get(task, 1.0))
