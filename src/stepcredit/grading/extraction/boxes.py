"""Contents of `\\boxed{…}` in a response: the last box, with those that belong to it."""

from __future__ import annotations

import re
from typing import NamedTuple

from stepcredit.grading.keys import answer_key
from stepcredit.grading.notation.braces import group_ends

MAX_BOXES = 100
"""Maximum number of boxes considered, from the end."""

_BOXED = re.compile(
    r"\\(?:boxed|fbox|framebox)\s*"
    r"(?:(?P<brace>\{)|(?P<command>\\d?t?frac\s*\{)|(?P<bare>-?\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z])))"
)
_NAME = r"(?<![A-Za-z\\])[A-Za-z](?:_\{?\w+\}?)?\s*="
_SPACING = r"[\s$&]|\\[()\[\],;:! \\]|\\q?quad\b"
_JOINED = re.compile(
    rf"(?:{_SPACING}|{_NAME})*(?:,|;|\\text\s*\{{\s*(?:,\s*)?(?:and|or)\s*\}}|\b(?:and|or)\b)+"
    rf"(?:{_SPACING}|{_NAME}|\\text\s*\{{\s*(?:and|or)\s*\}}|\b(?:and|or)\b)*"
)
_LIST_WORD = re.compile(r"[,;]|\b(?:and|or)\b")
_NEAR = 80
"""Characters between two boxes of one answer, at most."""
_LINE = re.compile(r"[^\n$]*")


class Box(NamedTuple):
    """The content of a box, and where the whole of it stands."""

    start: int
    end: int
    content: str
    closed: bool = True


def boxes(text: str) -> list[Box]:
    """The last `MAX_BOXES` boxes of a text, in their order. A box that never closes ends with its line or formula."""
    if "box" not in text:
        return []
    ends = group_ends(text)
    return [_box(text, match, ends) for match in list(_BOXED.finditer(text))[-MAX_BOXES:]]


def _box(text: str, match: re.Match[str], ends: dict[int, int]) -> Box:
    if match["bare"] is not None:
        return Box(match.start(), match.end(), match["bare"])
    brace = match.end() - 1
    end = ends.get(brace)
    if match["command"] is not None:  # \boxed\frac{2}{3}
        end = ends.get(end, end) if end is not None else None
        if end is not None:
            return Box(match.start(), end, text[match.start("command") : end])
    if end is not None:
        return Box(match.start(), end, text[brace + 1 : end - 1])
    line = _LINE.match(text, brace + 1)
    rest = line[0] if line is not None else ""
    return Box(match.start(), match.end() + len(rest), rest.rstrip(" .\\)]*"), closed=False)


def last_boxed(text: str) -> str | None:
    """The content of the last box that closes and is not empty, else of the last; None where none closes."""
    found = [box.content for box in boxes(text) if box.closed]
    return next((content for content in reversed(found) if content.strip()), found[-1] if found else None)


def boxed_gold(text: str) -> str | None:
    """The gold answer of a worked solution: its last box with those that belong to it; None where none closes."""
    if last_boxed(text) is None:
        return None
    found = boxed_answer(text, several=False)
    return found[0] if found is not None else None


def boxed_answer(text: str, *, several: bool) -> tuple[str, int] | None:
    """(the answer that the last boxes state, where the last of them begins), or None.

    Boxes that stand side by side as a list, `\\boxed{3} or \\boxed{5}`, are one answer.

    Args:
        text: the response.
        several: whether the answer is known to have several parts: then a few words may stand between them, too.
    """
    found = [box for box in boxes(text) if box.content.strip()]
    if not found:
        return None
    parts = [found[-1]]
    for box in reversed(found[:-1]):
        if box.end > parts[0].start or not _belongs(text[box.end : parts[0].start], several):
            break
        parts.insert(0, box)
    contents = {answer_key(box.content): box.content.strip() for box in parts}  # 2\frac{1}{2} or 2.5 is one answer
    return ", ".join(contents.values()), found[-1].start


def _belongs(between: str, several: bool) -> bool:
    if len(between) > _NEAR:
        return False
    if _JOINED.fullmatch(between) is not None:
        return True
    return several and _LIST_WORD.search(between) is not None and "\n\n" not in between
