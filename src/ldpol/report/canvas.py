"""How figures look: colours, sizes, axes, and the few marks that all of them share."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

# Okabe-Ito: distinguishable with every common colour blindness.
REFERENCE, CEILING, GENERATED, STORED, HELD_OUT = "#1a1a1a", "#0072b2", "#d55e00", "#8c8c8c", "#cc2f8f"
EMPTY, INK, MUTED = "#eceef1", "#1d2129", "#667080"
HEAT = colormaps["viridis"].with_extremes(bad=EMPTY)
WIDTH, DPI = 11.0, 120


def make_canvas(
    rows: int, columns: int, height: float, title: str, width: float = WIDTH
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and its axes `[rows][columns]`; height a row and width in inches."""
    figure = Figure(figsize=(width, height * rows), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axis in grid.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#b6bcc6")
        axis.tick_params(which="both", colors=MUTED, labelsize=9.5, length=3)
        axis.xaxis.label.set(color=INK, fontsize=10.5)
        axis.yaxis.label.set(color=INK, fontsize=10.5)
    set_title(figure, title)
    return figure, [list(row) for row in grid]


def set_title(figure: Figure, title: str) -> None:
    """Write what the figure says above it."""
    figure.suptitle(title, x=0.008, ha="left", fontsize=13, fontweight="bold", color=INK)


def draw_line(axis: Axes, x: Floats, y: Floats, **style: Any) -> None:
    """Draw a line, with its points where they are few."""
    axis.plot(x, y, lw=1.9, marker="o" if len(x) < 12 else None, ms=4, **style)


def add_legend(axis: Axes, **place: Any) -> None:
    """Add a plain legend."""
    axis.legend(frameon=False, fontsize=9.5, labelcolor=INK, handlelength=1.8, **place)
