"""Sets of real numbers: unions of intervals and inequalities in one unknown, read as pieces with ends.

`(-\\infty,1)\\cup(3,\\infty)`, `x < 1 or x > 3` and `\\mathbb{R} \\setminus \\{3\\}` are read by their brackets and
relations alone; whether two ends are equal is for the comparison to say.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from stepcredit.grading.notation.numbers import read_number

_INFINITE = re.compile(r"\s*([+-]?)\s*\\infty\s*")
_INTERVAL = re.compile(
    r"\s*([(\[])([^,;()\[\]]+|[^,;]*\([^()]*\)[^,;]*)[,;]([^,;()\[\]]+|[^,;]*\([^()]*\)[^,;]*)([)\]])\s*"
)
_UNION = re.compile(r"\\cup(?![a-zA-Z])|\s(?:U|or)\s|\\lor(?![a-zA-Z])")
_BOTH = re.compile(r",|\sand\s|\\land(?![a-zA-Z])")
_RELATION = re.compile(r"\\(?:le|ge|lt|gt|ne)(?![a-zA-Z])|[<>]=?")
_RELATIONS = {"\\le": "<=", "\\ge": ">=", "\\lt": "<", "\\gt": ">", "\\ne": "!="}
_UNKNOWN = re.compile(r"[a-zA-Z]|\\(?:theta|alpha|beta|lambda|mu)")
_SIZE = re.compile(r"(?:\||\\[lr]?vert)\s*[a-zA-Z]\s*(?:\||\\[lr]?vert)")
_MEMBER = re.compile(r"\s*(?:[a-zA-Z]|\\theta)\s*\\in(?![a-zA-Z])\s*")
_BUILDER = re.compile(r"\s*\\\{\s*([a-zA-Z])(?:\s*\\in\s*\\mathbb\{R\})?\s*(?:\\mid|\\vert|[|:])\s*(.*?)\s*\\\}\s*")
_REALS = re.compile(r"\s*(?:\\mathbb\s*\{R\}|\\mathbb\s+R|\\Reals|all real numbers)\s*")
_WITHOUT = re.compile(r"(.*?)\s*(?:\\setminus|\\backslash)\s*\\\{([^{},]+)\\\}\s*", re.DOTALL)


class Piece(NamedTuple):
    """An interval: its ends, and whether they belong to it. An end is "-oo", "oo" or LaTeX."""

    low: str
    has_low: bool
    high: str
    has_high: bool


Region = list[Piece]
EVERYTHING = Piece("-oo", False, "oo", False)


def read_region(text: str) -> Region | None:
    """The pieces of a set of real numbers, as they are written; None where the text is none.

    Args:
        text: in the one spelling of `plain`.
    """
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    builder = _BUILDER.fullmatch(text)
    text = builder[2] if builder is not None else text
    without = _WITHOUT.fullmatch(text)
    if without is not None and _REALS.fullmatch(without[1]):
        return _apart(without[2].strip())
    pieces: Region = []
    for part in _UNION.split(text):
        found = _piece(part)
        if found is None:
            return None
        pieces += found
    return pieces


def is_plain_pair(text: str) -> bool:
    """Whether a text may be a point as well as an interval: `(1, 2)`, and `[1, 2]` as a list."""
    match = _INTERVAL.fullmatch(text)
    return match is not None and match[1] + match[4] in ("()", "[]") and "\\infty" not in text


def _piece(text: str) -> Region | None:
    if _REALS.fullmatch(text):
        return [EVERYTHING]
    interval = _INTERVAL.fullmatch(text)
    if interval is not None:
        opening, low, high, closing = interval.groups()
        return [Piece(_end(low), opening == "[", _end(high), closing == "]")]
    parts = _BOTH.split(text)
    found = [_inequality(part) for part in parts]
    if any(piece is None for piece in found):
        return None
    if len(found) == 1:
        return found[0]
    return _meet([piece for region in found if region is not None for piece in region]) if len(found) == 2 else None


def _inequality(text: str) -> Region | None:
    """`x < 3`, `1 < x \\le 3` or `x \\ne 2`; one unknown, alone on its side."""
    relations = [_RELATIONS.get(r, r) for r in _RELATION.findall(text)]
    sides = [side.strip() for side in _RELATION.split(text)]
    if len(relations) == 1 and all(sides):
        (left, right), relation = sides, relations[0]
        size = _SIZE.fullmatch(left)
        if size is not None and read_number(right) is not None:
            return _around_zero(right, relation)
        if not _UNKNOWN.fullmatch(left):
            left, right, relation = right, left, relation.translate(str.maketrans("<>", "><"))
        if not _UNKNOWN.fullmatch(left) or _has_unknown(right):
            return None
        if relation == "!=":
            return _apart(right)
        closed = relation.endswith("=")
        return [
            Piece(_end(right), closed, "oo", False) if relation[0] == ">" else Piece("-oo", False, _end(right), closed)
        ]
    if (
        len(relations) == 2
        and all(sides)
        and _UNKNOWN.fullmatch(sides[1])
        and relations[0][0] == relations[1][0] != "!"
    ):
        if _has_unknown(sides[0]) or _has_unknown(sides[2]):
            return None
        ends = [(_end(sides[0]), relations[0].endswith("=")), (_end(sides[2]), relations[1].endswith("="))]
        (low, has_low), (high, has_high) = ends if relations[0][0] == "<" else ends[::-1]
        return [Piece(low, has_low, high, has_high)]
    return None


def _around_zero(size: str, relation: str) -> Region | None:
    """`|x| < 3` and `|x| > 3`."""
    closed = relation.endswith("=")
    if relation[0] == "<":
        return [Piece(f"-{size}", closed, size, closed)]
    if relation[0] == ">":
        return [Piece("-oo", False, f"-{size}", closed), Piece(size, closed, "oo", False)]
    return None


def _has_unknown(text: str) -> bool:
    return re.search(r"(?<![a-zA-Z\\])[a-df-zA-Z](?![a-zA-Z])", re.sub(r"\\[a-zA-Z]+", " ", text)) is not None


def _meet(pieces: Region) -> Region | None:
    """What two half-lines have in common."""
    up = [p for p in pieces if p.high == "oo" and p.low != "-oo"]
    down = [p for p in pieces if p.low == "-oo" and p.high != "oo"]
    if len(pieces) != 2 or len(up) != 1 or len(down) != 1:
        return None
    ends = read_number(up[0].low), read_number(down[0].high)
    if None not in ends and ends[0].value >= ends[1].value:  # type: ignore[union-attr]
        return None
    return [Piece(up[0].low, up[0].has_low, down[0].high, down[0].has_high)]


def _apart(point: str) -> Region:
    """All numbers but one."""
    return [Piece("-oo", False, _end(point), False), Piece(_end(point), False, "oo", False)]


def _end(text: str) -> str:
    infinite = _INFINITE.fullmatch(text)
    if infinite is None:
        return text.strip()
    return "-oo" if infinite[1] == "-" else "oo"
