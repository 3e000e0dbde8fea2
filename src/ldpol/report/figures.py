"""Figures of a run: arrays in, a matplotlib `Figure` out. Nothing here reads files or touches pyplot's global state."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from ldpol.archive import cell_coordinates
from ldpol.errors import UserError
from ldpol.report.canvas import (
    CEILING,
    EMPTY,
    GENERATED,
    HEAT,
    HELD_OUT,
    INK,
    MUTED,
    REFERENCE,
    STORED,
    WIDTH,
    Floats,
    add_legend,
    draw_line,
    make_canvas,
    set_title,
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A regular grid over M measures: cells per side `shape` [M], bounds `low` [M] and `high` [M], `names` [M]."""

    shape: tuple[int, ...]
    low: Floats
    high: Floats
    names: tuple[str, ...]

    def cells(self, measures: ArrayLike) -> NDArray[np.int64]:
        """Integer cell coordinates [N, M] of `measures` [N, M]; points outside the bounds go to the border cells."""
        low, high, shape = (np.asarray(value, np.float32) for value in (self.low, self.high, self.shape))
        return cell_coordinates(np.asarray(measures, np.float32), low, high, shape, np).astype(np.int64)

    def occupied(self, measures: ArrayLike) -> NDArray[np.int64]:
        """Sorted flat indices [K] of the distinct cells that `measures` [N, M] fall into."""
        return np.unique(np.ravel_multi_index(tuple(self.cells(measures).T), self.shape))

    def project(self, axes: Sequence[int]) -> "Grid":
        """The grid over the chosen measures alone."""
        keep = list(axes)
        names = tuple(self.names[axis] for axis in keep)
        return Grid(tuple(self.shape[axis] for axis in keep), self.low[keep], self.high[keep], names)

    @property
    def diagonal(self) -> float:
        """Length of a cell's diagonal, in the units of the measures."""
        return float(np.linalg.norm((self.high - self.low) / np.asarray(self.shape)))


@dataclass(frozen=True)
class Elites:
    """Policies as points: `fitness` [N], `measures` [N, M], a `label`, and the QD score of their archive if known."""

    label: str
    fitness: Floats
    measures: Floats
    qd_score: float | None = None

    def finite(self) -> "Elites":
        """The rows whose fitness and measures are all finite."""
        keep = np.isfinite(self.fitness) & np.isfinite(self.measures).all(axis=1)
        return Elites(self.label, self.fitness[keep], self.measures[keep], self.qd_score)


def best_per_cell(fitness: ArrayLike, measures: ArrayLike, grid: Grid) -> Floats:
    """Insert `fitness` [N] at `measures` [N, M] into an empty grid: the best of each cell [*shape], NaN where empty."""
    best = np.full(grid.shape, -np.inf)
    np.maximum.at(best, tuple(grid.cells(measures).T), np.asarray(fitness, float))
    return np.where(np.isfinite(best), best, np.nan)


