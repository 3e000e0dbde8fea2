"""Settings dataclasses: checks of types and bounds that each runs in `__post_init__`, and how they are made."""

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from ldpol.errors import UserError

T = TypeVar("T")
Bounds = Mapping[str, float]


class SettingsError(UserError):
    """A setting that makes no sense.

    Attributes:
      name: of the field, dotted where dataclasses are nested.
      problem: what is wrong with it.
    """

    def __init__(self, owner: str, name: str, problem: str) -> None:
        self.name, self.problem = name, problem
        super().__init__(f"{owner}.{name} {problem}")


def check(config: Any, *, least: Bounds | None = None, most: Bounds | None = None, above: Bounds | None = None) -> None:
    """Refuse a settings dataclass whose fields are of another type than annotated, or out of range.

    Numbers must be finite. Tuples are compared element by element; None, where it is allowed, with nothing.

    Args:
      config: the dataclass.
      least: fields and the smallest value they may have.
      most: fields and the largest.
      above: fields and a value that they must exceed.

    Raises:
      SettingsError: naming the field, what was expected and what was found.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _fits(value, hints[field.name]):
            fail(config, field.name, f"must be {_words(hints[field.name])}, found {value!r}")
    tests = (
        (least, lambda value, bound: value >= bound, "at least"),
        (most, lambda value, bound: value <= bound, "at most"),
        (above, lambda value, bound: value > bound, "greater than"),
    )
    for bounds, holds, words in tests:
        for name, bound in (bounds or {}).items():
            value = getattr(config, name)
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(holds(one, bound) for one in values):
                fail(config, name, f"must be {words} {bound:g}, found {value!r}")


def build(cls: type[T], values: Any, **elsewhere: Any) -> T:
    """Build a settings dataclass from nested sections of values, as a file or a config holds them; lists become tuples.

    Args:
      cls: the dataclass.
      values: anything indexed by the names of its fields; nested settings are sections of their own, and other keys
        are left alone.
      **elsewhere: fields that are not in the section.

    Raises:
      SettingsError: naming the field whose value makes no sense, from the outermost dataclass on.
    """
    hints, made = typing.get_type_hints(cls), dict(elsewhere)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in made:
            continue
        value = values[field.name]
        if dataclasses.is_dataclass(hints[field.name]):
            try:
                made[field.name] = build(hints[field.name], value)
            except SettingsError as error:
                raise SettingsError(cls.__name__, f"{field.name}.{error.name}", error.problem) from error
        else:
            made[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


def revise(settings: T, **changes: Any) -> T:
    """Return settings with other values; a dict changes fields of nested settings.

    `revise(config, precision="int8", denoiser={"loss": {"kind": "eps"}})`
    """
    nested = {name: revise(getattr(settings, name), **part) for name, part in changes.items() if isinstance(part, dict)}
    return dataclasses.replace(settings, **changes | nested)  # type: ignore[type-var]


def read_like(text: str, old: Any) -> Any:
    """Read a text of a command line as a value that can stand in the place of `old`.

    Args:
      text: a Python literal, or else taken as it is. A whole number may stand for a float, a value or a list for a
        tuple, and words with commas between them for a tuple of texts.
      old: None may become anything.

    Raises:
      UserError: if the value is of another type.
    """
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
        raise UserError(f"takes a {type(old).__name__} (now {old!r}), found {text!r} ({type(value).__name__})")
    return value


def fail(config: Any, name: str, problem: str) -> typing.NoReturn:
    """Raise `SettingsError` for a field of a settings dataclass."""
    raise SettingsError(type(config).__name__, name, problem)


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(parts) == 2 and parts[1] is ...:
            return all(_fits(one, parts[0]) for one in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, parts))
    if origin is tuple:
        return f"a tuple of {len(parts)}" if parts[-1] is not ... else f"a tuple, each part {_words(parts[0])}"
    names = {int: "a whole number", float: "a finite number", str: "a text", bool: "True or False", type(None): "None"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
