"""Stage `evaluate`: score the generator against the re-evaluated archive and write `eval/`."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldpol import archive as archives
from ldpol import generator as generators
from ldpol import storage
from ldpol.archive import Archive
from ldpol.evaluation.metrics import compare, summarise
from ldpol.evaluation.reconstruction import score_generated
from ldpol.experiments import passes, session, settings
from ldpol.experiments.settings import Config
from ldpol.experiments.train import held_out
from ldpol.generator import PolicyGenerator
from ldpol.rollout import copied_to, policy_mesh
from ldpol.types import Array, Key, Score

SECTIONS = ("seed", "task", "policy", "eval")
RATIOS = ("reward_ratio", "coverage_ratio", "qd_ratio", "mem", "js_divergence", "success_rate", "best_reward")


def run(config: Config, workdir: Path) -> None:
    """Score everything the protocol asks for, skipping passes an earlier run finished.

    Raises:
      FileNotFoundError: if archive or generator are missing.
      ConfigError: if they do not belong together, a number of policies or episodes is not positive, or the folder
        holds scores of other settings.
    """
    if min(config.eval.values()) < 1:
        raise settings.ConfigError(f"eval.{', eval.'.join(config.eval)} must be at least 1, found {dict(config.eval)}")
    folder = workdir / "eval"
    archive = archives.load(workdir / "archive" / "elites")
    generator = generators.load(workdir / "model")
    task, shape, grid = session.make_setting(config)
    archives.check_task(archive, task)
    if (generator.task, generator.shape, generator.grid) != (archive.task, archive.shape, archive.grid):
        raise settings.ConfigError(
            f"the generator in {workdir / 'model'} (of {generator.task}, policies {generator.shape}) does not belong "
            f"to the archive (of {archive.task}, policies {archive.shape}); run the train stage again"
        )
    about = {
        "config": settings.as_json(config, *SECTIONS),
        "archive": storage.fingerprint(workdir / "archive" / "elites"),
        "model": storage.fingerprint(workdir / "model"),
    }
    trained = storage.read_json(workdir / "train" / "metrics.json")
    if trained["archive"] != about["archive"]:
        raise settings.ConfigError(
            f"the generator in {workdir / 'model'} was trained on another archive than {workdir / 'archive'} "
            f"holds now; delete {workdir / 'train'} and run the train stage again"
        )
    passes.check(folder / "passes", config, SECTIONS)
    timer = session.Timer()
    reference = passes.reference(config, workdir, archive)

    def score(name: str, title: str, program: Callable[..., Score], inputs: Any, key: Key) -> Score:
        return passes.run(config, folder / "passes" / name, f"evaluate: {title}", program, inputs, key, about, timer)

    # The generator is an argument, not a constant of the program: the program then fits any generator.
    program = jax.jit(lambda model, wanted, keys: score_generated(model, task, wanted, keys, **passes.common(config)))
    everywhere = jax.device_put(generator, copied_to(policy_mesh()))
    generate = lambda wanted, keys: program(everywhere, wanted, keys)  # noqa: E731

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 2), 5)
    play = passes.player(config, task, shape)
    ceiling = score("ceiling", "the archive a second time", play, archive.policies, keys[0])
    generated = score("generated", "one sample a condition", generate, reference.measures, keys[1])
    # What a user asks for is never exactly a label: here, what the second time measured, which training never saw.
    some = np.sort(np.random.default_rng([config.seed, 1]).permutation(len(archive))[: config.eval.unseen])
    asked = jax.tree.map(lambda leaf: leaf[some], ceiling)
    unseen = score("unseen", "measures training never saw", generate, asked.measures, keys[2])
    low, high = np.asarray(grid.low), np.asarray(grid.high)
    uniform_targets = np.asarray(jax.random.uniform(keys[3], (config.eval.uniform, task.measures)))
    uniform_targets = (low + (high - low) * uniform_targets).astype(np.float32)
    uniform = score("uniform", "uniform conditions", generate, uniform_targets, keys[4])

    scores = {"reference": reference, "ceiling": ceiling, "generated": generated}
    # What training really held out, whatever the config says now.
    train = trained["config"]["train"]["held_out"]
    kind = held_out(archive, trained["seed"], train["fraction"], tuple(train["low"]), tuple(train["high"]))
    metrics = _metrics(archive, generator, scores, uniform, uniform_targets, kind, task.fitness_offset)
    metrics["unseen"] = compare(grid, asked, unseen, task.fitness_offset)
    metrics |= {"episodes": config.eval.episodes, "seconds": round(timer.seconds, 3)}
    _write_arrays(folder / "arrays.npz", archive, task.measure_names, scores, uniform, uniform_targets, kind, train)
    storage.write_json(folder / "metrics.json", metrics | session.provenance(config))
    _print_table(metrics)


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
    aim = np.linalg.norm(uniform.measures - uniform_targets, axis=-1)
    return {
        **{name: whole[name] for name in RATIOS},
        "mem_ceiling": ceiling["mem"],
        "compression_params": len(archive) * archive.shape.size / generator.size,
        "compression_bytes": archive.nbytes / generator.nbytes,
        "archive_bytes": archive.nbytes,
        "generator_bytes": generator.nbytes,
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
    train: dict[str, Any],
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
    if train["low"]:
        arrays |= {"box_low": np.asarray(train["low"]), "box_high": np.asarray(train["high"])}
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