def ccdf(values: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Complementary cumulative count: `values` ascending [N], and how many of them are at least that large [N]."""
    ordered = np.sort(np.asarray(values, float))
    return ordered, ordered.size - np.searchsorted(ordered, ordered, side="left")


def heat_maps(
    grid: Grid,
    archives: Sequence[Elites],
    held_out: Floats | None = None,
    box: tuple[ArrayLike, ArrayLike] | None = None,
) -> Figure:
    """Best fitness per cell of several archives side by side, on one colour scale.

    With one measure: a step curve for each archive. With more than two: a row for each pair of measures, showing the
    maximum over the others. The last two archives give the title: the reference and the generated one.

    Args:
      grid: the grid of the archives.
      archives: what to draw, from left to right.
      held_out: measures [H, M] of elites that training never saw, drawn as dots on the reference.
      box: (low [M], high [M]) of a box that training never saw, or [K, M] of K boxes, drawn as dashed outlines.
    """
    clean = [archive.finite() for archive in archives]
    counts = [grid.occupied(archive.measures).size for archive in clean]
    message = f"Generated policies fill {counts[-1]:,} cells; the originals, evaluated again, fill {counts[-2]:,}"
    titles = [
        f"{archive.label}\n{count:,} cells" + (f"  ·  QD {archive.qd_score:,.0f}" if archive.qd_score else "")
        for archive, count in zip(clean, counts, strict=True)
    ]
    if len(grid.shape) == 1:
        return _step_curves(grid, clean, titles, message)

    pairs = measure_pairs(len(grid.shape))
    views = [grid.project(pair) for pair in pairs]
    images = [
        [best_per_cell(archive.fitness, archive.measures[:, pair], view) for archive in clean]
        for pair, view in zip(pairs, views, strict=True)
    ]
    # A handful of falls must not wash out the map: the scale starts at the first percentile.
    seen = np.concatenate([image[np.isfinite(image)] for row in images for image in row])
    lowest, floor, top = np.percentile(seen, [0, 1, 100]) if seen.size else (0.0, 0.0, 1.0)
    norm = Normalize(float(floor), float(max(top, floor + 1e-9)))
    figure, axes = make_canvas(len(pairs), len(clean), 4.35 if len(pairs) == 1 else 3.75, message)
    for row, (pair, view) in enumerate(zip(pairs, views, strict=True)):
        for column, title in enumerate(titles):
            axis = axes[row][column]
            _image(axis, images[row][column], view, HEAT, norm)
            if row == 0:
                axis.set_title(title, fontsize=11, color=INK, loc="left")
            if column:
                axis.set_ylabel("")
            if column == len(clean) - 2 and held_out is not None and len(held_out):
                points = np.asarray(held_out)[:, pair]
                label = f"{len(points):,} held-out elites"
                axis.plot(*points.T, ".", color=HELD_OUT, ms=4.4, mec="white", mew=0.4, label=label)
            if column and box is not None:
                corners = (np.atleast_2d(np.asarray(edge, float))[:, list(pair)] for edge in box)
                for number, (low, high) in enumerate(zip(*corners, strict=True)):
                    outline = Rectangle((low[0], low[1]), *(high - low), fill=False, ls="--", lw=1.6, ec=HELD_OUT)
                    outline.set_label("_held-out region" if number else "held-out region")  # once in the legend
                    axis.add_patch(outline)
    handles, labels = axes[0][-2].get_legend_handles_labels() if len(clean) > 1 else ([], [])
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=10, markerscale=2)
    everything, extend = [axis for row in axes for axis in row], "min" if lowest < floor else "neither"
    bar = figure.colorbar(axes[0][-1].images[0], ax=everything, extend=extend, pad=0.015, aspect=28)
    bar.ax.tick_params(colors=MUTED, labelsize=9.5, length=3)
    bar.set_label("fitness of the best policy in a cell", color=INK)
    bar.outline.set_visible(False)
    return figure


def target_and_achieved(
    grid: Grid, targets: Floats, achieved: Floats, ceiling: Floats, held_out: NDArray[np.bool_] | None = None
) -> Figure:
    """Target against achieved measures, one panel a measure, and the distribution of the L2 errors.

    Args:
      grid: gives the bounds, names and cell diagonal.
      targets: [N, M] measures that were asked for.
      achieved: [N, M] measures that the generated policies reached.
      ceiling: [N, M] measures of the original policies in a second evaluation.
      held_out: [N] which targets training never saw.
    """
    error, noise = np.linalg.norm(achieved - targets, axis=1), np.linalg.norm(ceiling - targets, axis=1)
    error_ok, noise_ok = error[np.isfinite(error)], noise[np.isfinite(noise)]
    far, near = (f"{values.mean():#.2g}" if values.size else "–" for values in (error_ok, noise_ok))
    message = f"Generated policies land {far} from their target on average; the originals, evaluated again, {near}"
    count = len(grid.shape)
    columns = min(count + 1, 3)
    figure, axes = make_canvas(-(-(count + 1) // columns), columns, 3.9, message)
    panels = [axis for row in axes for axis in row]
    unseen = np.zeros(len(targets), bool) if held_out is None else np.asarray(held_out, bool)
    for index, axis in enumerate(panels[:count]):
        target, reached = targets[:, index], achieved[:, index]
        span = (float(grid.low[index]), float(grid.high[index]))
        if len(targets) > 4000:
            axis.hexbin(target, reached, gridsize=60, extent=(*span, *span), bins="log", cmap="viridis", mincnt=1, lw=0)
        else:
            dots: dict[str, Any] = {"s": 9, "linewidths": 0}
            axis.scatter(target[~unseen], reached[~unseen], color=GENERATED, alpha=0.35, label="trained on", **dots)
            if unseen.any():
                axis.scatter(target[unseen], reached[unseen], color=CEILING, alpha=0.8, label="held out", **dots)
                add_legend(axis, loc="upper left", markerscale=1.8)
        axis.axline((span[0], span[0]), (span[1], span[1]), color=INK, lw=0.9, ls=(0, (4, 3)))
        axis.set(xlim=span, ylim=span, xlabel=f"{grid.names[index]}, target", ylabel=f"{grid.names[index]}, achieved")
        axis.set_box_aspect(1)
    axis = panels[count]
    curves = [("originals, evaluated again", noise_ok, CEILING, "-"), ("generated", error_ok, GENERATED, "-")]
    if unseen.any():
        curves.append(("generated, held out", error[unseen & np.isfinite(error)], GENERATED, ":"))
    axis.axvline(grid.diagonal, color=MUTED, lw=1, ls=(0, (4, 3)), label="one cell diagonal")
    reach = max([2.5 * grid.diagonal, *(float(np.percentile(v, 98)) for _, v, _, _ in curves if v.size)])
    for label, values, colour, dash in curves:
        distance = np.r_[0.0, np.sort(values), 1e9]
        fraction = np.r_[np.linspace(0.0, 1.0, values.size + 1), 1.0]
        axis.step(np.minimum(distance, 2 * reach), fraction, where="post", color=colour, ls=dash, lw=1.9, label=label)
    axis.set(xlim=(0, reach), ylim=(0, 1.02), xlabel="distance from the target (L2)", ylabel="fraction of policies")
    axis.set_box_aspect(1)
    add_legend(axis, loc="lower right")
    for spare in panels[count + 1 :]:
        spare.set_visible(False)
    return figure


def fitness_ccdf(grid: Grid, archives: Mapping[str, Elites]) -> Figure:
    """How many cells hold a policy of at least a given fitness, for `reference`, `ceiling` and `generated`."""
    clean = {name: archive.finite() for name, archive in archives.items()}
    filled = {name: best_per_cell(archive.fitness, archive.measures, grid) for name, archive in clean.items()}
    values = {name: best[np.isfinite(best)] for name, best in filled.items()}
    half = float(np.median(values["reference"])) if values["reference"].size else 0.0
    above = {name: int((best >= half).sum()) for name, best in values.items()}
    made, original = above["generated"], above["reference"]
    message = f"{made:,} generated and {original:,} original cells reach a fitness of {half:,.0f}, the original median"
    figure, ((axis,),) = make_canvas(1, 1, 4.2, message, width=8.6)
    styles = {"reference": (REFERENCE, "-"), "ceiling": (CEILING, "--"), "generated": (GENERATED, "-")}
    for name, best in values.items():
        level, count = ccdf(best)
        if level.size:
            level, count = np.append(level, level[-1]), np.append(count, 0)
        colour, dash = styles.get(name, (STORED, "-"))
        axis.step(level, count, where="pre", color=colour, ls=dash, lw=2, label=archives[name].label)
    axis.axvline(half, color=MUTED, lw=1, ls=(0, (4, 3)))
    axis.set(xlabel="fitness x", ylabel="cells with fitness of at least x")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    add_legend(axis, loc="lower left")
    return figure


def search_curves(history: Sequence[Row]) -> Figure:
    """Coverage, QD score, and best and mean fitness of an archive search against evaluations."""
    unit = "evaluations" if any("evaluations" in row for row in history) else "iteration"
    last = history[-1]
    message = f"The search found {last.get('cells', 0):,} elites in {last.get(unit, 0):,} {unit}"
    figure, (axes,) = make_canvas(1, 3, 3.3, message)
    panels = (
        ("cells filled (%)", (("coverage", CEILING, 100.0),)),
        ("QD score", (("qd_score", CEILING, 1.0),)),
        ("fitness", (("best", GENERATED, 1.0), ("mean", CEILING, 1.0))),
    )
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for key, colour, scale in lines:
            steps, values = _series(history, unit, key)
            draw_line(axis, steps, scale * values, color=colour, label=key)
        axis.set_title(title, fontsize=11, color=INK, loc="left")
        axis.set_xlabel(unit)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    add_legend(axes[2], loc="lower right")
    axes[0].set_ylim(bottom=0)
    axes[2].yaxis.set_major_formatter("{x:,.0f}")
    axes[1].yaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


def training_curves(history: Sequence[Row]) -> Figure:
    """Losses of the autoencoder and of the diffusion model against steps, on a log axis, with the DAgger rounds."""
    phases = [phase for phase in ("autoencoder", "diffusion") if any(row.get("phase") == phase for row in history)]
    if not phases:
        raise UserError("The training history has no row of phase 'autoencoder' or 'diffusion'; run the train stage")
    parts = []
    figure, (axes,) = make_canvas(1, len(phases), 3.5, "")
    for axis, phase in zip(axes, phases, strict=True):
        rows = [row for row in history if row.get("phase") == phase]
        extra = [key for key in ("action_mse",) if any(row.get(key) not in (None, row.get("loss")) for row in rows)]
        changes = (now for old, now in pairwise(rows) if old.get("dagger_round") != now.get("dagger_round"))
        rounds = [row["step"] for row in changes]
        for index, step in enumerate(rounds):
            axis.axvline(step, color=MUTED, lw=0.9, alpha=0.55, ls=":", label=None if index else "new DAgger round")
        for key, colour in zip(["loss", *extra], (CEILING, GENERATED), strict=False):
            steps, values = _series(rows, "step", key)
            steps, values = steps[values > 0], values[values > 0]
            smooth = running_median(values, max(1, len(values) // 60))
            if len(values) > 40:
                axis.plot(steps, values, color=colour, lw=0.7, alpha=0.3)
            draw_line(axis, steps, smooth if len(values) > 40 else values, color=colour, label=key.replace("_", " "))
            if key == "loss" and len(values):
                parts.append(f"{phase} {smooth[0]:.3g} → {smooth[-1]:.3g}")
        axis.set_yscale("log")
        axis.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.set_title(phase, fontsize=11, color=INK, loc="left")
        axis.set(xlabel="training step", ylabel="loss")
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        if rounds or extra:
            add_legend(axis, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    set_title(figure, "Loss from start to end: " + ", ".join(parts))
    return figure


def uniform_map(grid: Grid, reference: Floats, achieved: Floats) -> Figure:
    """Which cells uniformly drawn conditions reach: new ones, ones the reference [N, M] has, and the ones it alone has.

    Args:
      grid: the grid of the archives.
      reference: [N, M] measures of the re-evaluated original archive.
      achieved: [U, M] measures of the policies generated for uniformly drawn targets.
    """
    old, reached = (grid.occupied(values[np.isfinite(values).all(axis=1)]) for values in (reference, achieved))
    groups = (np.setdiff1d(old, reached), np.intersect1d(old, reached), np.setdiff1d(reached, old))
    message = f"Uniform targets fill {groups[2].size:,} cells that were empty in the original"
    pairs = measure_pairs(len(grid.shape))
    height, width = (1.9 if len(grid.shape) == 1 else 5.0), (7.6 if len(pairs) == 1 else WIDTH)
    figure, (axes,) = make_canvas(1, len(pairs), height, message, width)
    colours = ListedColormap([EMPTY, "#b4bac4", "#56b4e9", GENERATED])
    for axis, pair in zip(axes, pairs, strict=True):
        view = grid.project(pair)
        kind = np.zeros(view.shape)
        for value, cells in enumerate(groups, start=1):
            where = np.stack(np.unravel_index(cells, grid.shape), axis=1)[:, list(pair)]
            np.maximum.at(kind, tuple(where.T), value)
        _image(axis, kind, view, colours, Normalize(0, 3))
    labels = ("only in the original", "in both", "new: empty in the original")
    handles = [
        Patch(color=colours(value), label=f"{label} ({cells.size:,})")
        for value, (label, cells) in enumerate(zip(labels, groups, strict=True), start=1)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def measure_pairs(count: int) -> list[tuple[int, ...]]:
    """Pairs of measures that show each measure once: (0, 1), (2, 3), ...; an odd last one goes with its neighbour."""
    if count == 1:
        return [(0,)]
    pairs: list[tuple[int, ...]] = [(first, first + 1) for first in range(0, count - 1, 2)]
    return pairs if count % 2 == 0 else [*pairs, (count - 2, count - 1)]


def running_median(values: Floats, radius: int) -> Floats:
    """Median [N] over a window of `radius` to each side, cut at the ends."""
    return np.array([np.median(values[max(0, i - radius) : i + radius + 1]) for i in range(len(values))])


def _image(axis: Axes, values: Floats, grid: Grid, colours: Colormap, norm: Normalize) -> None:
    flat = len(grid.shape) == 1
    (left, *low), (right, *high) = grid.low.tolist(), grid.high.tolist()
    extent = (left, right, 0.0, 1.0) if flat else (left, right, low[0], high[0])
    image = values[None] if flat else values.T
    axis.imshow(image, origin="lower", extent=extent, aspect="auto", interpolation="nearest", cmap=colours, norm=norm)
    axis.set_xlabel(grid.names[0])
    if flat:
        axis.set_yticks([])
    else:
        axis.set_ylabel(grid.names[1])
        axis.set_box_aspect(1)
    axis.spines[:].set_visible(False)


def _step_curves(grid: Grid, archives: Iterable[Elites], titles: Sequence[str], message: str) -> Figure:
    figure, ((axis,),) = make_canvas(1, 1, 4.0, message)
    edges = np.linspace(float(grid.low[0]), float(grid.high[0]), grid.shape[0] + 1)
    for archive, title, colour in zip(archives, titles, (STORED, REFERENCE, GENERATED), strict=False):
        best = best_per_cell(archive.fitness, archive.measures, grid)
        axis.stairs(best, edges, baseline=None, color=colour, lw=1.8, label=title.replace("\n", ": "))
    axis.set(xlabel=grid.names[0], ylabel="fitness of the best policy in a cell")
    add_legend(axis, loc="best")
    return figure


def _series(rows: Iterable[Row], x: str, y: str) -> tuple[Floats, Floats]:
    pairs = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
    points = np.array(pairs, float).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]
