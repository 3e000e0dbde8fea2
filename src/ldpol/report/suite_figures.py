"""Figures of what a condition can do: arrays in, a matplotlib `Figure` out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ldpol.evaluation.suites import damage
from ldpol.evaluation.suites.guidance import guidance_verdict
from ldpol.report.canvas import (
    CEILING,
    GENERATED,
    HELD_OUT,
    INK,
    MUTED,
    REFERENCE,
    STORED,
    Floats,
    add_legend,
    draw_line,
    make_canvas,
)

Row = Mapping[str, Any]
WAYS = {
    "generated": ("one sample a segment", GENERATED),
    "lookahead": ("best of several, looking ahead", CEILING),
    "nearest_elite": ("nearest elite", STORED),
}
"""Ways to find the policy of a segment, in reading order: how they are called, and their colour."""


def guidance_curves(rows: Sequence[Row]) -> Figure:
    """Target error, reward, coverage and diversity against the guidance scale.

    Args:
      rows: what was measured at each scale: `scale`, `mem`, `reward_ratio`, `coverage_ratio`, `diversity`.
    """
    figure, (axes,) = make_canvas(1, 4, 3.1, guidance_verdict(rows))
    panels = (
        ("target error (MEM)", "mem", 1.0),
        ("reward, % of reference", "reward_ratio", 100.0),
        ("coverage, % of reference", "coverage_ratio", 100.0),
        ("diversity of actions (L2)", "diversity", 1.0),
    )
    scales = np.array([row["scale"] for row in rows], float)
    for axis, (title, name, factor) in zip(axes, panels, strict=True):
        axis.axvline(1.0, color=MUTED, lw=1, ls=(0, (4, 3)))
        order = np.argsort(scales)
        values = factor * np.array([row[name] for row in rows], float)
        draw_line(axis, scales[order], values[order], color=GENERATED)
        axis.set_title(title, fontsize=11, color=INK, loc="left")
        axis.set(xlabel="guidance scale")
        axis.margins(y=0.2)
    return figure


def sequence_traces(
    names: Sequence[str], targets: Floats, measures: Mapping[str, Floats], alive: Mapping[str, Floats], settle: int
) -> Figure:
    """What happens in one sequence, step by step: the measures with their targets, and who is still on its feet.

    Args:
      names: `[M]` of the measures.
      targets: `[K, M]` what each segment asks for; NaN where a measure is free.
      measures: `[T, M]` mean over the episodes that last, by way of choosing.
      alive: `[T]` share of the episodes that last, by way of choosing.
      settle: steps after a switch that do not count.
    """
    segments, count = targets.shape
    length = len(next(iter(alive.values())))
    steps, window = length // segments, max(1, length // segments // 5)
    figure, axes = make_canvas(count + 1, 1, 2.0, f"One episode, {segments} behaviours: a sequence with its targets")
    shown = [way for way in WAYS if way in measures]
    rows = [row[0] for row in axes]
    for axis in rows:
        for k in range(segments):
            axis.axvspan(k * steps, k * steps + settle, color="#f3f4f6", lw=0)
            if k:
                axis.axvline(k * steps, color=MUTED, lw=0.9, ls=":")
        axis.set_xlim(0, length)
    for index, axis in enumerate(rows[:count]):
        for k in range(segments):
            label = "_" if k else "target"  # matplotlib leaves names that start so out of the legend
            axis.hlines(targets[k, index], k * steps, (k + 1) * steps, color=REFERENCE, lw=3, alpha=0.75, label=label)
        for way in shown:
            name, colour = WAYS[way]
            values = smoothed(measures[way][:, index], alive[way], window)
            axis.plot(np.arange(length) + 1, values, color=colour, lw=1.7, label=name)
        axis.set(ylabel=names[index])
    for way in shown:
        rows[count].step(np.arange(length) + 1, 100 * alive[way], color=WAYS[way][1], lw=1.9, where="pre")
    rows[count].set(ylabel="lasting, %", ylim=(0, 104), xlabel="step")
    handles, labels = rows[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def smoothed(values: Floats, weights: Floats, window: int) -> NDArray[np.floating[Any]]:
    """Mean `[T]` of `values` `[T]` over `window` steps up to each, by `weights` `[T]`; NaN where those are 0."""
    sums = [np.cumsum(np.r_[np.zeros(window), part]) for part in (values * weights, weights)]
    total, weight = (part[window:] - part[:-window] for part in sums)
    return np.where(weight > 1e-9, total / np.maximum(weight, 1e-9), np.nan)


def sequence_bars(result: Mapping[str, Any]) -> Figure:
    """Survival, hits and target error of sequences with their intervals, one bar a way of choosing."""
    shown = [way for way in WAYS if way in result]
    gain = (result.get("generated_less_nearest_elite") or {}).get("survival") or {}
    message = "Sequences: who survives, who arrives"
    if all(isinstance(gain.get(name), float) for name in ("value", "low", "high")):
        value, low, high = (100 * gain[name] for name in ("value", "low", "high"))
        message = f"Sampled policies survive {value:+.1f} points against nearest elites ({low:+.1f} to {high:+.1f})"
    figure, (axes,) = make_canvas(1, 3, 3.3, message)
    panels = (
        ("sequences survived, %", "survival", 100.0),
        ("segments on target, %", "hits", 100.0),
        ("target error (MEM)", "mem", 1.0),
    )
    for axis, (title, name, factor) in zip(axes, panels, strict=True):
        for place, way in enumerate(shown):
            value, (low, high) = result[way].get(name), (result[way].get("intervals") or {}).get(name) or (None, None)
            if value is None:
                continue
            axis.bar(place, factor * value, color=WAYS[way][1], width=0.62)
            if low is not None and high is not None:
                axis.vlines(place, factor * low, factor * high, color=INK, lw=1.6)
        axis.set_xticks(
            range(len(shown)), [way.replace("_", "\n").replace("lookahead", "looking\nahead") for way in shown]
        )
        axis.set_title(title, fontsize=11, color=INK, loc="left")
        axis.set_ylim(bottom=0)
    return figure


def recovery_curves(found: Mapping[str, Any]) -> Figure:
    """What is found on damaged robots, against the trials that it takes, one line a way of searching."""
    colours = {damage.BANK: GENERATED, damage.ARCHIVE: CEILING, damage.SAME_BYTES: HELD_OUT, damage.RANDOM: STORED}
    last, ways = found["ways"][damage.BANK]["curve"][-1], len(found["damages"])
    message = f"After damage: {last:.0f} from {found['trials']} trials, where the healthy champion is left with "
    figure, ((axis,),) = make_canvas(1, 1, 3.6, f"{message}{found[damage.CHAMPION]:.0f}")
    trials = np.arange(1, found["trials"] + 1, dtype=float)
    axis.axhline(found[damage.CHAMPION], color=REFERENCE, lw=1.4, ls=(0, (4, 3)), label="The champion, no trial")
    for way, (title, _) in damage.WAYS.items():
        draw_line(axis, trials, np.asarray(found["ways"][way]["curve"]), color=colours[way], label=title)
    axis.set(xlabel="trials, an episode each", ylabel=f"fitness, mean of {ways} damages")
    add_legend(axis, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
