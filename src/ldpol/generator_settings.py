"""What a generator is besides its numbers, as JSON and back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import serialization

from ldpol import networks
from ldpol.archive import grid_from_json
from ldpol.language.reader import Language, language_from_json, language_to_json
from ldpol.model.answering import Kernel
from ldpol.model.decoder import AutoencoderConfig
from ldpol.model.denoiser import DenoiserConfig
from ldpol.types import PyTree


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(v) for v in value) if isinstance(value, list) else value


def _named(cls: type) -> Callable[[Mapping[str, Any]], Any]:
    return lambda fields: cls(**{name: _deep_tuple(value) for name, value in fields.items()})


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "shape": networks.from_json,
    "autoencoder": _named(AutoencoderConfig),
    "network": _named(DenoiserConfig),
    "grid": grid_from_json,
    "schedule": str,
    "parametrisation": str,
    "measure_names": tuple,
    "task": str,
    "settings": lambda value: tuple(value.items()),
    "steps": int,
    "method": str,
    "guidance": float,
    "text_guidance": float,
    "language": lambda value: None if value is None else language_from_json(value),
    "precision": str,
    "kernel": lambda value: Kernel(*map(float, value)),
}


def arrays_of(generator: Any) -> dict[str, PyTree]:
    """Return the arrays of a generator by name."""
    names = [field.name for field in dataclasses.fields(generator) if field.metadata.get("pytree_node", True)]
    return serialization.to_state_dict({name: getattr(generator, name) for name in names})


def settings_of(generator: Any) -> dict[str, Any]:
    """Return everything else of a generator as JSON values."""
    return {name: _json(name, getattr(generator, name)) for name in _PARSERS}


def _json(name: str, value: Any) -> Any:
    if isinstance(value, Language):
        return language_to_json(value)
    if isinstance(value, AutoencoderConfig | DenoiserConfig):
        return dataclasses.asdict(value)
    if name in ("shape", "grid"):
        return value.to_json()
    return dict(value) if name == "settings" else value


def parse_settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a generator that `settings_of` wrote.

    Raises:
      KeyError: if one is missing.
      TypeError: if one has unknown parts.
    """
    return {name: parse(about[name]) for name, parse in _PARSERS.items()}
