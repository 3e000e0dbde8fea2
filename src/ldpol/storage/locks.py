"""Locks that end with the process that holds them, however it ends: `flock` of an open file."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ldpol.storage.files import explained, make_folder, take


@contextlib.contextmanager
def lock(file: Path, what: str) -> Iterator[None]:
    """Keep other processes that take the same lock out while the block runs.

    Args:
      file: the lock file; it is made, with its folder, and removed at the end. One that a killed process left behind
        does no harm.
      what: what is being locked, for the message.

    Raises:
      OSError: at once, if another process holds the lock or the folder cannot be made. In a folder that is not
        writable there is nothing to keep others from, and no lock; nor is there on a file system that knows none.
    """
    with explained("work in", file.parent):
        made = make_folder(file.parent)
        handle = _acquire(file, what)
    try:
        if handle is not None:
            with contextlib.suppress(OSError):  # the number is only for the message that another process gives
                os.truncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                file.unlink()  # before it is let go: whoever opened it by now finds it gone, and opens another
            os.close(handle)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing was written


def _acquire(file: Path, what: str) -> int | None:
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not file.exists():
                return None
            handle = os.open(file, os.O_RDONLY)  # of another user
        except OSError as error:
            if error.errno == errno.EROFS:
                return None
            raise
        try:
            free = take(handle)
        except OSError:  # a file system without locks
            os.close(handle)
            return None
        if not free:
            holder = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            number = f" (process {holder})" if holder else ""
            raise BlockingIOError(f"{what} is in use by another command{number}; wait for it to end or stop it")
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == os.stat(file).st_ino:
                return handle
        os.close(handle)  # whoever held it removed it in the meantime
