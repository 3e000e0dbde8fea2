"""The archive of elites: its grid, its metrics, its file, and exchange with QDax and pyribs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from qdax.core.containers.mapelites_repertoire import MapElitesRepertoire, compute_euclidean_centroids

from ldpol import storage
from ldpol.errors import UserError
from ldpol.networks import MLP, shape_of
from ldpol.tasks import Task
from ldpol.types import Array, Params

if TYPE_CHECKING:
    import pandas

KIND = "archive"
NUDGE = 1e-4
"""Part of a cell by which cells begin early. Measures are fractions of steps and often lie on a border: rounding must
not decide which cell they belong to."""


def cell_coordinates(measures: Any, low: Any, high: Any, shape: Any, xp: Any) -> Any:
    """Return integer coordinates `[..., M]` of the cells of measures `[..., M]`; those outside go to the border cells.

    Args:
      measures: float32.
      low, high, shape: `[M]` bounds and cells a side, as arrays that keep the arithmetic in float32.
      xp: the array module, `jax.numpy` or `numpy`: a report counts the same cells without starting JAX.
    """
    place = xp.floor((measures - low) / (high - low) * shape + NUDGE).astype(xp.int32)
    return xp.clip(place, 0, shape - 1)


class Grid(NamedTuple):
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
    def cells(self) -> int:
        """Number of cells, C."""
        return math.prod(self.shape)

    @property
    def diagonal(self) -> float:
        """L2 length of a cell's diagonal in measure units."""
        sides = (np.asarray(self.high) - np.asarray(self.low)) / np.asarray(self.shape)
        return float(np.linalg.norm(sides))

    def scaled(self, measures: Any) -> Any:
        """Scale measures `[..., M]` in task units to [0, 1] by the bounds; NumPy's stay NumPy's."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return (measures - low) / (high - low)

    def unscaled(self, places: Any) -> Any:
        """Return the measures `[..., M]` in task units of places in [0, 1]; inverse of `scaled`."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return low + (high - low) * places

    def index(self, measures: Array) -> Array:
        """Return the row-major cell index of measures `[..., M]`; values outside go to the border cells."""
        low, high, shape = jnp.asarray(self.low), jnp.asarray(self.high), jnp.asarray(self.shape)
        place = cell_coordinates(measures, low, high, shape, jnp)
        strides = jnp.asarray([math.prod(self.shape[i + 1 :]) for i in range(len(self.shape))])
        return (place * strides).sum(-1)

    def centroids(self) -> Array:
        """Return QDax's centroids `[C, M]` of this grid (in QDax's own order), so that it fills the cells of `index`.

        A measure on a border is as near to both its cells; the centroids are shifted down so that the upper one wins.
        """
        sides = (jnp.asarray(self.high) - jnp.asarray(self.low)) / jnp.asarray(self.shape)
        return compute_euclidean_centroids(self.shape, list(self.low), list(self.high)) - NUDGE * sides


def make_grid(task: Task, cells_per_measure: int | tuple[int, ...]) -> Grid:
    """Build the grid of a task.

    Args:
      task: gives the bounds of the measures.
      cells_per_measure: one number for all measures, or one each.

    Raises:
      ValueError: if the numbers do not fit the task's measures or are not positive.
    """
    shape = cells_per_measure if isinstance(cells_per_measure, tuple) else (cells_per_measure,) * task.measures
    if len(shape) != task.measures or min(shape) < 1:
        raise UserError(
            f"a grid for {task.name} needs {task.measures} positive numbers of cells "
            f"({', '.join(task.measure_names)}), found {shape}"
        )
    return Grid(shape, task.measure_low, task.measure_high)


def check_grid(grid: Grid, measures: int) -> None:
    """Raise `ValueError` unless a grid has cells, and a lower bound below its upper one, for each of M measures."""
    whole = len(grid.shape) == len(grid.low) == len(grid.high) == measures
    if not whole or min(grid.shape) < 1 or not all(a < b for a, b in zip(grid.low, grid.high, strict=True)):
        raise UserError(f"{grid} is no grid of {measures} measures; expected cells and bounds low < high for each")


