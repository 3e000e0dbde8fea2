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
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np
from matplotlib.figure import Figure

import ldpol
from ldpol import archive as archives
from ldpol import report, session, storage
from ldpol.distillation import presets
from ldpol.report import canvas

PRESETS = {"default": ldpol.DistillConfig, "large": presets.large, "quick": presets.quick}
KEPT = ("reward_ratio", "coverage_ratio", "qd_ratio", "success_rate", "mem")
OF_TASK = ("backend", "episode_length", "reset_noise")
PANELS = (
    ("kept by the model", {"reward": "reward_ratio", "coverage": "coverage_ratio", "QD score": "qd_ratio"}),
    ("mean error of measures", {"model": "mem", "elites": "ceiling"}),
    ("times smaller", {"": "compression"}),
    ("minutes of training", {"": "minutes"}),
    ("GB at most", {"": "gigabytes"}),
)


def row_of(options: Any) -> dict[str, Any]:
    """Distil some elites and say what it took and what is left of them."""
    archive = archives.load(options.archive)
    task = ldpol.make_task(archive.task, **{name: value for name, value in archive.settings if name in OF_TASK})
    count, keys = min(options.elites or len(archive), len(archive)), jax.random.split(jax.random.key(options.seed), 3)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(len(archive))[:count])
    archive, config = archives.take(archive, chosen), PRESETS["quick" if options.quick else options.preset]()
    player = ldpol.make_player(task, archive.network.apply, episodes=config.episodes)
    hooks = ldpol.Hooks(progress=session.progress)
    archive = ldpol.reevaluate(archive, task, key=keys[0], player=player, hooks=hooks)
    split, begun = ldpol.split(archive, fraction=0.1, seed=options.seed), time.monotonic()
    generator = ldpol.distill(split.trained, task, config, key=keys[1], player=player, hooks=hooks)
    seconds, peak = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = ldpol.evaluate(generator, archive, task, key=keys[2], split=split, player=player, hooks=hooks)
    return {
        "elites": count,
        "policy_params": sum(leaf[0].size for leaf in jax.tree.leaves(archive.policies)),
        "seed": options.seed,
        "preset": options.preset,
        "training_seconds": round(seconds, 1),
        "peak_bytes": peak,
        "generator_bytes": found["generator_bytes"],
        "compression": found["compression_bytes"],
        "cells": found["reference"]["cells"],
        "generated": {name: found[name] for name in KEPT},
        "held_out": {name: found["held_out"][name] for name in KEPT},
        "diffusion_alone": {name: found["blind"][name] for name in KEPT},
        "ceiling": {name: found["ceiling"][name] for name in KEPT},
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
            for (label, name), colour in zip(lines.items(), colours, strict=False):
                x, y = zip(
                    *((row["elites"], _value(row, name)) for row in rows if row["policy_params"] == size), strict=True
                )
                style = {"color": colour, "ls": ("-", "--", ":")[place]}
                mark = ", ".join([*([label] if label else []), *([f"{size:,} parameters"] if len(sizes) > 1 else [])])
                canvas.draw_line(axis, np.array(x), np.array(y), label=mark or "_", **style)
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.set_xlim(left=0)
        if any(lines) or len(sizes) > 1:
            canvas.add_legend(axis)
    return drawn


def _value(row: dict[str, Any], name: str) -> float:
    own = {
        "ceiling": row["ceiling"]["mem"],
        "compression": row["compression"],
        "minutes": row["training_seconds"] / 60,
        "gigabytes": row["peak_bytes"] / 1e9,
    }
    return own[name] if name in own else row["generated"][name]


def add(out: Path, row: dict[str, Any]) -> None:
    """Put a row into the file and draw all of them."""
    rows = json.loads(out.read_text(encoding="utf-8"))["results"] if out.is_file() else []
    mark = lambda one: (one["policy_params"], one["elites"], one["seed"])  # noqa: E731
    rows = sorted([*(one for one in rows if mark(one) != mark(row)), row], key=mark)
    storage.write_json(out, {"benchmark": "scaling", "results": rows})
    report.save(figure(rows), out.with_suffix(".png"))


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("archive", type=Path, help="an archive's file, such as runs/demo/archive/elites")
    parser.add_argument("--elites", type=int, help="how many of them (default: all)")
    parser.add_argument("--preset", choices=list(PRESETS), default="default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    session.start_jax()
    row = row_of(options)
    print(json.dumps(row, indent=1))
    if options.out is not None:
        config = dataclasses.asdict(PRESETS["quick" if options.quick else options.preset]())
        add(options.out, row | session.provenance(config, options.seed))


if __name__ == "__main__":
    main()
