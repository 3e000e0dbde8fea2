"""What a user can mend: one exception class, raised where the mistake is found."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An input, a setting or a file that cannot be used; says what was found, what was expected and what to do.

    Entry points print it as one line. Every other exception is a bug and keeps its traceback.
    """


class MissingPackage(UserError, ImportError):
    """A package of an extra that is not installed."""


class MissingFile(UserError, FileNotFoundError):
    """Something that has not been written yet."""


def meant(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the known name that is like an unknown one, or nothing where none is."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""
