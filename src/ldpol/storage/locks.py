"""Locks that end with the process that holds them, however it ends: `flock` of an open file."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ldpol.storage.files import explained, make_folder, remove_empty, take

ATTEMPTS = 1000
"""Times that other commands may remove what this one is about to lock, before that is no chance any more."""
_WIDTH = 20
"""Bytes that a lock file has for the number of its holder. The bytes behind count folders that were made for it."""


@contextlib.contextmanager
def lock(file: Path, what: str) -> Iterator[None]:
    """Keep other processes that take the same lock out while the block runs.

    Args:
      file: the lock file. It is made, with the folders above, and removed at the end, with those of these folders that
        are empty. One that a killed process left behind does no harm.
      what: what is being locked, for the message.

    Raises:
      OSError: at once, if another process holds the lock or a folder cannot be made; nothing is left behind. In a
        folder that is not writable there is nothing to keep others from, and no lock; nor is there on a file system
        that knows none.
    """
    with explained("work in", file.parent):
        handle, made = _acquire(file, what)
    try:
        if handle is not None:
            with contextlib.suppress(OSError):  # the number is only for the message that another process gives
                os.pwrite(handle, f"{os.getpid():<{_WIDTH}}".encode(), 0)
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                if _is_at(file, handle):  # unless the user removed it, and it is another command's by now
                    file.unlink()  # before it is let go: whoever opened it by now finds it gone, and opens another
            made = max(made, os.fstat(handle).st_size - _WIDTH)  # after it is gone: nobody adds to it any more
            os.close(handle)
        remove_empty(list(file.parents)[:made])


def _acquire(file: Path, what: str) -> tuple[int | None, int]:
    """Return the lock file, open and locked (`None` where there are no locks), and how many folders were made for it.

    Commands that end remove their lock file, and folders that they made in vain, at any moment: a lock counts only if
    its file is still in its place, and what has gone in the meantime is made again.
    """
    made = 0
    for left in reversed(range(ATTEMPTS)):
        try:
            made = max(made, len(make_folder(file.parent)))
            handle = _open(file)
        except OSError as error:
            if left and isinstance(error, FileNotFoundError):
                continue
            remove_empty(list(file.parents)[:made])
            raise
        if handle is None:
            break
        try:
            free = take(handle)
        except OSError:  # a file system without locks
            file.unlink(missing_ok=True)
            os.close(handle)
            break
        if not free and made:
            with contextlib.suppress(OSError):  # another user's file
                # Another process took the lock in the folder that was made here; so it is the one to remove it.
                os.pwrite(handle, b"\n", _WIDTH + made - 1)
        if _is_at(file, handle):
            if free:
                return handle, made
            holder = os.pread(handle, _WIDTH, 0).decode(errors="replace").strip(" \0")
            os.close(handle)
            number = f" (process {holder})" if holder else ""
            raise BlockingIOError(f"{what} is in use by another command{number}; wait for it to end or stop it")
        os.close(handle)
    return None, made


def _open(file: Path) -> int | None:
    """Open a lock file, never what a link points to; `None` in a folder that is not writable."""
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        # Of another user, unless there is none.
        return os.open(file, os.O_RDONLY | os.O_NOFOLLOW) if file.exists() else None
    except OSError as error:
        if error.errno == errno.EROFS:
            return None
        raise


def _is_at(file: Path, handle: int) -> bool:
    """Whether the path still names the open file."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(file, follow_symlinks=False))
    return False
