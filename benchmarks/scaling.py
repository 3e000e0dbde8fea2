"""What grows with the archive: time, memory and bytes of a distillation, and what it keeps, by the number of elites.

    python benchmarks/scaling.py runs/demo/archive/elites --elites 250 --out results/scaling-walker2d.json

Each command distils so many elites of an archive, chosen at random, evaluates the model against them, and adds one row
to the file (in place of one of the same elites, size of policy and seed) and draws all rows beside it. A row is a
process of its own, so that its peak memory is. Without `--elites` all are taken; `--preset large` has the settings of
large archives.
"""

import dataclasses
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np
from matplotlib.figure import Figure

import ldpol
from ldpol import archive as archives
from ldpol import report, sample, session
from ldpol.distillation import presets
from ldpol.report import canvas

PRESETS = {"default": ldpol.DistillConfig, "large": presets.large, "quick": presets.quick}
PANELS: tuple[tuple[str, dict[str, Callable[[dict[str, Any]], float]]], ...] = (
    (
        "kept by the model",
        {
            "reward": lambda row: row["generated"]["reward_ratio"],
            "coverage": lambda row: row["generated"]["coverage_ratio"],
            "QD score": lambda row: row["generated"]["qd_ratio"],
        },
    ),
    (
        "mean error of measures",
        {"model": lambda row: row["generated"]["mem"], "elites": lambda row: row["ceiling"]["mem"]},
    ),
    ("times smaller", {"": lambda row: row["compression"]}),
    ("minutes of training", {"": lambda row: row["training_seconds"] / 60}),
    ("GB at most", {"": lambda row: row["peak_bytes"] / 1e9}),
)


def row_of(options: Any, config: ldpol.DistillConfig) -> dict[str, Any]:
    """Distil some elites and say what it took and what is left of them."""
    archive = archives.load(options.archive)
    task = sample.make_task(archive)
    count, keys = min(options.elites or len(archive), len(archive)), jax.random.split(jax.random.key(options.seed), 3)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(archive))[:count])
    archive = archives.take(archive, chosen)
    player = ldpol.make_player(task, archive.network.apply, episodes=config.episodes)
    hooks = ldpol.Hooks(progress=session.progress)
    archive = ldpol.reevaluate(archive, task, key=keys[0], player=player, hooks=hooks)
    split, begun = ldpol.split(archive, fraction=0.1, seed=options.seed), time.monotonic()
    generator = ldpol.distill(split.trained, task, config, key=keys[1], player=player, hooks=hooks)
    seconds, peak = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = ldpol.evaluate(generator, archive, task, key=keys[2], split=split, player=player, hooks=hooks)
    return {
        "elites": count,
        "policy_params": found["policy_params"],
        "seed": options.seed,
        "preset": options.preset,
        "training_seconds": round(seconds, 1),
        "peak_bytes": peak,
        "generator_bytes": found["generator_bytes"],
        "compression": found["compression_bytes"],
        "cells": found["reference"]["cells"],
        "generated": {name: found[name] for name in common.KEPT},
        "held_out": {name: found["held_out"][name] for name in common.KEPT},
        "diffusion_alone": {name: found["blind"][name] for name in common.KEPT},
        "ceiling": {name: found["ceiling"][name] for name in common.KEPT},
    }


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw every row against its number of elites, one line a size of policy."""
    drawn, (axes,) = canvas.make_canvas(1, len(PANELS), 2.6, "What grows with the archive", width=14.0)
    sizes = sorted({row["policy_params"] for row in rows})
    colours = (canvas.CEILING, canvas.GENERATED, canvas.HELD_OUT)
    for axis, (title, lines) in zip(axes, PANELS, strict=True):
        axis.set_title(title, fontsize=10.5, color=canvas.INK, loc="left")
        axis.set_xlabel("elites")
        for place, size in enumerate(sizes):
            for (label, value), colour in zip(lines.items(), colours, strict=False):
                x, y = zip(*((row["elites"], value(row)) for row in rows if row["policy_params"] == size), strict=True)
                style = {"color": colour, "ls": ("-", "--", ":")[place]}
                mark = ", ".join([*([label] if label else []), *([f"{size:,} parameters"] if len(sizes) > 1 else [])])
                canvas.draw_line(axis, np.array(x), np.array(y), label=mark or "_", **style)
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.set_xlim(left=0)
        if any(lines) or len(sizes) > 1:
            canvas.add_legend(axis)
    return drawn


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("archive", type=Path, help="an archive's file, such as runs/demo/archive/elites")
    parser.add_argument("--elites", type=int, help="how many of them (default: all)")
    parser.add_argument("--preset", choices=list(PRESETS), default="default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    session.start_jax()
    config = PRESETS["quick" if options.quick else options.preset]()
    row = row_of(options, config)
    print(json.dumps(row, indent=1))
    if options.out is not None:
        row |= session.provenance(dataclasses.asdict(config), options.seed)
        mark = lambda one: (one["policy_params"], one["elites"], one["seed"])  # noqa: E731
        report.save(figure(common.put_row(options.out, "scaling", row, mark)), options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
