"""Pytrees of arrays as one file each: safetensors, with a description and a checksum in its header.

The file's only metadata entry is `ldpol`: a JSON object of `sha256` (of the whole file, with zeros in the checksum's
own place), `format`, `kind`, `about` (what the caller says of the content) and, unless it must be small, `versions`.
Several entries would be written in another order in each process, and the same model would not be the same bytes.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save as to_safetensors

from ldpol.errors import MissingFile, UserError
from ldpol.storage.files import explained, write_bytes
from ldpol.storage.records import parse
from ldpol.types import PyTree

FORMAT = 2
PACKAGES = ("ldpol", "jax", "flax", "optax", "brax", "qdax", "safetensors", "numpy")
HEADER = 2**26
"""Bytes of the largest header that is read."""
_START = b'{"__metadata__":{"ldpol":"{\\"sha256\\":\\"'
_SUM = slice(8 + len(_START), 8 + len(_START) + 64)
"""Where a file keeps its checksum; before come the header's length and what all files begin with."""
_DAMAGED = "{} is damaged; restore it from a copy or write it again"
_DTYPES = {
    **{"BOOL": "bool", "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


def versions() -> dict[str, str]:
    """Return the versions of the packages a result depends on."""
    return {name: metadata.version(name) for name in PACKAGES}


def save(path: Path | str, tree: PyTree, *, kind: str, about: Mapping[str, Any] | None = None) -> None:
    """Write a pytree of arrays to the file `path`, replacing what was there, in one step.

    Args:
      path: the file.
      tree: dicts, lists, tuples and dataclasses of arrays; typed keys are stored as their data.
      kind: what this is; `load` insists on it.
      about: JSON-able description, returned by `load`.

    Raises:
      OSError: if the disk is full or not writable; what was at `path` before is still there.
      ValueError: for arrays or names that the file cannot hold.
    """
    write_bytes(path, pack(tree, kind=kind, about=about, versions=versions()))


def pack(
    tree: PyTree, *, kind: str, about: Mapping[str, Any] | None = None, versions: Mapping[str, str] | None = None
) -> bytearray:
    """Return the content of the file that `save` writes; the same content gives the same bytes. See `save`."""
    tensors: dict[str, np.ndarray] = {}
    for place, leaf in jax.tree.leaves_with_path(tree):
        steps = [_name(step) for step in place]
        value = np.asarray(_plain(leaf), order="C")  # safetensors writes memory as it lies, whatever the strides say
        if str(value.dtype) not in _DTYPES.values() or any("." in step for step in steps):
            raise UserError(f"cannot store the array {'.'.join(steps)!r} of type {value.dtype}: unknown type or a dot")
        tensors[".".join(steps)] = value
    header = {"sha256": "0" * 64, "format": FORMAT, "kind": kind, "about": dict(about or {})}
    if versions is not None:
        header["versions"] = dict(versions)
    text = json.dumps(header, separators=(",", ":"))
    content = bytearray(to_safetensors(tensors, {"ldpol": text}))
    content[_SUM] = _checksum(content)
    return content


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays for readers that know NumPy alone: its own format, without a checksum, but whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def nbytes(tree: PyTree, *, kind: str = "model", about: Mapping[str, Any] | None = None) -> int:
    """Return the bytes of a model's file: its numbers as they are stored, and the header that says what they are."""
    return len(pack(tree, kind=kind, about=about))


def exists(path: Path | str) -> bool:
    """Tell whether there is a file at `path`.

    Raises:
      ValueError: if something else is there.
    """
    path = Path(path)
    with explained("read", path):
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "not an ordinary file"
            raise UserError(f"{path} is {found}, expected a file that ldpol wrote; move it away")
        return path.is_file()


def load(path: Path | str, *, kind: str) -> tuple[Any, dict[str, Any]]:
    """Read what `save` wrote: nested dicts of NumPy arrays, and `about`.

    Raises:
      FileNotFoundError: if there is nothing.
      ValueError: if it is of another kind or format, foreign, or not as it was written.
      OSError: if it cannot be read.
    """
    path = Path(path)
    if not exists(path):
        raise MissingFile(f"expected a saved {kind} at {path}, found nothing; run the stage that writes it")
    tree, found, about = _read(path)
    if found != kind:
        raise UserError(f"{path} holds a saved {found}, expected a {kind}")
    return tree, about


def fingerprint(path: Path | str) -> str:
    """Return a digest of the arrays saved at `path`, to tell later whether they are still the same.

    Raises:
      FileNotFoundError: if there is nothing.
      ValueError: as `load`.
    """
    path = Path(path)
    if not exists(path):
        raise MissingFile(f"nothing is saved at {path}; run the stage that writes it")
    arrays, _, about = _read(path)
    return fingerprint_of(arrays, about)


def fingerprint_of(tree: PyTree, about: Mapping[str, Any]) -> str:
    """Return the `fingerprint` that a file of these nested dicts of arrays and this description would have."""
    content = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for place, leaf in jax.tree.leaves_with_path(tree):
        content.update(jax.tree_util.keystr(place).encode() + np.asarray(leaf).tobytes())
    return content.hexdigest()


def _read(path: Path) -> tuple[Any, str, dict[str, Any]]:
    """Return arrays, kind and description of a file; `ValueError` unless it is whole."""
    # One open file from here on: a writer puts a new one in its place, and this one stays what it was.
    with explained("read", path), path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        # A file can be far larger than what was written, without occupying it; so its header is asked first.
        length = 8 + int.from_bytes(stream.read(8), "little")
        stream.seek(0)
        _read_header(stream.read(min(length, HEADER)), size, str(path))
        stream.seek(0)
        try:
            content = stream.read()
        except MemoryError as error:
            raise UserError(f"{path} does not fit into the memory: it holds {size:,} bytes") from error
    return unpack(content, str(path))


def unpack(content: bytes | bytearray, what: str = "the file") -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Read what `pack` made: nested dicts of NumPy arrays, the kind and `about`. Nothing in it is executed.

    Raises:
      ValueError: if it is damaged, foreign or of another format; `what` names it.
    """
    said = _read_header(content, len(content), what)
    damaged = _DAMAGED.format(what)
    if content[_SUM] != _checksum(content):
        raise UserError(damaged)
    if said["format"] != FORMAT:
        raise UserError(
            f"{what} has format {said['format']}; this ldpol reads format {FORMAT}: install a matching version"
        )
    tree: dict[str, Any] = {}
    try:
        for name, tensor in sorted(safetensors.deserialize(bytes(content))):
            *parents, last = name.split(".")
            node = tree
            for step in parents:
                node = node.setdefault(step, {})
            dtype = jnp.dtype(_DTYPES[tensor["dtype"]])
            node[last] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
        return tree, str(said["kind"]), dict(said["about"])
    except (safetensors.SafetensorError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(damaged) from error


def _read_header(content: bytes | bytearray, size: int, what: str) -> dict[str, Any]:
    """Return what a file says of itself, from its first bytes; `ValueError` unless it is of the `size` it says."""
    if content[8 : _SUM.start] != _START:
        raise UserError(f"{what} is not a file of this version of ldpol; choose another one, or write it again")
    length = 8 + int.from_bytes(content[:8], "little")
    damaged = _DAMAGED.format(what)
    header = parse(bytes(content[8:length]), damaged)
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        said = parse(header["__metadata__"]["ldpol"], damaged)
        whole = length + max(ends, default=0) == size and said.keys() >= {"format", "kind", "about"}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(damaged) from error
    if not whole:
        raise UserError(damaged)
    return said


def _checksum(content: bytes | bytearray) -> bytes:
    """Return the checksum of a file, counting zeros in the place where it is kept."""
    view = memoryview(content)
    found = hashlib.sha256(view[: _SUM.start])
    found.update(b"0" * 64)
    found.update(view[_SUM.stop :])
    return found.hexdigest().encode()


def save_state(path: Path | str, state: PyTree, *, kind: str, about: Mapping[str, Any] | None = None) -> None:
    """Write any pytree (not only nested dicts) as the list of its leaves; read it with `load_state`."""
    leaves = jax.tree.leaves(state)
    save(path, {f"{i:04d}": leaf for i, leaf in enumerate(leaves)}, kind=kind, about=about)


def load_state(
    path: Path | str, like: PyTree, *, kind: str, check: Callable[[dict[str, Any]], None] = lambda about: None
) -> tuple[Any, dict[str, Any]]:
    """Read a pytree written by `save_state`, with the structure, dtypes and key types of `like`.

    Args:
      path: the file.
      like: a pytree of the same structure.
      kind: what this is.
      check: sees `about` before the leaves are compared; it knows the settings by name, and raises for other ones.

    Raises:
      ValueError: if the leaves do not fit `like`: the checkpoint is of other settings.
    """
    stored, about = load(path, kind=kind)
    check(about)
    places = jax.tree.leaves_with_path(like)
    found = [stored[name] for name in sorted(stored)]
    expected = [_said(_plain(leaf)) for _, leaf in places]
    wrong = [
        f"{jax.tree_util.keystr(place) or 'it'} is {_said(leaf)}, expected {other}"
        for (place, _), leaf, other in zip(places, found, expected, strict=False)
        if _said(leaf) != other
    ]
    if len(found) != len(places):
        wrong.insert(0, f"it holds {len(found)} arrays, expected {len(places)}")
    if wrong:
        raise UserError(
            f"the checkpoint {path} does not fit these settings: {wrong[0]}; use another workdir or delete it"
        )
    leaves = [_like(new, old) for new, (_, old) in zip(found, places, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), about


def _said(leaf: Any) -> str:
    return f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}"


def _name(step: Any) -> str:
    return str(next(getattr(step, name) for name in ("key", "name", "idx") if hasattr(step, name)))


def _plain(leaf: Any) -> Any:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _like(new: np.ndarray, old: Any) -> Any:
    is_key = isinstance(old, jax.Array) and jnp.issubdtype(old.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jnp.asarray(new), impl=jax.random.key_impl(old)) if is_key else jnp.asarray(new)
