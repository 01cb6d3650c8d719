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


def quoted(value: object, most: int = 60) -> str:
    """A value as an error quotes it: on one line, nothing in it that a terminal acts on, and cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a number of thousands of digits"
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: str) -> str:
    """The text with every character that cannot be printed, or that changes the direction of writing, as an escape."""
    return "".join(c if c.isprintable() and c not in _DIRECTIONS else ascii(c)[1:-1] for c in text)


_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(error: object, most: int = 600) -> str:
    """An error as one printable line, its middle left out where it is very long."""
    text = printable(" ".join(str(error).split()))
    return text if len(text) <= most else f"{text[: most - 200]} … {text[-190:]}"
