"""Cells of the measure space, a regular grid or Voronoi cells; what fills them, and what that is worth."""

import base64
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.errors import UserError
from ldpol.tasks import Task
from ldpol.types import Array

NUDGE = 1e-4
"""Part of a cell by which cells begin early. Measures are fractions of steps and often lie on a border: rounding must
not decide which cell they belong to."""


def cell_coordinates(measures: Any, low: Any, high: Any, shape: Any, xp: Any) -> Any:
    """Return integer coordinates `[..., M]` of the cells of measures `[..., M]`; those outside go to the border cells.

    Args:
      measures: float32.
      low, high, shape: `[..., M]` bounds and cells a side, as arrays that keep the arithmetic in float32.
      xp: the array module, `jax.numpy` or `numpy`: a report counts the same cells without starting JAX.
    """
    place = xp.floor((measures - low) / (high - low) * shape + NUDGE).astype(xp.int32)
    return xp.clip(place, 0, shape - 1)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A regular grid over the measure space; static and hashable.

    Attributes:
      shape: cells along each of the M measures.
      low: lower bound of each measure.
      high: upper bound of each measure.
    """

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def dimensions(self) -> int:
        """Number of measures, M."""
        return len(self.shape)

    @property
    def cells(self) -> int:
        """Number of cells, C."""
        return math.prod(self.shape)

    @property
    def sides(self) -> np.ndarray:
        """Width of a cell along each measure `[M]`, of a range of 1."""
        return 1.0 / np.asarray(self.shape)

    @property
    def diagonal(self) -> float:
        """L2 length of a cell's diagonal in measure units."""
        return _diagonal(self)

    @property
    def regular(self) -> "Grid":
        """This grid itself, see `Voronoi.regular`."""
        return self

    def scaled(self, measures: Any) -> Any:
        """Scale measures `[..., M]` in task units to [0, 1] by the bounds; NumPy's stay NumPy's."""
        return _scaled(self, measures)

    def unscaled(self, places: Any) -> Any:
        """Return the measures `[..., M]` in task units of places in [0, 1]; inverse of `scaled`."""
        return _unscaled(self, places)

    def index(self, measures: Array) -> Array:
        """Return the row-major cell index of measures `[..., M]`; values outside go to the border cells."""
        row_major = [math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        numbers = (self.low, self.high, self.shape, row_major)
        low, high, shape, strides = (jnp.array(values, ndmin=measures.ndim) for values in numbers)
        return (cell_coordinates(measures, low, high, shape, jnp) * strides).sum(-1)

    def centroids(self) -> Array:
        """Return QDax's centroids `[C, M]` of this grid (in QDax's own order), so that it fills the cells of `index`.

        A measure on a border is as near to both its cells; the centroids are shifted down so that the upper one wins.
        """
        # Here, for QDax imports scikit-learn, a fifth of what a command takes to start.
        from qdax.core.containers.mapelites_repertoire import compute_euclidean_centroids

        sides = (jnp.asarray(self.high) - jnp.asarray(self.low)) / jnp.asarray(self.shape)
        with jax.numpy_rank_promotion("allow"):  # QDax does
            centres = compute_euclidean_centroids(self.shape, list(self.low), list(self.high))
        return centres - NUDGE * sides[None]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Voronoi:
    """Cells around centroids, as QDax's and pyribs' CVT archives have them; static and hashable.

    Attributes:
      places: the centroids `[C, M]` in task units, row-major little-endian float32, as bytes.
      low: lower bound of each measure.
      high: upper bound of each measure.
    """

    places: bytes
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that there are whole centroids."""
        if len(self.low) != len(self.high) or not self.places or len(self.places) % (4 * len(self.low)):
            raise UserError(
                f"centroids of {len(self.low)} measures in float32 need a multiple of {4 * len(self.low)} bytes, "
                f"found {len(self.places)}"
            )

    @property
    def dimensions(self) -> int:
        """Number of measures, M."""
        return len(self.low)

    @property
    def cells(self) -> int:
        """Number of cells, C."""
        return len(self.places) // (4 * self.dimensions)

    @property
    def sides(self) -> np.ndarray:
        """Width `[M]` of a cube, of a range of 1, that is as large as the mean cell."""
        return np.full(self.dimensions, self.cells ** (-1.0 / self.dimensions))

    @property
    def diagonal(self) -> float:
        """L2 length of that cube's diagonal in measure units."""
        return _diagonal(self)

    @property
    def regular(self) -> Grid:
        """The regular grid of about as many cells, to draw and to count coarsely on."""
        return Grid((max(1, round(1.0 / self.sides[0])),) * self.dimensions, self.low, self.high)

    def scaled(self, measures: Any) -> Any:
        """Scale measures `[..., M]` in task units to [0, 1] by the bounds; NumPy's stay NumPy's."""
        return _scaled(self, measures)

    def unscaled(self, places: Any) -> Any:
        """Return the measures `[..., M]` in task units of places in [0, 1]; inverse of `scaled`."""
        return _unscaled(self, places)

    def index(self, measures: Array) -> Array:
        """Return the number of the nearest centroid to measures `[..., M]`."""
        centroids = self.centroids()
        nearest = lambda place: ((centroids - place[None]) ** 2).sum(-1).argmin()  # noqa: E731
        flat = measures.reshape(-1, self.dimensions)
        # In batches: all distances of a large archive at once would not fit into memory.
        return jax.lax.map(nearest, flat, batch_size=256).reshape(measures.shape[:-1])

    def centroids(self) -> Array:
        """Return the centroids `[C, M]` in task units, as QDax takes them."""
        return jnp.asarray(np.frombuffer(self.places, "<f4").reshape(-1, self.dimensions))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        places = base64.b64encode(self.places).decode()
        return {"kind": "voronoi", "places": places, "low": list(self.low), "high": list(self.high)}


Tessellation: TypeAlias = Grid | Voronoi


def _diagonal(cells: Tessellation) -> float:
    return float(np.linalg.norm((np.asarray(cells.high) - np.asarray(cells.low)) * cells.sides))


def _scaled(cells: Tessellation, measures: Any) -> Any:
    low, high = (np.array(ends, ndmin=np.ndim(measures)) for ends in (cells.low, cells.high))
    return (measures - low) / (high - low)


def _unscaled(cells: Tessellation, places: Any) -> Any:
    low, high = (np.array(ends, ndmin=np.ndim(places)) for ends in (cells.low, cells.high))
    return low + (high - low) * places


def make_voronoi(centroids: Any, low: Sequence[float], high: Sequence[float]) -> Voronoi:
    """Return the cells around centroids `[C, M]` in task units.

    Raises:
      UserError: if the centroids are not finite or not of as many measures as there are bounds.
    """
    places = np.asarray(centroids, "<f4")
    if places.ndim != 2 or places.shape[1] != len(low) or not np.isfinite(places).all():
        raise UserError(f"expected finite centroids [C, {len(low)}], found shape {places.shape}")
    return Voronoi(places.tobytes(), tuple(map(float, low)), tuple(map(float, high)))


def grid_from_json(value: Mapping[str, Any]) -> Tessellation:
    """Return the cells that `to_json` described.

    Raises:
      KeyError, UserError: if fields are missing or make no sense.
    """
    low, high = tuple(value["low"]), tuple(value["high"])
    if value.get("kind") == "voronoi":
        return Voronoi(base64.b64decode(value["places"], validate=True), low, high)
    return Grid(tuple(value["shape"]), low, high)


def make_grid(task: Task, cells_per_measure: int | tuple[int, ...]) -> Grid:
    """Build the grid of a task.

    Args:
      task: gives the bounds of the measures.
      cells_per_measure: one number for all measures, or one each.

    Raises:
      UserError: if the numbers do not fit the task's measures or are not positive.
    """
    shape = cells_per_measure if isinstance(cells_per_measure, tuple) else (cells_per_measure,) * task.measures
    if len(shape) != task.measures or min(shape) < 1:
        raise UserError(
            f"a grid for {task.name} needs {task.measures} positive numbers of cells "
            f"({', '.join(task.measure_names)}), found {shape}"
        )
    return Grid(shape, task.measure_low, task.measure_high)


def check_grid(grid: Tessellation, measures: int) -> None:
    """Raise `UserError` unless a grid has cells, and a lower bound below its upper one, for each of M measures."""
    whole = grid.dimensions == len(grid.low) == len(grid.high) == measures
    empty = isinstance(grid, Grid) and min(grid.shape, default=0) < 1
    if not whole or empty or not all(a < b for a, b in zip(grid.low, grid.high, strict=True)):
        raise UserError(f"{grid} is no grid of {measures} measures; expected cells and bounds low < high for each")


def best_per_cell(grid: Tessellation, fitness: Array, measures: Array) -> Array:
    """Insert scores into an empty grid.

    Args:
      grid: the grid.
      fitness: `[N]`.
      measures: `[N, M]`.

    Returns:
      The best fitness in each cell `[C]`, row-major; -inf where no policy landed.
    """
    return jax.ops.segment_max(fitness, grid.index(measures), num_segments=grid.cells)


def grid_metrics(best: Array, offset: float) -> dict[str, Array]:
    """Summarise a filled grid.

    Args:
      best: `[C]` best fitness a cell, -inf in empty ones.
      offset: added to every fitness in the QD score, so that a worse elite never beats none.

    Returns:
      `cells` filled, `coverage` in [0, 1], `qd_score`, `best` and `mean` fitness over filled cells.
    """
    filled = jnp.isfinite(best)
    cells = filled.sum()
    total = jnp.where(filled, best, 0.0).sum()
    return {
        "cells": cells,
        "coverage": cells / best.shape[0],
        "qd_score": total + offset * cells,
        "best": best.max(),
        "mean": total / jnp.maximum(cells, 1),
    }
