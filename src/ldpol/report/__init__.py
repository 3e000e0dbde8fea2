"""From the files of a run to its figures and one self-contained HTML page: `write_page(workdir)`."""

import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ldpol import storage
from ldpol.errors import UserError
from ldpol.evaluation.suites import Reconstruction
from ldpol.report import canvas, figures, suite_figures, suites
from ldpol.report.page import render_page
from ldpol.report.tables import as_html

__all__ = ["Run", "figures_of", "load_run", "render", "save", "suite_figures_of", "write_page"]

ARRAYS = (
    *("grid_shape", "low", "high", "measure_names", "stored_fitness", "stored_measures", "held_out"),
    *("reference_fitness", "reference_measures", "ceiling_fitness", "ceiling_measures"),
    *("generated_fitness", "generated_measures", "uniform_measures"),
)


@dataclass(frozen=True)
class Run:
    """What the stages of a run left in its work directory: metrics, histories and the arrays of the evaluation."""

    workdir: Path
    archive: Mapping[str, Any]
    archive_history: list[dict[str, Any]]
    train: Mapping[str, Any]
    train_history: list[dict[str, Any]]
    evaluation: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    traces: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Of one sequence of behaviours, where that suite was run."""


def load_run(workdir: str | os.PathLike[str]) -> Run:
    """Read the files of the archive, train and evaluate stages.

    Raises:
      FileNotFoundError: a stage has not finished; the message names it and the command to run.
      ValueError: a file is damaged or lacks something; the message names it.
    """
    folder = Path(workdir)
    # An archive from elsewhere, of QDax or pyribs, has no search of ours behind it.
    elsewhere = (folder / "eval").exists() and not list((folder / "archive").glob("*.json"))
    if not elsewhere:
        _check(folder, "archive", "archive/history.json", "archive/metrics.json")
    _check(folder, "train", "train/history.json", "train/metrics.json")
    _check(folder, "evaluate", "eval/metrics.json", "eval/arrays.npz")
    evaluation = _json(folder / "eval/metrics.json", dict)
    if evaluation.get("sequencing"):
        _check(folder, "evaluate", "eval/sequencing.npz")
    return Run(
        workdir=folder,
        archive={} if elsewhere else _json(folder / "archive/metrics.json", dict),
        archive_history=[] if elsewhere else _json(folder / "archive/history.json", list),
        train=_json(folder / "train/metrics.json", dict),
        train_history=_json(folder / "train/history.json", list),
        evaluation=evaluation,
        arrays=_arrays(folder / "eval/arrays.npz"),
        traces=_npz(folder / "eval/sequencing.npz") if evaluation.get("sequencing") else {},
    )


def figures_of(run: Run) -> dict[str, Figure]:
    """The figures of a run by name, in reading order; a curve whose history is empty is left out."""
    data, metrics = run.arrays, run.evaluation
    names = tuple(str(name).replace("_", " ") for name in data["measure_names"])
    shape = tuple(int(side) for side in data["grid_shape"])
    grid = figures.Grid(shape, data["low"].astype(float), data["high"].astype(float), names)

    def elites(label: str, name: str, summary: Any) -> figures.Elites:
        return figures.Elites(label, data[f"{name}_fitness"], data[f"{name}_measures"], (summary or {}).get("qd_score"))

    stored = elites("Archive as stored", "stored", run.archive)
    reference = elites("Evaluated again (reference)", "reference", metrics.get("reference"))
    ceiling = elites("Original, evaluated a second time", "ceiling", metrics.get("ceiling"))
    generated = elites("Generated", "generated", metrics.get("generated"))
    held_out = data["held_out"].astype(bool)
    box = (data["box_low"], data["box_high"]) if {"box_low", "box_high"} <= set(data) else None
    made = {
        "heat_maps": figures.heat_maps(
            grid, (stored, reference, generated), held_out=reference.measures[held_out], box=box
        ),
        "target_and_achieved": figures.target_and_achieved(
            grid, reference.measures, generated.measures, ceiling.measures, held_out
        ),
        "fitness_ccdf": figures.fitness_ccdf(
            grid, {"reference": reference, "ceiling": ceiling, "generated": generated}
        ),
        "uniform_map": figures.uniform_map(grid, reference.measures, data["uniform_measures"]),
    }
    if run.archive_history:
        made["search_curves"] = figures.search_curves(run.archive_history)
    if run.train_history:
        made["training_curves"] = figures.training_curves(run.train_history)
    return made


def suite_figures_of(run: Run) -> dict[str, Figure]:
    """The figures of the suites beyond reconstruction, by name; none for a suite that was not run."""
    made, metrics = {}, run.evaluation
    if metrics.get("guidance"):
        made["guidance"] = suite_figures.guidance_curves(metrics["guidance"])
    if metrics.get("sequencing"):
        made["sequences"] = suite_figures.sequence_bars(metrics["sequencing"])
        names = [str(name).replace("_", " ") for name in run.arrays["measure_names"]]
        measures, alive = (
            {way: run.traces[f"{way}_{part}"] for way in suite_figures.WAYS if f"{way}_{part}" in run.traces}
            for part in ("measures", "alive")
        )
        settle = int(metrics["sequencing"].get("settle", 0))
        made["sequence_traces"] = suite_figures.sequence_traces(names, run.traces["targets"], measures, alive, settle)
    if metrics.get("damage"):
        made["recovery"] = suite_figures.recovery_curves(metrics["damage"])
    return made


def write_page(workdir: str | os.PathLike[str]) -> Path:
    """Write `report.html` and `eval/figures/*.png` of a finished run; returns the path of the page.

    Raises:
      FileNotFoundError: a stage has not finished; the message names it and the command to run.
      ValueError: a file is damaged or lacks something; the message names it.
    """
    run = load_run(workdir)
    images, more = (
        {name: (figure.get_suptitle(), render(figure)) for name, figure in made.items()}
        for made in (figures_of(run), suite_figures_of(run))
    )
    for name, (_, png) in (images | more).items():
        storage.write_bytes(run.workdir / "eval/figures" / f"{name}.png", png)
    results = "".join(map(as_html, Reconstruction.tables(run.evaluation)))
    sections = suites.sections(run.evaluation, more)
    page = render_page(run.evaluation, run.archive, run.train, images, sections, results)
    storage.write_bytes(run.workdir / "report.html", page.encode())
    return run.workdir / "report.html"


def render(figure: Figure, dpi: int = canvas.DPI) -> bytes:
    """The figure as PNG, the same bytes for the same data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike[str], dpi: int = canvas.DPI) -> Path:
    """Write the figure as PNG; a reader sees the old file or the whole new one, never a part."""
    storage.write_bytes(Path(path), render(figure, dpi))
    return Path(path)


def _check(folder: Path, stage: str, *names: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The report needs {' and '.join(missing)} in {folder}, which the {stage} stage writes when it ends. Run: "
            f"python -m ldpol.experiments {stage} --config experiments/TASK.py:VARIANT --workdir {folder}"
        )


def _json(path: Path, kind: type) -> Any:
    value = storage.read_json(path)
    if not isinstance(value, kind):
        raise UserError(f"{path} holds a {type(value).__name__}, expected a {kind.__name__}; run its stage again.")
    return value


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run the evaluate stage again.") from error


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    arrays = _npz(path)
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}. Evaluate again.")
    rows = {
        name: len(arrays[name]) for name in ARRAYS if name.startswith(("reference", "ceiling", "generated", "held"))
    }
    if len(set(rows.values())) > 1:
        raise UserError(f"{path}: these arrays must have one row for each policy, found {rows}. Evaluate again.")
    return arrays
