"""Trained models that come with the package, each in a folder of its name; `make model` makes them.

A folder holds `model`, the generator's file; `arrays.npz`, what the evaluation knows of the archive it was distilled
from; `elites`, some of that archive's policies; `page.json`, some films; and `about.json`, where all of it comes from.
"""

from importlib import resources
from pathlib import Path

from ldpol.errors import MissingFile

HERE = Path(str(resources.files(__name__)))


def list_models() -> tuple[str, ...]:
    """Return the names of the models that come with the package; `ldpol.load` takes them."""
    return tuple(sorted(path.parent.name for path in HERE.glob("*/model")))


def folder_of(name: str) -> Path:
    """Return the folder of a model that comes with the package.

    Raises:
      FileNotFoundError: if there is none of that name.
    """
    if name not in list_models():
        raise MissingFile(
            f"no model called {name!r} comes with ldpol, and no such file is here; the models are "
            f"{', '.join(list_models()) or 'none'}"
        )
    return HERE / name


def resolve(path: Path | str) -> Path:
    """Return the file of a model: what is at `path` or, if nothing is, what comes with the package under this name."""
    here = Path(path)
    return here if here.exists() or str(path) not in list_models() else HERE / str(path) / "model"
