"""Archives that QDax, pyribs and others wrote: their files hold numbers alone, the command line says what of."""

import csv
import dataclasses
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldpol.errors import UserError

if TYPE_CHECKING:
    from ldpol.archive import Archive
    from ldpol.networks import MLP
    from ldpol.tasks import Task

CELLS = 50
"""Of a map, a measure, where the file has no centroids of its own."""
COLUMNS = {"solution": r"solution_(\d+)", "objective": "objective()", "measures": r"(?:measures?|behavior)_(\d+)"}
"""Of a data frame that pyribs wrote to a csv file, by what they hold."""
ORDERED = "genotypes.npy"
"""Ending of the first of the four files that QDax <= 0.4.1 wrote; their order is known."""


@dataclasses.dataclass(frozen=True)
class Stated:
    """What the command line says of an archive.

    Attributes:
      task: name of the task to play it on; None: what the archive says.
      settings: what else `make_task` shall be told, such as the backend.
      network: widths of the hidden layers, then the activation and the final one: `64,64,relu,tanh`.
      order: how solutions are laid out, see `ldpol.from_ribs`.
      cells: of the map, a measure.
    """

    task: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    network: str | None = None
    order: str | None = None
    cells: int | None = None


NOTHING = Stated()


def is_elsewhere(path: Path) -> bool:
    """Tell files of other libraries from ldpol's own: npz, csv, pickles, or the four npy files of an older QDax."""
    if not path.is_file():
        return _prefix(path) is not None
    with path.open("rb") as stream:
        start = stream.read(4)
    return start[:2] == b"PK" or start[:1] == b"\x80" or start == b"\x93NUM" or path.suffix == ".csv"


def check(path: Path, stated: Stated) -> None:
    """Raise `UserError` unless all is stated that such a file does not say."""
    wanted = {
        "--task": (stated.task, "walker2d or another robot that they control"),
        "--network": (stated.network, "hidden widths, activation, final activation: 64,64,relu,tanh"),
        "--order": (stated.order or _prefix(path), "how a policy's numbers are laid out: flax, torch or kernel_bias"),
    }
    missing = [f"{flag} ({what})" for flag, (value, what) in wanted.items() if value is None]
    if missing:
        raise UserError(f"{path} holds numbers and does not say what they belong to; add {', '.join(missing)}")
    if stated.network is not None:
        _parts(stated.network)


def load(path: Path, stated: Stated) -> "Archive":
    """Read an archive of another library, or one of ldpol's own to be played on another task.

    Raises:
      UserError: if the file is damaged, a pickle, or does not fit what is stated.
    """
    from ldpol import archive as archives
    from ldpol import tasks

    if not is_elsewhere(path):
        own = archives.load(path)
        if stated.task is None:
            return own
        task = tasks.make_task(stated.task, **dict(stated.settings))
        own = dataclasses.replace(own, task=task.name, settings=task.settings)
        archives.check_task(own, task)
        return own
    assert stated.task is not None and stated.network is not None
    task = tasks.make_task(stated.task, **dict(stated.settings))
    network = _network(stated.network, task)
    how: dict[str, Any] = {"order": stated.order, "outside": "clip"}
    if path.suffix == ".csv":
        return archives.from_ribs(read_csv(path), network, task, cells=stated.cells or CELLS, **how)
    if stated.cells is not None or not _has_centroids(path):
        how["cells"] = stated.cells or CELLS
    return archives.from_npz(_prefix(path) or path, network, task, **how)


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """Read what `archive.data(return_type="pandas").to_csv(...)` of pyribs wrote.

    Raises:
      UserError: if columns are missing or hold other things than numbers.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        names = next(csv.reader(stream), [])
        places = {part: _numbered(names, pattern) for part, pattern in COLUMNS.items()}
        missing = [part for part, found in places.items() if not found]
        if missing:
            raise UserError(
                f"{path} has no columns for the {missing[0]}; expected solution_0, ..., objective, measures_0, ..., "
                f"found {', '.join(names[:6]) or 'nothing'}"
            )
        try:
            read = np.loadtxt(stream, delimiter=",", usecols=sum(places.values(), []), ndmin=2, dtype=np.float32)
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from error
    ends = np.cumsum([len(found) for found in places.values()])
    solution, objective, measures = np.split(read, ends[:-1], axis=1)
    return {"solution": solution, "objective": objective[:, 0], "measures": measures}


def _numbered(names: list[str], pattern: str) -> list[int]:
    """Where columns of this name are, by their number."""
    found = [(int(match[1] or 0), i) for i, name in enumerate(names) if (match := re.fullmatch(pattern, name))]
    return [place for _, place in sorted(found)]


def opening(path: Path, stated: Stated) -> str:
    """Return the Python that opens it, as `elites`, with `task`, `rollout` and `jax` at hand."""
    how = "".join(f", {name}={value!r}" for name, value in stated.settings)
    task = f"task = ldpol.make_task({stated.task!r}{how})"
    imports = ["import jax", "", "import ldpol", "from ldpol import rollout"]
    if not is_elsewhere(path):
        own = f"elites = ldpol.archive.load({str(path)!r})"
        if stated.task:
            return "\n".join([*imports, "", own, task])
        return "\n".join([*imports, "from ldpol.sample import make_task", "", own, "task = make_task(elites)"])
    widths, activation, final = _parts(stated.network or "")
    arguments = ["network", "task", f"order={stated.order!r}"] if stated.order else ["network", "task"]
    if stated.cells or not _has_centroids(path):
        arguments.append(f"cells={stated.cells or CELLS}")
    if path.suffix == ".csv":
        imports[1:1] = ["import pandas"]
        read = f"ldpol.from_ribs(pandas.read_csv({str(path)!r})"
    else:
        read = f"ldpol.from_npz({str(_prefix(path) or path)!r}"
    network = f"network = ldpol.MLP(task.observation_size, task.action_size, {widths}, {activation!r}, {final!r})"
    elites = f"elites = {', '.join([read, *arguments])}, outside='clip')"
    return "\n".join([*imports, "", task, network, elites])


def _prefix(path: Path) -> str | None:
    """What stands before `genotypes.npy` in the names of the four files of an older QDax, if they are there."""
    for prefix in (f"{path}/", str(path), str(path).removesuffix(ORDERED)):
        if Path(f"{prefix}{ORDERED}").is_file():
            return prefix
    return None


def _has_centroids(path: Path) -> bool:
    if _prefix(path):
        return True
    try:
        with zipfile.ZipFile(path) as content:
            return "centroids.npy" in content.namelist()
    except (OSError, zipfile.BadZipFile):
        return False  # reading it will say what is wrong


def _parts(network: str) -> tuple[tuple[int, ...], str, str]:
    """`64,64,relu,tanh` as widths and names."""
    parts = [part.strip() for part in network.split(",")]
    widths = [part for part in parts if part.isdecimal()]
    names = parts[len(widths) :]
    if not widths or len(names) != 2 or parts[: len(widths)] != widths:
        raise UserError(
            f"--network takes hidden widths, an activation and a final one, such as 64,64,relu,tanh; found {network!r}"
        )
    return tuple(map(int, widths)), names[0], names[1]


def _network(network: str, task: "Task") -> "MLP":
    from ldpol.networks import MLP

    return MLP(task.observation_size, task.action_size, *_parts(network))
