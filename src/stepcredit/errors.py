"""Errors that are the user's to mend: one line that says what, where and what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one line. The command line prints it and exits with code 2.

    Args:
        what: what is wrong, and what to do about it.
        where: the file and line, or the field, that it is about.
    """

    def __init__(self, what: str, where: str | None = None) -> None:
        self.what = what
        self.where = where
        super().__init__(f"{where}: {what}" if where else what)


class NotFiniteError(InputError):
    """Training stopped because a number was no longer finite: a loss, a gradient, a value, a weight."""
