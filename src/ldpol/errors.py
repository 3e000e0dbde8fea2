"""What a user can mend: one exception class, raised where the mistake is found."""


class UserError(ValueError):
    """An input, a setting or a file that cannot be used; says what was found, what was expected and what to do.

    Entry points print it as one line. Every other exception is a bug and keeps its traceback.
    """


class MissingPackage(UserError, ImportError):
    """A package of an extra that is not installed."""


class MissingFile(UserError, FileNotFoundError):
    """Something that has not been written yet."""
