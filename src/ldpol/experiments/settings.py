"""Configs: load `experiments/TASK.py:VARIANT`, override keys, and turn sections into the library's own settings."""

import ast
import difflib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ml_collections import ConfigDict

T = TypeVar("T")
Config: TypeAlias = Any
"""A locked `ml_collections.ConfigDict`; what its attributes hold, no type checker can know."""


class ConfigError(ValueError):
    """A config that cannot be used; the message says what to change."""


def load_config(spec: str, overrides: Iterable[str] = ()) -> Config:
    """Read a config file, choose a variant, apply overrides, and lock the result.

    Args:
      spec: `path/to/file.py` or `path/to/file.py:variant`; the file defines `get_config(variant)`.
      overrides: `key.subkey=value`; values are Python literals, or plain strings.

    Raises:
      ConfigError: for a missing file, an unknown variant or key, or a value of another type.
    """
    path, _, variant = spec.partition(":")
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no config file {path!r}; give one such as experiments/walker2d.py:cpu")
    module_spec = importlib.util.spec_from_file_location(f"ldpol_config_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    try:
        config = module.get_config(variant or "cpu")
    except KeyError as error:
        raise ConfigError(f"{path}: {error.args[0]}") from error
    config.lock()
    for text in overrides:
        override(config, text)
    return config


def override(config: Config, text: str) -> None:
    """Set one key of a config in place, given as `key.subkey=value`; `ConfigError` as in `load_config`."""
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"override {text!r} has no value; write --config.{key}=VALUE")
    _set(config, key, value)


def _set(config: Config, key: str, text: str) -> None:
    section: Any = config
    *parents, last = key.split(".")
    for depth, part in enumerate([*parents, last]):
        if not isinstance(section, ConfigDict) or part not in section:
            known = list(_leaves(config))
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"unknown config key {key!r}{hint} (keys under {'.'.join(parents[:depth]) or 'the top'}: "
                f"{', '.join(section) if isinstance(section, ConfigDict) else 'none'})"
            )
        if depth < len(parents):
            section = section[part]
    old = section[last]
    if isinstance(old, ConfigDict):
        raise ConfigError(f"{key!r} is a section; set one of its keys: {', '.join(f'{key}.{k}' for k in old)}")
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
        raise ConfigError(
            f"config key {key!r} takes a {type(old).__name__} (now {old!r}), found {text!r} ({type(value).__name__})"
        )
    with config.unlocked():
        section[last] = value


def _leaves(config: Config, prefix: str = "") -> Iterable[str]:
    for name, value in config.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [f"{prefix}{name}"]


def build(cls: type[T], section: Config) -> T:
    """Build a settings tuple from a config section with the same keys."""
    return cls(**{name: tuple(value) if isinstance(value, list | tuple) else value for name, value in section.items()})


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
