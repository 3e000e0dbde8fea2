"""Pytrees of arrays on disk: orbax inside, a manifest with checksums around, replaced atomically.

A folder holds `arrays/` (orbax, no pickle) and `manifest.json`, which names the kind, the format, the package
versions, what the caller says of the content, and a SHA-256 of every file and of itself. A folder without a whole
manifest does not count as written.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ldpol.errors import UserError
from ldpol.types import PyTree

FORMAT = 1
MANIFEST = "manifest.json"
PACKAGES = ("ldpol", "jax", "flax", "optax", "brax", "qdax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of the packages a result depends on."""
    return {name: metadata.version(name) for name in PACKAGES}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage wrote.

    Raises:
      FileNotFoundError: if it is missing.
      ValueError: if it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; run the stage that writes it") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run its stage again") from error


def save(path: Path, tree: PyTree, *, kind: str, about: Mapping[str, Any] | None = None) -> None:
    """Write a pytree of arrays and a manifest into the folder `path`, replacing what was there.

    Args:
      path: the folder.
      tree: nested dicts (or any pytree, see `restore`) of arrays; typed keys are stored as their data.
      kind: what this is; `load` insists on it.
      about: JSON-able description, returned by `load`.

    Raises:
      OSError: if the disk is full or not writable; what was at `path` before is still there.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = _aside(path)
    shutil.rmtree(partial, ignore_errors=True)
    arrays = jax.tree.map(lambda leaf: np.asarray(_plain(leaf)), tree)
    header = {"format": FORMAT, "kind": kind, "versions": versions(), "about": dict(about or {})}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / "arrays", arrays)
        files = {str(file.relative_to(partial)): digest(file) for file in _files(partial)}
        header |= {"files": files}
        write_json(partial / MANIFEST, header | {"checksum": _checksum(header)})
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"could not write {path}: {error}; is the disk full or the folder read-only?") from error
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(partial, path)
    shutil.rmtree(old, ignore_errors=True)


def exists(path: Path) -> bool:
    """Tell whether something was completely written to `path`."""
    path = Path(path).absolute()
    _recover(path)
    return (path / MANIFEST).is_file()


def fingerprint(path: Path) -> str:
    """Return a digest of the arrays saved at `path`, to tell later whether they are still the same.

    Raises:
      FileNotFoundError: if nothing was completely written there.
    """
    if not exists(path):
        raise FileNotFoundError(f"nothing is saved at {path}; run the stage that writes it")
    arrays, about = load(path, kind=_read_manifest(Path(path))["kind"])
    content = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for place, leaf in jax.tree.leaves_with_path(arrays):
        content.update(jax.tree_util.keystr(place).encode() + np.asarray(leaf).tobytes())
    return content.hexdigest()


def load(path: Path, *, kind: str) -> tuple[Any, dict[str, Any]]:
    """Read what `save` wrote: nested dicts of NumPy arrays, and `about`.

    Raises:
      FileNotFoundError: if nothing was completely written there.
      ValueError: if it is of another kind or format, or a file is missing, truncated or altered.
    """
    path = Path(path).absolute()
    _recover(path)
    if not (path / MANIFEST).is_file():
        found = "an unfinished or foreign folder" if path.exists() else "nothing"
        raise FileNotFoundError(f"expected a saved {kind} at {path}, found {found}; run the stage that writes it")
    manifest = _read_manifest(path)
    if manifest["kind"] != kind:
        raise UserError(f"{path} holds a {manifest['kind']}, expected a {kind}")
    for name, stated in manifest["files"].items():
        file = path / name
        if not file.is_file() or digest(file) != stated:
            state = "altered or truncated" if file.is_file() else "missing"
            raise UserError(f"{path} is damaged: {name} is {state}; restore it from a copy or write it again")
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path / "arrays"), manifest["about"]


def save_state(path: Path, state: PyTree, *, kind: str, about: Mapping[str, Any] | None = None) -> None:
    """Write any pytree (not only nested dicts) as the list of its leaves; read it with `load_state`."""
    leaves = jax.tree.leaves(state)
    save(path, {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}, kind=kind, about=about)


def load_state(path: Path, like: PyTree, *, kind: str) -> tuple[Any, dict[str, Any]]:
    """Read a pytree written by `save_state`, with the structure, dtypes and key types of `like`.

    Raises:
      ValueError: if the leaves do not fit `like`: the checkpoint is of other settings.
    """
    stored, about = load(path, kind=kind)
    leaves, structure = jax.tree.flatten(like)
    found = [stored[name] for name in sorted(stored)]
    expected = [(np.shape(plain), np.asarray(plain).dtype) for plain in map(_plain, leaves)]
    if [(leaf.shape, leaf.dtype) for leaf in found] != expected:
        raise UserError(
            f"the checkpoint {path} does not fit these settings: it holds {len(found)} arrays, expected "
            f"{len(expected)}, or their shapes or types differ; use another workdir or delete it"
        )
    return jax.tree.unflatten(structure, [_like(new, old) for new, old in zip(found, leaves, strict=True)]), about


def _plain(leaf: Any) -> Any:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _like(new: np.ndarray, old: Any) -> Any:
    is_key = isinstance(old, jax.Array) and jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jnp.asarray(new), impl=jax.random.key_impl(old)) if is_key else jnp.asarray(new)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of the folder `path`; `ValueError` if it is damaged or of another format."""
    damaged = f"the manifest of {path} is damaged; delete the folder and write it again"
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        stated = manifest.pop("checksum", None)
        found = manifest["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(damaged) from error
    if found != FORMAT:
        raise UserError(f"{path} has format {found}; this ldpol reads format {FORMAT}: install a matching version")
    if stated not in (None, _checksum(manifest)):
        raise UserError(damaged)
    return manifest


def _checksum(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _aside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")


def _recover(path: Path) -> None:
    """Finish or undo a replacement that was interrupted between its two renames."""
    partial, old = _aside(path)
    if not path.exists() and old.exists():
        os.replace(partial if (partial / MANIFEST).is_file() else old, path)
        shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