def best_per_cell(grid: Grid, fitness: Array, measures: Array) -> Array:
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


@struct.dataclass
class Archive:
    """N elites with what they did when they entered.

    Attributes:
      policies: parameter pytree with a leading axis N.
      fitness: `[N]`.
      measures: `[N, M]`.
      grid: the grid they were collected on.
      task: name of the task.
      settings: what the task was made with (backend, episode length, reset noise), for checks and records.
      traits: `[N, C]` how they behave beyond their measures (`traits.columns`); None where that was not measured.
    """

    policies: Params
    fitness: Array
    measures: Array
    grid: Grid = struct.field(pytree_node=False)
    task: str = struct.field(pytree_node=False)
    settings: tuple[tuple[str, Any], ...] = struct.field(pytree_node=False, default=())
    traits: Array | None = None

    def __len__(self) -> int:
        return int(self.fitness.shape[0])

    @property
    def shape(self) -> MLP:
        """The architecture of the policies."""
        return shape_of(self.policies, batched=True)

    @property
    def nbytes(self) -> int:
        """Bytes of the policies' parameters."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.policies))


def check(archive: Archive) -> Archive:
    """Return the archive unchanged if it is sound.

    Raises:
      ValueError: if it is empty, its arrays disagree, it holds NaN or infinity, or measures lie outside the grid.
    """
    count = archive.fitness.shape[0]
    if count == 0:
        raise UserError("the archive is empty: expected at least one elite; run the archive stage for longer")
    shape_of(archive.policies, batched=True)
    check_grid(archive.grid, len(archive.grid.shape))
    types = {str(leaf.dtype) for leaf in jax.tree.leaves((archive.policies, archive.fitness, archive.measures))}
    if types != {"float32"}:
        raise UserError(f"the archive's arrays are {', '.join(sorted(types))}, expected float32 alone; convert them")
    leading = {leaf.shape[0] for leaf in jax.tree.leaves(archive.policies)}
    if leading != {count} or archive.measures.shape != (count, len(archive.grid.shape)):
        raise UserError(
            f"the archive's arrays disagree: {count} fitnesses, policies with leading axes {sorted(leading)}, measures "
            f"{archive.measures.shape} on a grid of {len(archive.grid.shape)} measures; expected one row an elite"
        )
    for name, value in (("fitness", archive.fitness), ("measures", archive.measures), ("policies", archive.policies)):
        rows = np.zeros(count, bool)
        for leaf in jax.tree.leaves(value):
            rows |= ~np.isfinite(np.asarray(leaf).reshape(count, -1)).all(1)
        if rows.any():
            raise UserError(
                f"the archive holds NaN or infinite {name} in {rows.sum()} of {count} elites (first: elite "
                f"{int(rows.argmax())}); remove them before training"
            )
    low, high = np.asarray(archive.grid.low), np.asarray(archive.grid.high)
    measures = np.asarray(archive.measures)
    slack = 1e-4 * (high - low)
    outside = ((measures < low - slack) | (measures > high + slack)).any(1)
    if outside.any():
        first = int(outside.argmax())
        raise UserError(
            f"measures of {outside.sum()} elites lie outside the grid's bounds {archive.grid.low} to "
            f"{archive.grid.high} (first: elite {first} at {measures[first].tolist()}); is the archive of another task?"
        )
    return archive


def check_task(archive: Archive, task: Task) -> None:
    """Raise `ValueError` unless the archive's policies fit the task and were collected on it."""
    shape = archive.shape
    if archive.task != task.name:
        raise UserError(f"this archive is of task {archive.task!r}, the config asks for {task.name!r}")
    if (shape.observation_size, shape.action_size) != (task.observation_size, task.action_size):
        raise UserError(
            f"the archive's policies map {shape.observation_size} observations to {shape.action_size} actions; "
            f"{task.name} has {task.observation_size} and {task.action_size}"
        )


