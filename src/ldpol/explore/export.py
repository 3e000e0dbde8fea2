"""The page without a server: what can be asked for is played beforehand and written beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldpol import session, storage
from ldpol.errors import UserError
from ldpol.explore import answers
from ldpol.explore.app import assets
from ldpol.explore.explorer import early_facts, start_jax
from ldpol.explore.requests import DRAWS, Request, Wish
from ldpol.explore.source import Source
from ldpol.explore.stage import Stage


def export(source: Source, folder: Path, cells: int) -> None:
    """Write the page with answers for some cells of the map and for the example sentences.

    Args:
      source: what is explored.
      folder: where to; it must be new, empty, or an earlier export.
      cells: how many requests for measures are played.

    Raises:
      ValueError: if there is something else in the folder, or no elite whose measures could be asked for.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / "data.js").is_file())):
        raise UserError(f"--export {folder} exists and is not an earlier export; name a new folder")
    start_jax()
    stage = Stage(source, lambda text: session.say(f"explore: {text}"))
    write(stage, folder, cells)


def write(stage: Stage, folder: Path, cells: int) -> None:
    """Write the page of a stage; see `export`."""
    measures = np.asarray(stage.known("measures"), np.float64)
    if not len(measures):
        raise UserError("there is nothing to export: no elite of this model is known; name a run that was evaluated")
    rows = spread_out(measures / stage.cell, min(cells, len(measures)))
    texts = answers.examples(stage)
    free = (None,) * measures.shape[1]
    wishes = [Wish(tuple(np.round(row, 4).tolist())) for row in measures[rows]]
    wishes += [Wish(free, text=text) for text in texts]
    for old in folder.glob("cells/*.js"):
        old.unlink()
    with session.progress("explore: playing", len(wishes), unit="policy") as done:
        for index, wish in enumerate(wishes):
            played = answer_with_numbers(stage, Request(wish), keep=DRAWS if wish.text else 1)
            _write_script(folder / "cells" / f"{index}.js", f"Api.cells[{index}]", played)
            done(1)
    facts = early_facts(stage.source) | answers.facts(stage) | {"examples": texts}
    facts["films"] = list(facts["films"])[:1] or [answer_with_numbers(stage, Request(wishes[0]), keep=DRAWS)]
    asked = [{"measures": list(wish.measures), "text": wish.text} for wish in wishes]
    for name, content in assets().items():
        storage.write_bytes(folder / name, content)
    _write_script(folder / "data.js", "const EXPORTED", {"facts": facts, "asked": asked})


def answer_with_numbers(stage: Stage, request: Request, keep: int) -> dict[str, Any]:
    """Answer a request with the first `keep` samples and the elites, each with the numbers of its ten episodes."""
    answer, policies = answers.draw(stage, request)
    kept = [(i, one) for i, one in enumerate(answer["films"]) if i < keep or one["role"] == "elite"]
    films = [
        one | {"numbers": answers.numbers(stage, answer, policies, i) | {"which": k}} for k, (i, one) in enumerate(kept)
    ]
    return answer | {"films": films}


def spread_out(places: NDArray[Any], count: int, first: int = 0) -> NDArray[Any]:
    """Return `count` rows of places `[N, M]` that lie far from one another, each the farthest from those before it."""
    chosen = [first]
    distance = np.linalg.norm(places - places[first], axis=1)
    while len(chosen) < min(count, len(places)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return np.asarray(chosen)


def _write_script(path: Path, name: str, value: Any) -> None:
    content = json.dumps(value, separators=(",", ":"), allow_nan=False)
    storage.write_bytes(path, f'"use strict";\n{name} = {content};\n'.encode())
