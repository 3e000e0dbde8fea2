"""Suite `reconstruction`: is the archive still there? Every elite's measures are asked for once, and played."""

import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import archive as archives
from ldpol import storage
from ldpol.archive import Archive
from ldpol.evaluation.metrics import compare, summarise
from ldpol.experiments import session
from ldpol.experiments.settings import Config
from ldpol.experiments.suites.context import Context, at_least, plainly
from ldpol.generator import PolicyGenerator
from ldpol.tasks import Task
from ldpol.types import Array, Score

NEEDS = ("episodes", "unseen", "uniform")
RATIOS = ("reward_ratio", "coverage_ratio", "qd_ratio", "mem", "js_divergence", "success_rate", "best_reward")


def check(config: Config, task: Task) -> None:
    """Raise `ConfigError` if a number of policies is not positive."""
    at_least(config.eval, "eval", unseen=1, uniform=1)


def run(context: Context) -> dict[str, Any]:
    """Score everything the protocol asks for; also writes `eval/arrays.npz`."""
    config, task, archive, reference = context.config, context.task, context.archive, context.reference
    grid = archive.grid
    keys = jax.random.split(context.key(2), 5)
    generate = context.asking(plainly)
    ceiling = context.keep("ceiling", "the archive a second time", context.play, archive.policies, keys[0], NEEDS).score
    generated = context.keep("generated", "one sample a condition", generate, reference.measures, keys[1], NEEDS).score
    # What a user asks for is never exactly a label: here, what the second time measured, which training never saw.
    asked = context.rows(ceiling, context.choose(config.eval.unseen, 1))
    unseen = context.keep("unseen", "measures training never saw", generate, asked.measures, keys[2], NEEDS).score
    uniform_targets = np.asarray(jax.random.uniform(keys[3], (config.eval.uniform, task.measures)))
    uniform_targets = grid.unscaled(uniform_targets).astype(np.float32)
    uniform = context.keep("uniform", "uniform conditions", generate, uniform_targets, keys[4], NEEDS).score

    scores = {"reference": reference, "ceiling": ceiling, "generated": generated}
    offset = task.fitness_offset
    metrics = _metrics(archive, context.generator, scores, uniform, uniform_targets, context.kind, offset)
    metrics["unseen"] = compare(grid, asked, unseen, offset)
    metrics["episodes"] = config.eval.episodes
    path = context.workdir / "eval" / "arrays.npz"
    _write_arrays(path, archive, task.measure_names, scores, uniform, uniform_targets, context.kind, context.box)
    _print_table(metrics)
    return metrics


def _metrics(
    archive: Archive,
    generator: PolicyGenerator,
    scores: dict[str, Score],
    uniform: Score,
    uniform_targets: np.ndarray,
    kind: np.ndarray,
    offset: float,
) -> dict[str, Any]:
    grid, reference = archive.grid, scores["reference"]
    whole = compare(grid, reference, scores["generated"], offset)
    ceiling = compare(grid, reference, scores["ceiling"], offset)
    subsets = {"trained": kind == 0, "held_out": kind == 1, "held_out_box": kind == 2}
    parts: dict[str, Any] = {}
    for name, rows in subsets.items():
        if rows.any():
            part = {which: jax.tree.map(lambda leaf: leaf[rows], score) for which, score in scores.items()}  # noqa: B023
            parts[name] = compare(grid, part["reference"], part["generated"], offset)
            parts[name]["ceiling"] = compare(grid, part["reference"], part["ceiling"], offset)
        else:
            parts[name] = {}
    filled = {name: _cells(grid, score.measures) for name, score in [*scores.items(), ("uniform", uniform)]}
    original = summarise(grid, reference, offset)
    free = summarise(grid, uniform, offset)
    size = generator.nbytes
    aim = np.linalg.norm(uniform.measures - uniform_targets, axis=-1)
    return {
        **{name: whole[name] for name in RATIOS},
        "mem_ceiling": ceiling["mem"],
        "compression_params": len(archive) * archive.shape.size / generator.size,
        "compression_bytes": archive.nbytes / size,
        "archive_bytes": archive.nbytes,
        "generator_bytes": size,
        "policies": len(archive),
        "policy_params": archive.shape.size,
        "generator_params": generator.size,
        "uniform_coverage_ratio": free["cells"] / original["cells"],
        "held_out_mem": parts["held_out"].get("mem"),
        "ceiling": {name: ceiling[name] for name in RATIOS},
        **parts,
        "uniform": {
            "policies": len(aim),
            "mem": float(aim.mean()),
            "success_rate": float((aim < grid.diagonal).mean()),
            "coverage_ratio": free["cells"] / original["cells"],
            "new_cells": len(filled["uniform"] - filled["reference"]),
            # How many empty cells noise alone fills: the original, played a second time.
            "new_cells_ceiling": len(filled["ceiling"] - filled["reference"]),
        },
        "reference": original,
        "generated": summarise(grid, scores["generated"], offset),
    }


def _cells(grid: archives.Grid, measures: Array) -> set[int]:
    return set(np.asarray(grid.index(jnp.asarray(measures))).tolist())


def _write_arrays(
    path: Path,
    archive: Archive,
    names: tuple[str, ...],
    scores: dict[str, Score],
    uniform: Score,
    uniform_targets: np.ndarray,
    kind: np.ndarray,
    box: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    grid = archive.grid
    arrays = {
        "grid_shape": np.asarray(grid.shape),
        "low": np.asarray(grid.low),
        "high": np.asarray(grid.high),
        "measure_names": np.asarray(names),
        "stored_fitness": np.asarray(archive.fitness),
        "stored_measures": np.asarray(archive.measures),
        "held_out": kind > 0,
        "uniform_targets": uniform_targets,
        "uniform_fitness": uniform.fitness,
        "uniform_measures": uniform.measures,
    }
    if box[0]:
        arrays |= {"box_low": np.asarray(box[0]), "box_high": np.asarray(box[1])}
    for name, score in scores.items():
        arrays |= {f"{name}_fitness": score.fitness, f"{name}_measures": score.measures}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    storage.write_bytes(path, buffer.getvalue())


def _print_table(metrics: dict[str, Any]) -> None:
    names = ("trained", "held_out", "held_out_box", "unseen")
    rows = [("generated", metrics), *((name, metrics[name]) for name in names)]
    rows.append(("original, again", metrics["ceiling"]))
    columns = ("reward_ratio", "coverage_ratio", "qd_ratio", "mem", "success_rate")
    lines = [f"{'':18}" + "".join(f"{name:>16}" for name in columns)]
    for name, row in rows:
        if row:
            lines.append(f"{name:18}" + "".join(f"{row[column]:16.3f}" for column in columns))
    size = f"{metrics['archive_bytes'] / 1e6:.1f} MB -> {metrics['generator_bytes'] / 1e3:.0f} kB"
    session.say("\n".join([*lines, f"compression {metrics['compression_bytes']:.1f}x ({size})"]))
