"""Files that appear whole or not at all, and errors that name them."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

PARTIAL = ".partial"
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "; free some space and give the same command again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "; choose another place or change its permissions"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "; choose another place"),
}


@contextlib.contextmanager
def explained(verb: str, path: Path) -> Iterator[None]:
    """Turn every `OSError` of the system inside the block into one line: what could not be done, to which file, why."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # one of ours, with a message of its own
            raise
        other = str(error.filename or path)
        where = "" if other == str(path) or other.endswith(PARTIAL) else f" ({other})"
        hint = _HINTS.get(error.errno, "")
        raise type(error)(f"could not {verb} {path}: {error.strerror}{where}{hint}") from error


def write_bytes(path: Path | str, content: bytes | bytearray) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it, whatever ends the process.

    Two processes may write one path at the same time: the last one's file stays, whole. What a killed process left
    beside it is removed.

    Raises:
      OSError: if it cannot be written, or a folder, device or the like is at `path`; what was there stays, and
        nothing is left beside it, and no folder that was made for it.
    """
    path = Path(path)
    with explained("write", path):
        _check_target(path)
        made = make_folder(path.parent)
        try:
            _sweep(path)
            partial, stream = _open_partial(path)
            try:
                with stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                    os.replace(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        except BaseException:
            remove_empty(made)
            raise
        _sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Raise `OSError` unless `write_bytes` could write `path` now; nothing is left behind.

    For what takes long to compute: a wrong path is found before, not after.
    """
    with explained("write", path):
        _check_target(path)
        made = make_folder(path.parent)
        try:
            partial, stream = _open_partial(path)
            stream.close()
            partial.unlink()
        finally:
            remove_empty(made)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns the ones that were missing, the innermost first.

    Raises:
      OSError: if that is not possible; then none of them is left.
    """
    missing, above = [], folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, expected a folder", str(above))
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, as far as there is nothing in them."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with explained("read", file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def take(handle: int) -> bool:
    """Take the lock of an open file if nobody holds it; tells whether it did. It ends when the file is closed.

    Raises:
      OSError: if the file system has no locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_target(path: Path) -> None:
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "not an ordinary file"
        raise OSError(f"could not write {path}: it is {found}; choose another name")


def _open_partial(path: Path) -> tuple[Path, IO[bytes]]:
    """Open a new file beside `path`, locked as long as it is open, so that others know that it is in use."""
    while True:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        # As `open` does it but for EXCL: the user's umask counts, and no link that lies there is followed.
        stream = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb")
        with contextlib.suppress(OSError):
            if not take(stream.fileno()) or not os.fstat(stream.fileno()).st_nlink:
                stream.close()  # somebody's `_sweep` came between
                continue
        return partial, stream


def _sweep(path: Path) -> None:
    """Remove what processes that were killed while they wrote `path` left beside it."""
    for old in os.scandir(path.parent):
        if old.name.startswith(f".{path.name}.") and old.name.endswith(PARTIAL):
            with contextlib.suppress(OSError), open(old.path, "rb") as stream:
                if take(stream.fileno()):
                    os.unlink(old.path)


def _sync_folder(folder: Path) -> None:
    """Let the new name of a file survive a power cut too."""
    with contextlib.suppress(OSError):  # a folder may be writable without being readable
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
