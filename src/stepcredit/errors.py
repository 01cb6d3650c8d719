"""Errors that the user can correct: one line that says what is wrong, where, and what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, described in one line. The command line prints it and exits with code 2.

    Args:
        what: what is wrong, and what to do about it.
        where: the file and line, or the field, with the error.
    """

    def __init__(self, what: str, where: str | None = None) -> None:
        self.what = what
        self.where = where
        super().__init__(f"{where}: {what}" if where else what)


class NotFiniteError(InputError):
    """Training stopped because a loss, gradient, value or weight was no longer finite."""


def quoted(value: object, most: int = 60) -> str:
    """Returns the `repr` of a value for an error: one line, no control characters, cut to `most` characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: str) -> str:
    """Returns a text in which characters that are not printable, or that change the writing direction, are escaped."""
    return "".join(c if c.isprintable() and c not in _DIRECTIONS else ascii(c)[1:-1] for c in text)


_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(error: object, most: int = 600) -> str:
    """Returns an error as one printable line; the middle of a very long one is left out."""
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= most else f"{text[: most - 200]} … {text[-190:]}"
