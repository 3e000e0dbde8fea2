"""What a stage left in a workdir, as numbers that can be compared: all of it but times and versions."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from ldpol import storage

NOT_COMPARED = ("seconds", "suite_seconds", "commit", "versions", "machine")


def contents(workdir: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    """Everything that a stage left, by file; without times."""
    files = [path for part in parts for path in [workdir / part, *(workdir / part).rglob("*")] if path.is_file()]
    found = {}
    for path in files:
        if path.parent.name != "tensorboard":
            found[str(path.relative_to(workdir))] = untimed(read(path))
    return found


def read(path: Path) -> Any:
    if path.suffix == ".json":
        return storage.read_json(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    with contextlib.suppress(ValueError):
        return storage.unpack(path.read_bytes(), str(path))
    return path.read_bytes()


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name not in NOT_COMPARED}
    return [untimed(part) for part in value] if isinstance(value, list | tuple) else value


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other or (one != one and other != other)
