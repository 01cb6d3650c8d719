"""Formulas between their fences (`$…$`, `$$…$$`, `\\(…\\)`, `\\[…\\]`), and dollars that are money.

A dollar sign opens or closes a formula as in pandoc: none stands blank on the inner side, and no digit follows the
closing one. Models also pad both sides (`$ x = 5 $`). So `$5.00 + $2.00 = $7.00` holds no formula. One pass over the
text, whatever it holds.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MARK = re.compile(r"\\\\|\\\$|\\[()\[\]]|\$\$|\$|\n[ \t]*\n|\n")
_CLOSES = {"\\)": "\\(", "\\]": "\\[", "$$": "$$"}
_NO_FORMULA = re.compile(r"^[,.;:)?!%]|[-+*/=,(]$")
_NOT_PROSE = re.compile(r"\\[a-zA-Z]+\s*(?:\{[^{}$]*\})?")
_PROSE = re.compile(r"[A-Za-z]{4}")


class Formula(NamedTuple):
    """A formula of a text, and where it stands, its fences included."""

    start: int
    end: int
    inside: str


def formulas(text: str) -> list[Formula]:
    """The formulas of a text, in the order in which they close."""
    found: list[Formula] = []
    if "$" not in text and "\\" not in text:
        return found
    opened: dict[str, int] = {}
    for match in _MARK.finditer(text):
        mark, at = match[0], match.start()
        if mark in ("\\\\", "\\$"):
            continue
        if mark[0] == "\n":
            opened.pop("$", None)
            if mark != "\n":
                opened.pop("$$", None)
            continue
        opener = _CLOSES.get(mark, mark)
        start = opened.pop(opener, None) if mark in _CLOSES or mark == "$" else None
        if start is not None and (mark != "$" or _closes(text, start, at)):
            inside = text[start + len(opener) : at]
            if inside.strip():
                found.append(Formula(start, match.end(), inside.strip()))
        elif mark not in ("\\)", "\\]"):
            opened[mark] = at
    return found


def _closes(text: str, start: int, at: int) -> bool:
    """Whether the dollar sign at `at` closes a formula that the one at `start` opened."""
    inside, after = text[start + 1 : at], text[at + 1 : at + 2]
    padded = inside[:1].isspace()
    if not inside.strip() or padded != inside[-1:].isspace() or after.isdigit():
        return False
    if padded and text[at + 1 : at + 3].strip()[:1].isdigit():
        return False
    if _NO_FORMULA.search(inside.strip()) is not None:
        return False
    return _PROSE.search(_NOT_PROSE.sub(" ", inside)) is None


def without_fences(text: str) -> str:
    """The text with the insides of its formulas in place of them."""
    found = formulas(text)
    if not found:
        return text
    pieces, at = [], 0
    for formula in sorted(found):
        if formula.start >= at:
            pieces += [text[at : formula.start], formula.inside]
            at = formula.end
    return "".join([*pieces, text[at:]])
