"""The figure of a study: what is left of an archive against how small it became."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ldpol.report.canvas import CEILING, GENERATED, INK, MUTED, make_canvas

PANELS = {"reward_ratio": "reward", "coverage_ratio": "coverage", "qd_ratio": "QD score"}
# Okabe-Ito again; the marker says the same as the colour.
STYLES: dict[str, tuple[str, str, str]] = {
    "ours": ("latent diffusion", GENERATED, "o"),
    "paper": ("published method", "#1a1a1a", "s"),
    "latents": ("decoder + table of latents", "#e69f00", "P"),
    "cvae": ("conditional VAE", "#cc79a7", "v"),
    "cloned": ("one cloned policy", "#009e73", "^"),
    "gaussian": ("PCA + Gaussian", "#56b4e9", "D"),
    "subsampled": ("subsampled archive", "#8c8c8c", "<"),
    "quantised": ("quantised archive", "#5b4b8a", ">"),
}
TICKS = (1, 3, 10, 30, 100, 300, 1000, 3000)
FLOOR = 0.5
"""Ratios below it are drawn hollow at the lower edge: what is lost anyway must not squeeze the rest."""
LABELLED = 4
LABELS = 0.25
"""Part of a panel's height that the names of the labelled rows take above everything drawn."""


def draw_retention(rows: Sequence[Mapping[str, Any]], ceiling: Mapping[str, Any]) -> Figure:
    """Draw compression in bytes (log) against reward, coverage and QD ratio, a panel each.

    Args:
      rows: `{method, variant, compression_bytes, reward_ratio, coverage_ratio, qd_ratio}` with intervals
        `{mean, low, high}`.
      ceiling: the same ratios of the archive played a second time.
    """
    figure, [axes] = make_canvas(1, 3, 4.9, "What is left of the archive against how small it became", 14.0)
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        _draw_panel(axis, rows, name, title, ceiling)
    shown = [method for method in STYLES if any(row["method"] == method for row in rows)]
    for method in shown:
        label, colour, marker = STYLES[method]
        axes[0].plot([], [], marker, color=colour, label=label, ms=6, ls="none")
    axes[0].plot([], [], color=CEILING, lw=1.2, ls="--", label="archive played again")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9.5
    )
    return figure


def _draw_panel(
    axis: Axes, rows: Sequence[Mapping[str, Any]], name: str, title: str, ceiling: Mapping[str, Any]
) -> None:
    values: list[float] = [row[name]["mean"] for row in rows]
    again = ceiling.get(name)
    bottom = max(FLOOR, min([0.9, *values]) - 0.05)
    for row, value in zip(rows, values, strict=True):
        _, colour, marker = STYLES[row["method"]]
        x, low, high = row["compression_bytes"]["mean"], row[name]["low"], row[name]["high"]
        height = max(value, bottom)
        if low is not None:
            axis.plot([x, x], [max(low, bottom), max(high, bottom)], color=colour, lw=1.2, alpha=0.6, zorder=2)
        hollow = value < bottom
        face = "white" if hollow else colour
        axis.plot(x, height, marker, ms=6.5, mfc=face, mec=colour if hollow else "white", mew=0.8, zorder=3)
    if again:
        axis.axhline(again["mean"], color=CEILING, lw=1.2, ls="--", zorder=1)
        if again["low"] is not None:
            axis.axhspan(again["low"], again["high"], color=CEILING, alpha=0.1, lw=0, zorder=0)
    # An interval of two seeds is ten times as wide as one of three: it may leave the panel, means may not.
    top = max([1.0, *values, again["high"] or again["mean"] if again else 1.0]) + 0.05
    axis.set_ylim(bottom - 0.02, top + LABELS * (top - bottom))
    _label(axis, _frontier([row for row in rows if row[name]["mean"] >= bottom], name), name)
    sizes = [row["compression_bytes"]["mean"] for row in rows]
    axis.set_xscale("log")
    axis.set_xlim(0.8 * min([1.0, *sizes]), 2.0 * max([10.0, *sizes]))
    axis.xaxis.set_major_locator(FixedLocator(list(TICKS)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.grid(axis="y", color="#e4e7ec", lw=0.7)
    axis.set_axisbelow(True)
    axis.set_title(title, loc="left", fontsize=11, color=INK)
    axis.set_xlabel("times smaller than the archive, in bytes", color=MUTED)
    if name == next(iter(PANELS)):
        axis.set_ylabel("ratio to the archive")


def _label(axis: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Name rows above the panel's points, each on a line of its own, so that none covers another or a point."""
    widest = max((row["compression_bytes"]["mean"] for row in rows), default=1.0)
    for line, row in enumerate(rows):
        x, value = row["compression_bytes"]["mean"], row[name]["mean"]
        title = row["variant"].replace("_", " ")
        right = x**2 > widest  # in the right half of a logarithmic axis; its name goes to the left of its line
        axis.annotate(
            f"{title} " if right else f" {title}",
            (x, value),
            xytext=(x, 1.0 - (line + 0.5) / (LABELLED + 1.0) * LABELS),
            textcoords=axis.get_xaxis_transform(),
            ha="right" if right else "left",
            va="center",
            fontsize=8.5,
            color=INK,
            arrowprops={
                "arrowstyle": "-",
                "color": "#b6bcc6",
                "lw": 0.8,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (float(right), 0.5),
            },
            zorder=1,
        )


def _frontier(rows: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Return the rows that no other beats in both size and ratio: a few of them, spread over the sizes."""
    kept: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: -row["compression_bytes"]["mean"]):
        if not kept or row[name]["mean"] > kept[-1][name]["mean"]:
            kept.append(row)
    if len(kept) <= LABELLED:
        return kept
    places = np.linspace(0, len(kept) - 1, LABELLED).round().astype(int)
    return [kept[place] for place in places]
