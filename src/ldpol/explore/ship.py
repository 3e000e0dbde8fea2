"""`python -m ldpol.explore.ship RUN NAME`: make a model of the package from a finished run."""

import argparse
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ldpol import archive as archives
from ldpol import models, precision, session, storage
from ldpol.errors import UserError
from ldpol.explore import answers
from ldpol.explore.explorer import start_jax
from ldpol.explore.export import answer_with_numbers, spread_out
from ldpol.explore.requests import DRAWS, Request, Wish
from ldpol.explore.source import Source, open_model, read_arrays
from ldpol.explore.stage import ELITES as KIND
from ldpol.explore.stage import Stage

ELITES = 96
"""Elites whose policies come with the model, to be played beside what it makes: 5.7 kB each."""
FILMS = 12
PROVENANCE = ("config", "seed", "commit", "versions", "machine")
PARTS = ("ceiling", "trained", "held_out", "held_out_box", "unseen")
"""Of the metrics, what is kept beside plain numbers."""
KEPT = ("held_out", "grid_shape", "low", "high", "measure_names", "box_low", "box_high")
SCORES = ("stored", "reference", "generated")


def ship(run: Path, folder: Path) -> None:
    """Write the folder of a model that comes with the package.

    Args:
      run: folder of a run whose stages archive, train and evaluate are finished.
      folder: where to; what was there is replaced.

    Raises:
      FileNotFoundError: if a stage is missing.
      ValueError: if files are damaged or do not belong together.
    """
    metrics = storage.read_json(run / "eval" / "metrics.json")
    arrays = read_arrays(run / "eval" / "arrays.npz")
    elites = archives.load(run / "archive" / "elites")
    if len(elites) != len(arrays["reference_fitness"]):
        raise UserError(f"{run}/eval is of another archive; run the evaluate stage again")
    if folder.exists():
        shutil.rmtree(folder)
    storage.write_bytes(folder / "model", (run / "model").read_bytes())
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **_shortened(arrays))
    storage.write_bytes(folder / "arrays.npz", buffer.getvalue())
    places = elites.grid.scaled(np.asarray(arrays["reference_measures"]))
    rows = np.sort(spread_out(places, ELITES, int(np.argmax(arrays["reference_fitness"]))))
    rounded = jax.jit(jax.vmap(lambda policy: precision.compress(policy, "int8")))(archives.take(elites, rows).policies)
    storage.save(folder / "elites", {"policies": rounded, "rows": rows}, kind=KIND)

    stage = _stage(folder)
    apart = _rounding(stage)
    _write_page(stage, folder)
    about = {
        "task": stage.task.name,
        "bytes": _sizes(folder),
        "elites_rounding_cells": apart,
        "metrics": {name: value for name, value in metrics.items() if name in PARTS or isinstance(value, int | float)},
    }
    about |= {name: metrics[name] for name in PROVENANCE}
    storage.write_json(folder / "about.json", about)


def renew_page(folder: Path) -> None:
    """Make what the page shows first of a model of the package anew, after a change of the explorer.

    Raises:
      FileNotFoundError: if there is no such model.
    """
    about = storage.read_json(folder / "about.json")
    _write_page(_stage(folder), folder)
    storage.write_json(folder / "about.json", about | {"bytes": _sizes(folder)})


def _write_page(stage: Stage, folder: Path) -> None:
    facts = answers.facts(stage) | {"examples": answers.examples(stage)}
    facts.pop("map")
    content = json.dumps({"facts": facts, "films": _films(stage)}, separators=(",", ":"), allow_nan=False)
    storage.write_bytes(folder / "page.json", content.encode())


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "about.json"}


def _stage(folder: Path) -> Stage:
    source = open_model(folder.name) if folder.parent == models.HERE else _source(folder)
    return Stage(source, lambda text: session.say(f"ship: {text}"))


def _source(folder: Path) -> Source:
    return Source(folder.name, folder / "model", elites=folder / "elites", arrays=read_arrays(folder / "arrays.npz"))


def _shortened(arrays: Any) -> dict[str, Any]:
    """What the page needs, numbers in 16 bits."""
    found = {name: arrays[name] for name in KEPT if name in arrays}
    for name in SCORES:
        for what in ("fitness", "measures"):
            found[f"{name}_{what}"] = np.asarray(arrays[f"{name}_{what}"], np.float16)
    return found


def _rounding(stage: Stage) -> float:
    """How far, in cells, the rounded elites land on average from where the unrounded ones do."""
    found = []
    with session.progress("ship: playing rounded elites", len(stage.rows), unit="policy") as done:
        for place, measures in enumerate(stage.measures):
            score, _ = stage.judge(jax.tree.map(lambda leaf: leaf[place], stage.elites))  # noqa: B023
            found.append(np.linalg.norm((score.measures.mean(0) - measures) / stage.cell))
            done(1)
    return round(float(np.mean(found)), 3)


def _films(stage: Stage) -> list[dict[str, Any]]:
    """Answers to begin with: fit elites far from one another; what is shown first walks best, with all its samples."""
    fitness = np.asarray(stage.known("fitness"))[stage.rows]
    fit = np.flatnonzero(fitness >= np.median(fitness))
    fit = fit[np.argsort(-fitness[fit])]
    chosen = fit[spread_out(stage.measures[fit] / stage.cell, 2 * FILMS)]
    wishes = [Wish(tuple(np.round(stage.measures[place], 4).tolist())) for place in chosen]
    films = [answer_with_numbers(stage, Request(wish), keep=DRAWS) for wish in wishes]
    films.sort(key=lambda answer: (_falls(answer), -answer["films"][0]["numbers"]["fitness"][0]))
    films = films[:FILMS]
    return films[:1] + [answer | {"films": [answer["films"][0], *answer["films"][DRAWS:]]} for answer in films[1:]]


def _falls(answer: dict[str, Any]) -> int:
    return sum(one["numbers"]["fell"] for one in answer["films"])


def main(arguments: list[str] | None = None) -> int:
    """Make a model of the package; errors a user can mend are one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m ldpol.explore.ship", description="Put a run's model into ldpol.")
    parser.add_argument(
        "run",
        type=Path,
        nargs="?",
        metavar="RUN",
        help="folder of a run that was evaluated; without, only its page is made",
    )
    parser.add_argument("name", metavar="NAME", help="what the model will be called")
    options = parser.parse_args(arguments)
    if not options.name.isidentifier():
        parser.error(f"a model's name is letters, digits and underscores, found {options.name!r}")
    try:
        start_jax()
        folder = models.HERE / options.name
        renew_page(folder) if options.run is None else ship(options.run, folder)
    except (UserError, OSError) as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
