"""What all imports end with: normalisers folded in, measures out of bounds dealt with, cells chosen, checks."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ldpol.archive.archive import Archive, check
from ldpol.archive.grid import Grid, Tessellation, Voronoi, make_grid, make_voronoi
from ldpol.archive.layouts import single
from ldpol.errors import UserError
from ldpol.networks import Network, fold_normaliser
from ldpol.tasks import Task
from ldpol.types import Params

Outside = Literal["error", "clip", "drop", "widen"]
Cells = int | tuple[int, ...] | Grid | Voronoi | None
EPSILON = 1e-8
"""Added to a variance before its root, as PPGA and Stable-Baselines3 do."""


def folded(policies: Params, network: Network, mean: Any, var: Any, epsilon: float = EPSILON) -> Params:
    """Fold normalisers `[O]` or `[N, O]` into N policies."""
    count = jax.tree.leaves(policies)[0].shape[0]
    mean, var = (single(value, "the normaliser") for value in (mean, var))
    expected = ((network.observation_size,), (count, network.observation_size))
    if mean.shape not in expected or var.shape != mean.shape:
        raise UserError(
            f"obs_mean and obs_var are {list(mean.shape)} and {list(var.shape)}, expected [{network.observation_size}] "
            f"or [{count}, {network.observation_size}]"
        )
    first = network.first
    if first is None:
        raise UserError(f"{network} names no first layer to fold a normaliser into: network(..., first=...)")
    axis = 0 if mean.ndim == 2 else None
    fold = jax.vmap(lambda params, mean, std: fold_normaliser(params, mean, std, first), (0, axis, axis))
    return fold(policies, mean, jnp.sqrt(var + epsilon))


def assemble(
    policies: Params,
    fitness: Any,
    measures: Any,
    network: Network,
    task: Task,
    grid: Tessellation,
    outside: Outside,
    settings: tuple[tuple[str, Any], ...],
) -> Archive:
    """Put the parts together, after what `outside` says about measures out of bounds."""
    fitness, measures = single(fitness, "fitness"), single(measures, "measures")
    if measures.ndim != 2 or measures.shape[1] != task.measures:
        raise UserError(
            f"the elites have measures {list(measures.shape)}, {task.name} has {task.measures} "
            f"({', '.join(task.measure_names)})"
        )
    sizes = (network.observation_size, network.action_size), (task.observation_size, task.action_size)
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{network} maps {sizes[0][0]} observations to {sizes[0][1]} actions; {task.name} has {sizes[1][0]} and "
            f"{sizes[1][1]}"
        )
    low, high = np.asarray(grid.low), np.asarray(grid.high)
    values = np.asarray(measures)
    if outside == "clip":
        measures = jnp.clip(measures, jnp.asarray(low[None], jnp.float32), jnp.asarray(high[None], jnp.float32))
    elif outside == "drop":
        inside = ((values >= low) & (values <= high)).all(1)
        policies, fitness, measures = jax.tree.map(lambda leaf: leaf[inside], (policies, fitness, measures))
    elif outside == "widen":
        low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
        bounds = tuple(map(float, low)), tuple(map(float, high))
        grid = Grid(grid.shape, *bounds) if isinstance(grid, Grid) else Voronoi(grid.places, *bounds)
    elif outside != "error":
        raise UserError(f"outside must be error, clip, drop or widen, found {outside!r}")
    return check(Archive(policies, fitness, measures, grid=grid, task=task.name, network=network, settings=settings))


def tessellation(cells: Cells, task: Task, centroids: Any, source: str) -> Tessellation:
    """Return the cells that were asked for, or those of the source's centroids: a grid where they make one."""
    if isinstance(cells, Grid | Voronoi):
        return cells
    if cells is not None:
        return make_grid(task, cells)
    if centroids is None:
        raise UserError(f"{source} has no centroids: say cells=50 or another number of cells a measure")
    found = make_voronoi(centroids, task.measure_low, task.measure_high)
    return _regular(np.asarray(found.centroids()), found) or found


def _regular(centroids: np.ndarray, found: Voronoi) -> Grid | None:
    """Return the regular grid whose centres are the centroids `[C, M]`; None if there is none."""
    low, high = np.asarray(found.low), np.asarray(found.high)
    places = (centroids - low) / (high - low)
    shape = []
    for column in places.T:
        edges = np.sort(column)
        count = 1 + int((np.diff(edges) > 1e-4).sum())
        centres = (np.arange(count) + 0.5) / count
        near = centres[np.clip((column * count).astype(int), 0, count - 1)]
        if not np.allclose(column, near, atol=1e-2 / count):
            return None
        shape.append(count)
    whole = len(np.unique(np.round(places * shape - 0.5), axis=0)) == len(places) == np.prod(shape)
    return Grid(tuple(shape), found.low, found.high) if whole else None


def check_finite(measures: Any, task: Task) -> None:
    """Raise `UserError` if measures `[N, M]` that a task's episodes gave are not finite."""
    bad = np.atleast_1d(~np.isfinite(np.asarray(measures)).all(-1))
    if bad.any():
        raise UserError(
            f"{task.name}: the measures of {int(bad.sum())} of {len(bad)} policies are NaN or infinite (first: policy "
            f"{int(bad.argmax())}); look at `measure`, or at physics that blows up"
        )
