"""The clause that states an answer: `3/4` of "3/4, since half is gone. Let me check: …"."""

from __future__ import annotations

import re

from stepcredit.grading.notation.braces import group_ends

MAX_CHARS = 2_000

_EMPHASIS = re.compile(
    r"(?<![\w)\]}*])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?![\w(\\{*])|(?<!\w)`+|`+(?!\w)|(?<!\w)__(?=\S)|(?<=\S)__(?!\w)"
)
_LEADING = re.compile(
    r"[\s*:]*(?:(?:approximately|about|exactly|just|simply|therefore|thus|indeed)\b[\s,:]*)?", re.IGNORECASE
)
_END = re.compile(
    r"(?<![ap]\.m)(?<!\b[ap])(?<!\\)[.!?](?=\s|$|[\"'])|\n"
    r"|,? ?\(?\b(?:because|since|which|so that|as (?:the|we|a|it|there|she|he|they)|where|when|given|after|if|i hope)\b"
    r"|, (?:so|and (?:we|the|this|it|so)|but|thus|therefore|not|with)\b",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|textbf|hbox|operatorname)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_WRAPPED = re.compile(r"\\(?:text|mbox|mathrm|textbf|hbox)\s*\{([^{}]*\d[^{}]*)\}")
_PROSE = re.compile(r"[^\W\d_]{3,}")
_MATHEMATICS = re.compile(
    r"and|sin|cos|tan|log|exp|sqrt|inf|infinity|[pbv]?matrix|cases|array|frac|cup|cap|mod", re.IGNORECASE
)


def unemphasised(text: str) -> str:
    """Without Markdown's stars and back-ticks: `**73**` is 73, and `2**3` stays."""
    return _EMPHASIS.sub("", text) if "*" in text or "`" in text or "__" in text else text


def unwrapped(text: str) -> str:
    """Without `\\text{…}` around what holds a digit: `\\text{2 hours}` is 2 hours."""
    return _WRAPPED.sub(r"\1", text) if "\\" in text else text


def clause(said: str) -> str:
    """The first clause, without what closes it."""
    said = said[:MAX_CHARS]
    opening = _LEADING.match(said)
    start = opening.end() if opening is not None else 0
    inside = sorted(group_ends(said).items()) if "{" in said else []
    for match in _END.finditer(said, start):
        if not any(left < match.start() < right for left, right in inside):
            said = said[: match.start()]
            break
    return said[start:].strip().rstrip(".,;:!?\"'").strip()


def has_prose(text: str) -> bool:
    """Whether there are words in a text that are no mathematics; those of `\\text{…}` do not count."""
    return any(_MATHEMATICS.fullmatch(word[0]) is None for word in _PROSE.finditer(_COMMAND.sub(" ", text)))
