"""What is explored: the files of a model or an archive, and what is known of its elites. Starts no JAX."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ldpol import models
from ldpol.errors import MissingFile, UserError
from ldpol.explore import elsewhere
from ldpol.explore.elsewhere import NOTHING, Stated

Arrays = Mapping[str, NDArray[Any]]
SHOWN = ("reference", "stored", "generated")
"""Scores of the elites that the map can show: means over episodes, what the search stored, samples for the same."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where to find what is explored.

    Attributes:
      name: what it is called on the page, and to `ldpol.load`.
      model: the generator's file; None for an archive alone.
      archive: file of the whole archive, or None.
      elites: file of some of its policies, or None.
      arrays: what the evaluation knows of the archive (`eval/arrays.npz`); empty if there was none.
      stated: what the command line says of the archive.
      facts, films: what the page must know, and answers, stored with the model to be shown while JAX starts.
    """

    name: str
    model: Path | None = None
    archive: Path | None = None
    elites: Path | None = None
    arrays: Arrays = dataclasses.field(default_factory=dict)
    stated: Stated = NOTHING
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    films: tuple[dict[str, Any], ...] = ()


def open_model(name: str) -> Source:
    """Find a model: one that comes with the package, a run's folder, or a generator's file.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if what is known of the archive is damaged.
    """
    path = Path(name)
    if (path / "model").is_file():
        archive = path / "archive" / "elites"
        arrays = read_arrays(path / "eval" / "arrays.npz")
        return Source(str(path / "model"), path / "model", archive if archive.exists() else None, arrays=arrays)
    if path.is_file():
        return Source(name, path)
    if path.is_dir():
        raise MissingFile(f"{name} holds no model; the train stage writes one (--archive opens an archive alone)")
    folder = models.folder_of(name)
    stored = read_page(folder / "page.json")
    return Source(
        name,
        folder / "model",
        elites=folder / "elites",
        arrays=read_arrays(folder / "arrays.npz"),
        facts=stored["facts"],
        films=tuple(stored["films"]),
    )


def open_archive(name: str, stated: Stated = NOTHING) -> Source:
    """Find an archive without a model: its file, the folder of the run it belongs to, or a file of another library.

    Args:
      name: where it is.
      stated: what it belongs to, which files of other libraries do not say.

    Raises:
      FileNotFoundError: if there is none.
      UserError: if something must be stated that is not.
    """
    path = Path(name)
    run = path / "archive" / "elites"
    if elsewhere.is_elsewhere(path):
        elsewhere.check(path, stated)
    elif not path.exists():
        raise MissingFile(f"expected an archive at {name}, found nothing; the archive stage writes one")
    return Source(name, archive=run if run.exists() else path, stated=stated)


def read_arrays(path: Path) -> Arrays:
    """Read what the evaluation knows of an archive; nothing if there is no such file.

    Raises:
      ValueError: if it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, or run the evaluate stage again") from error


def read_page(path: Path) -> dict[str, Any]:
    """Read the facts and films stored with a model; none if there is no such file.

    Raises:
      ValueError: if it is damaged.
    """
    if not path.is_file():
        return {"facts": {}, "films": []}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); install ldpol again") from error


def map_of(arrays: Arrays) -> dict[str, Any]:
    """Return what the page's map needs, as JSON values: bounds, cells, and what is known of each elite."""
    elites: dict[str, Any] = {}
    for name in SHOWN:
        if f"{name}_measures" in arrays:
            elites[name] = {
                "measures": plain(arrays[f"{name}_measures"], 4),
                "fitness": plain(arrays[f"{name}_fitness"], 2),
            }
    found: dict[str, Any] = {
        "names": [str(name) for name in arrays["measure_names"]],
        "low": plain(arrays["low"], 6),
        "high": plain(arrays["high"], 6),
        "cells": np.asarray(arrays["grid_shape"]).astype(int).tolist(),
        "elites": elites,
        "held_out": np.flatnonzero(arrays["held_out"]).tolist() if "held_out" in arrays else [],
    }
    if "box_low" in arrays:
        low, high = (plain(np.atleast_2d(arrays[name]), 6) for name in ("box_low", "box_high"))
        found["boxes"] = list(map(list, zip(low, high, strict=True)))
    return found


def plain_arrays(
    fitness: NDArray[Any], measures: NDArray[Any], grid: Any, names: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    """Return, for an archive nobody evaluated, the arrays that `map_of` reads.

    Args:
      fitness: `[N]`, what the search stored.
      measures: `[N, M]`, likewise.
      grid: a `Grid`.
      names: `[M]` of the measures.
    """
    return {
        "grid_shape": np.asarray(grid.shape),
        "low": np.asarray(grid.low),
        "high": np.asarray(grid.high),
        "measure_names": np.asarray(names),
        "stored_fitness": np.asarray(fitness),
        "stored_measures": np.asarray(measures),
    }


def plain(values: ArrayLike, digits: int = 4) -> Any:
    """Return numbers as JSON values, rounded; what is not finite becomes None, however deep."""
    array = np.round(np.asarray(values, np.float64), digits)
    blank: Any = None
    return np.where(np.isfinite(array), array, blank).tolist()
