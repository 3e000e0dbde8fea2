"""Suite `reconstruction`: is the archive still there? Every elite's measures are asked for once, and evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from ldpol.archive import Archive
from ldpol.evaluation.context import Context, Result, rows_of, sample_blind, sample_measures
from ldpol.evaluation.metrics import compare, expected_cells, jittered, occupied, slope, summarise
from ldpol.evaluation.tables import Column, Row, Table, is_number, numbers
from ldpol.generator import PolicyGenerator
from ldpol.reference import HELD_OUT, IN_BOX, TRAINED
from ldpol.settings import check
from ldpol.tasks import Task
from ldpol.types import Array, Behaviour, Score

RATIOS = ("reward_ratio", "coverage_ratio", "qd_ratio", "mem", "js_divergence", "success_rate", "best_reward")
COLUMNS = (
    (Column("Reward", "of reference", "percent"), "reward_ratio"),
    (Column("Coverage", "of reference", "percent"), "coverage_ratio"),
    (Column("Expected", "cells, one episode each", "percent"), "expected_coverage"),
    (Column("QD score", "of reference", "percent"), "qd_ratio"),
    (Column("Target error", "MEM, L2 distance", ".4f"), "mem"),
    (Column("Success", "of targets", "percent"), "success_rate"),
    (Column("Aim", "of the elites' own", "percent"), "aim"),
    (Column("Slope", "1 = no shrinkage", ".2f"), "slope"),
    (Column("JS div.", "0 = same", ".4f"), "js_divergence"),
    (Column("Policies", "number", "count"), "policies"),
)


@dataclass(frozen=True)
class Reconstruction:
    """Everything that the protocol asks for: the archive, its ceiling, one sample per elite, and other targets.

    Attributes:
      unseen: targets that training never saw, though elites reach them.
      uniform: targets anywhere in the measure space.
    """

    name: ClassVar[str] = "reconstruction"
    unseen: int = 512
    uniform: int = 512

    def __post_init__(self) -> None:
        """Check the settings."""
        check(self, least={"unseen": 1, "uniform": 1})

    def check_task(self, task: Task) -> None:
        """Every task will do."""

    def run(self, context: Context) -> Result:
        """Measure."""
        archive, reference, task = context.archive, context.reference, context.task
        keys = jax.random.split(context.key_for("reconstruction"), 5)
        ceiling = context.evaluate(self, "ceiling", "the archive a second time", archive.policies, keys[0])

        def sample(name: str, title: str, targets: Array | np.ndarray, key: Array) -> Behaviour:
            return context.sample(self, name, title, sample_measures, targets, key)

        generated = sample("generated", "one sample per condition", reference.measures, keys[1])
        # What a user asks for is never exactly a label: here, what the second time measured, which training never saw.
        chosen = rows_of(ceiling.score, context.choose(self.unseen, "reconstruction/unseen"))
        unseen = sample("unseen", "measures training never saw", chosen.measures, keys[2]).score
        places = np.asarray(jax.random.uniform(keys[3], (self.uniform, task.measures)))
        targets = archive.grid.unscaled(places).astype(np.float32)
        uniform = sample("uniform", "uniform conditions", targets, keys[4]).score
        scores = {"reference": reference, "ceiling": ceiling.score, "generated": generated.score}
        metrics = reconstruction_metrics(context, scores, uniform, targets)
        elites = expected_cells(archive.grid, ceiling.episodes.measures)
        metrics["expected_coverage"] = expected_cells(archive.grid, generated.episodes.measures) / elites
        metrics["ceiling"]["expected_coverage"] = 1.0
        if context.generator.bank is not None:
            key = context.key_for("reconstruction/blind")
            title = "one sample per condition, by diffusion alone"
            blind = context.sample(self, "blind", title, sample_blind, reference.measures, key)
            held_out = context.split.kind == HELD_OUT
            metrics["blind"] = compare(archive.grid, reference, blind.score, task.fitness_offset)
            metrics["blind"] |= _aim(reference, blind.score, metrics["blind"], metrics["ceiling"])
            metrics["blind"]["expected_coverage"] = expected_cells(archive.grid, blind.episodes.measures) / elites
            if held_out.any():
                part = rows_of(reference, held_out), rows_of(blind.score, held_out)
                metrics["blind"]["held_out"] = compare(archive.grid, *part, task.fitness_offset)
        metrics["unseen"] = compare(archive.grid, chosen, unseen, task.fitness_offset)
        metrics["episodes"] = context.player.episodes
        return Result(metrics, _arrays(context, scores, uniform, targets))

    @staticmethod
    def tables(metrics: Mapping[str, Any]) -> list[Table]:
        """Return every way of asking, and the ceiling."""
        if "reward_ratio" not in metrics:
            return []
        uniform = dict(metrics.get("uniform") or {})
        uniform["coverage_ratio"] = metrics.get("uniform_coverage_ratio", uniform.get("coverage_ratio"))
        noise = metrics.get("noise_alone")
        held_out = {"mem": metrics.get("held_out_mem"), **(metrics.get("held_out") or {})}
        ceiling = {
            "mem": metrics.get("mem_ceiling"),
            "policies": metrics.get("policies"),
            **(metrics.get("ceiling") or {}),
        }
        rows = (
            ("Generated", "one sample per condition", True, metrics),
            ("by diffusion alone", "without verified draws", False, metrics.get("blind")),
            ("on trained elites", "", False, metrics.get("trained")),
            ("on held-out elites", "never trained on", False, held_out),
            ("in the held-out region", "never trained on", False, metrics.get("held_out_box")),
            ("on unseen measures", "another evaluation's, not the labels trained on", False, metrics.get("unseen")),
            ("on uniform targets", "anywhere in the space", False, uniform),
            ("Noise alone", "the archive's measures, moved by as much as generated ones miss", False, noise),
            ("Ceiling", "original archive re-evaluated a second time", True, ceiling),
        )
        names = [name for _, name in COLUMNS]
        shown = tuple(
            Row(name, numbers(values, names), note, main)
            for name, note, main, values in rows
            if main or any(map(is_number, (values or {}).values()))
        )
        return [Table("Results", tuple(column for column, _ in COLUMNS), shown)]


def _arrays(
    context: Context, scores: Mapping[str, Score], uniform: Score, uniform_targets: np.ndarray
) -> dict[str, np.ndarray]:
    grid, (low, high) = context.archive.grid, context.split.region
    arrays = {
        "grid_shape": np.asarray(grid.regular.shape),
        "low": np.asarray(grid.low),
        "high": np.asarray(grid.high),
        "measure_names": np.asarray(context.task.measure_names),
        "held_out": context.split.kind > 0,
        "uniform_targets": uniform_targets,
        "uniform_fitness": np.asarray(uniform.fitness),
        "uniform_measures": np.asarray(uniform.measures),
    }
    if low:
        arrays |= {"box_low": np.asarray(low), "box_high": np.asarray(high)}
    for name, score in scores.items():
        arrays |= {f"{name}_fitness": np.asarray(score.fitness), f"{name}_measures": np.asarray(score.measures)}
    return arrays


def reconstruction_metrics(
    context: Context, scores: Mapping[str, Score], uniform: Score, uniform_targets: np.ndarray
) -> dict[str, Any]:
    """Compare everything with the reference.

    Args:
      context: gives the archive, what training held out, and the generator's size.
      scores: `[N]` of `reference`, `ceiling` and `generated`.
      uniform: `[U]` of policies for `uniform_targets`.
      uniform_targets: `[U, M]`.
    """
    archive, generator, kind, offset = (
        context.archive,
        context.generator,
        context.split.kind,
        context.task.fitness_offset,
    )
    grid, reference = archive.grid, scores["reference"]
    whole = compare(grid, reference, scores["generated"], offset)
    ceiling = compare(grid, reference, scores["ceiling"], offset)
    subsets = {"trained": kind == TRAINED, "held_out": kind == HELD_OUT, "held_out_box": kind == IN_BOX}
    parts: dict[str, Any] = {}
    for name, rows in subsets.items():
        if rows.any():
            part = {which: jax.tree.map(lambda leaf: leaf[rows], score) for which, score in scores.items()}  # noqa: B023
            parts[name] = compare(grid, part["reference"], part["generated"], offset)
            parts[name]["ceiling"] = compare(grid, part["reference"], part["ceiling"], offset)
        else:
            parts[name] = {}
    filled = {name: occupied(grid, score.measures) for name, score in [*scores.items(), ("uniform", uniform)]}
    original = summarise(grid, reference, offset)
    free = summarise(grid, uniform, offset)
    size = generator.nbytes
    aim = np.linalg.norm(uniform.measures - uniform_targets, axis=-1)
    return {
        **{name: whole[name] for name in RATIOS},
        **_aim(reference, scores["generated"], whole, ceiling),
        "noise_alone": compare(grid, reference, jittered(grid, reference, whole["mem"], seed=0), offset),
        "mem_ceiling": ceiling["mem"],
        "compression_params": len(archive) * archive.network.size / generator.size,
        "compression_bytes": archive.nbytes / size,
        "archive_bytes": archive.nbytes,
        "generator_bytes": size,
        **_without_denoiser(archive, generator),
        "policies": len(archive),
        "policy_params": archive.network.size,
        "generator_params": generator.size,
        "uniform_coverage_ratio": free["cells"] / original["cells"],
        "held_out_mem": parts["held_out"].get("mem"),
        "ceiling": {
            **{name: ceiling[name] for name in RATIOS},
            **_aim(reference, scores["ceiling"], ceiling, ceiling),
        },
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


def _aim(reference: Score, score: Score, found: Mapping[str, Any], ceiling: Mapping[str, Any]) -> dict[str, float]:
    """Return success over the elites' own, and the slope of achieved on target."""
    own = ceiling["success_rate"]
    return {
        "aim": found["success_rate"] / own if own else float("nan"),
        "slope": slope(np.asarray(reference.measures), np.asarray(score.measures)),
    }


def _without_denoiser(archive: Archive, generator: PolicyGenerator) -> dict[str, float]:
    """Return the size of what gives the same answers by verified draws alone, if there are any."""
    if generator.bank is None:
        return {}
    size = generator.without_denoiser().nbytes
    return {"bytes_without_denoiser": size, "compression_without_denoiser": archive.nbytes / size}
