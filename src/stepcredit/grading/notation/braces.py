"""Matching of braces."""

from __future__ import annotations

import re

MAX_DEPTH = 100
"""Deeper nesting is no answer that anybody wrote."""

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def group_ends(text: str) -> dict[int, int]:
    """Position of each brace that closes → the position after the brace that closes it.

    An escaped brace (`\\{`) neither opens nor closes. One pass over the text, whatever it holds.
    """
    ends: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            ends[opened.pop()] = match.end()
    return ends


def group_end(text: str, start: int) -> int | None:
    """The position after the brace that closes the one at `start`, or None; also where it nests too deeply."""
    depth = 0
    for match in _BRACE.finditer(text, start):
        if match[0] == "{":
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return None