def save(archive: Archive, path: Path) -> None:
    """Write the archive to the file `path`, atomically, without pickle."""
    arrays = {"policies": archive.policies, "fitness": archive.fitness, "measures": archive.measures}
    if archive.traits is not None:
        arrays["traits"] = archive.traits
    about = {"grid": archive.grid._asdict(), "task": archive.task, "settings": dict(archive.settings)}
    storage.save(path, arrays, kind=KIND, about=about)


def load(path: Path) -> Archive:
    """Read and check an archive written by `save`.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is damaged, of another kind, or unsound.
    """
    arrays, about = storage.load(path, kind=KIND)
    try:
        grid = Grid(*(tuple(about["grid"][name]) for name in Grid._fields))
        settings = tuple(about["settings"].items())
        arrays = jax.tree.map(jnp.asarray, arrays)
        return check(Archive(**arrays, grid=grid, task=about["task"], settings=settings))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the archive {path} lacks something or has something unknown: {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def take(archive: Archive, rows: Array | np.ndarray) -> Archive:
    """Return the archive of the elites `rows` (indices or mask)."""
    rows = np.asarray(rows)
    return jax.tree.map(lambda leaf: leaf[rows], archive)


def from_qdax(
    repertoire: MapElitesRepertoire, grid: Grid, task: str, settings: tuple[tuple[str, Any], ...] = ()
) -> Archive:
    """Take the filled cells of a QDax repertoire, in the order of its centroids."""
    filled = np.asarray(repertoire.fitnesses[:, 0]) != -np.inf  # NaN is no empty cell: `check` shall find it
    policies, fitness, measures = jax.tree.map(
        lambda leaf: leaf[filled], (repertoire.genotypes, repertoire.fitnesses[:, 0], repertoire.descriptors)
    )
    return check(Archive(policies, fitness, measures, grid=grid, task=task, settings=settings))


def to_qdax(archive: Archive) -> MapElitesRepertoire:
    """Return the elites as a QDax repertoire on the archive's grid; a cell keeps its best."""
    return MapElitesRepertoire.init(
        archive.policies, archive.fitness[:, None], archive.measures, archive.grid.centroids()
    )


def to_data_frame(archive: Archive) -> "pandas.DataFrame":
    """Return a pyribs-style data frame: columns `solution_*`, `objective`, `measures_*`, `index`."""
    import pandas as pd

    vectors = np.asarray(jax.vmap(archive.shape.flatten)(archive.policies))
    parts = {
        **{f"solution_{i}": vectors[:, i] for i in range(vectors.shape[1])},
        "objective": np.asarray(archive.fitness),
        **{f"measures_{i}": np.asarray(archive.measures[:, i]) for i in range(archive.measures.shape[1])},
        "index": np.asarray(archive.grid.index(archive.measures)),
    }
    return pd.DataFrame(parts)


def from_data_frame(
    frame: "pandas.DataFrame",
    shape: MLP,
    grid: Grid,
    task: str,
    settings: tuple[tuple[str, Any], ...] = (),
) -> Archive:
    """Read a pyribs data frame whose solutions are flat policies `[P]` in `MLP.flatten` order.

    Raises:
      ValueError: if columns are missing or do not fit the policy's shape or the grid.
    """
    solution = [f"solution_{i}" for i in range(shape.size)]
    measures = [f"measures_{i}" for i in range(len(grid.shape))]
    missing = [name for name in [*solution, "objective", *measures] if name not in frame.columns]
    extra = f"solution_{shape.size}" in frame.columns or f"measures_{len(grid.shape)}" in frame.columns
    if missing or extra:
        found = sum(str(name).startswith("solution_") for name in frame.columns)
        raise UserError(
            f"the data frame does not fit: policies {shape} have {shape.size} parameters, found {found} solution "
            f"columns; {len(missing)} columns are missing{f' (first: {missing[0]})' if missing else ''}"
        )
    vectors = jnp.asarray(frame[solution].to_numpy(), jnp.float32)
    return check(
        Archive(
            jax.vmap(shape.unflatten)(vectors),
            jnp.asarray(frame["objective"].to_numpy(), jnp.float32),
            jnp.asarray(frame[measures].to_numpy(), jnp.float32),
            grid=grid,
            task=task,
            settings=settings,
        )
    )
