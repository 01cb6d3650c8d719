"""Runs of mathematics in plain words: of `that is 3/4 of the cake (9 pieces)` the runs `3/4` and `9`.

A run is as long as its mathematics, so that `10^6` is not taken for 10, nor `3x` for 3. It ends at a word, at a
bracket that opens after a blank (an aside), and where nothing joins one number to the next.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from stepcredit.grading.notation.characters import BLANK
from stepcredit.grading.notation.units import is_unit

MAX_CHARS = 4_000
"""What lies beyond is not looked at."""

_GROUPED = r"\d{1,3}(?:(?:,\ ?\\!\ ?|,|\{,\}|\\!|\\,|'|%s)\d{3})+(?!\d)(?:\.\d+)?"
_TOKENS = r"""
    (?P<blank>(?:\s|\\[,;:!\ ]|~)+)
  | (?P<number>%s|(?<=[$€£¥])\d{1,3}(?:\ \d{3})+(?!\d)|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+)
  | (?P<stop>\\(?:text|mbox|mathrm|textbf|hbox)\s*\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?
          |\\(?:text|mbox|mathrm|textbf|hbox|quad|qquad|approx|neq?|implies|Rightarrow|to)(?![a-zA-Z])|\\\\|\.\.+)
  | (?P<command>\\[a-zA-Z]+)
  | (?P<money>\\?[$£€¥₹])
  | (?P<percent>\\?%%)
  | (?P<word>[A-Za-zÀ-ɏͰ-῿぀-퟿]{2,})
  | (?P<letter>[A-Za-zÀ-ɏͰ-῿぀-퟿])
  | (?P<sign>[-+±])
  | (?P<operator>[*/^=<>!×÷·≤≥])
  | (?P<open>\\?[{]|[(\[])
  | (?P<close>\\?[}]|[)\]])
  | (?P<symbol>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞√∛∞°⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉])
  | (?P<joint>[:,.;_])
  | (?P<other>.)
"""
_WITH_PLAIN_BLANKS = re.compile(_TOKENS % (_GROUPED % f"[ {BLANK}]"), re.VERBOSE | re.DOTALL)
_TOKEN = re.compile(_TOKENS % (_GROUPED % BLANK), re.VERBOSE | re.DOTALL)
_VALUES = frozenset({"number", "symbol"})
_OPERANDS = frozenset({"number", "symbol", "close", "letter", "percent", "command", "function"})
_SCRIPTS = frozenset("°⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉")
_WORD_KINDS = {
    **dict.fromkeys(("pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "inf", "infinity"), "function"),
    **dict.fromkeys(("times", "plus"), "operator"),
    **dict.fromkeys(("minus", "negative"), "sign"),
}
_TRAILING = frozenset({"blank", "operator", "sign", "open", "money", "joint"})
_NO_START = frozenset({"blank", "word", "joint", "other", "stop", "close", "operator", "percent"})
_LEADING = frozenset({"blank", "operator", "joint", "close"})
_BEHIND = re.compile(
    r"\s?(?:hundred|thousand|million|billion|trillion|dozen|percent|per cent)\b|\s?[ap]\.?m\b\.?", re.IGNORECASE
)

_WORD_BEHIND = re.compile(r"\s?([A-Za-z]{3,12})\b")


class Token(NamedTuple):
    """A piece of text, its kind and its place."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """The position after it."""
        return self.start + len(self.text)


def runs(text: str, *, grouped: bool = False) -> list[str]:
    """The runs of mathematics in a text that hold a value, in their order.

    Args:
        text: folded, without the fences of formulas.
        grouped: whether a plain blank may stand between the digits of one number, as in `1 234`.
    """
    text = text[:MAX_CHARS]
    tokens = _tokens(text, _WITH_PLAIN_BLANKS if grouped else _TOKEN)
    found, at = [], 0
    while at < len(tokens):
        if tokens[at].kind in _NO_START:
            at += 1
            continue
        pieces = _grown(tokens, at)
        for start, end in pieces:
            run = _trimmed(tokens[start:end])
            if any(t.kind in _VALUES or t.text in ("\\pi", "\\infty") for t in run):
                found.append(text[run[0].start : run[-1].end] + word_behind(text, run[-1].end))
        at = max(pieces[-1][1], at + 1) if pieces else at + 1
    return found


def word_behind(text: str, end: int) -> str:
    """The word behind a number that belongs to it: what scales it, its unit where that is known, the half of a day."""
    match = _BEHIND.match(text, end) or _WORD_BEHIND.match(text, end)
    if match is None or (match.re is _WORD_BEHIND and not is_unit(match[1])):
        return ""
    return match[0]


def _tokens(text: str, pattern: re.Pattern[str]) -> list[Token]:
    found = []
    for match in pattern.finditer(text):
        kind, piece = match.lastgroup or "other", match[0]
        if kind == "word":
            kind = _WORD_KINDS.get(piece.lower(), kind)
        found.append(Token(kind, piece, match.start()))
    opened: list[int] = []
    for at, token in enumerate(found):
        kind = token.kind
        if kind == "letter" and token.text in "xX" and _is_times(found, at):
            found[at] = token._replace(kind="operator")
        elif kind == "open":
            opened.append(at)
        elif kind == "close":
            if opened:
                opened.pop()
            else:
                found[at] = token._replace(kind="other")
    for at in opened:  # never closed: no run goes across it
        found[at] = found[at]._replace(kind="other")
    return found


def _is_times(tokens: list[Token], at: int) -> bool:
    """Whether the x at `at` stands between two numbers: `5 x 4`."""
    sides = (tokens[at + 1 : at + 3], tokens[max(0, at - 2) : at][::-1])
    return all([t.kind for t in side if t.kind != "blank"][:1] == ["number"] for side in sides)


def _grown(tokens: list[Token], start: int) -> list[tuple[int, int]]:
    """The run that begins at a token as (first, after the last); none where none does.

    Where it ends within brackets, these part it: `(3 + 4` of `(3 + 4 apples)` is the run `3 + 4`.
    """
    if not _starts(tokens, start):
        return []
    opened: list[int] = []
    at = start
    while at < len(tokens):
        token = tokens[at]
        if token.kind == "close" and not opened:
            break
        if at > start and not _joins(tokens, start, at, len(opened)):
            break
        if token.kind == "open":
            opened.append(at)
        elif token.kind == "close":
            opened.pop()
        at += 1
    edges = [start - 1, *opened, at]
    return [(left + 1, right) for left, right in pairwise(edges)]


def _starts(tokens: list[Token], at: int) -> bool:
    kind = tokens[at].kind
    before = tokens[at - 1].kind if at else "blank"
    if kind == "sign":
        return before not in ("word", "letter", "number", "close", "percent")
    if kind == "letter":  # a variable, if mathematics follows
        follows = [t for t in tokens[at + 1 : at + 3] if t.kind != "blank"][:1]
        return before in ("blank", "open", "sign") and bool(follows) and follows[0].kind in ("operator", "sign")
    if kind == "number" and before == "operator" and tokens[at - 1].text == "^":
        return False  # the 2 of cm^2
    if kind == "symbol":
        return tokens[at].text not in _SCRIPTS
    return kind in ("number", "command", "money", "open", "function")


def _joins(tokens: list[Token], start: int, at: int, depth: int) -> bool:
    """Whether the token at `at` goes on with the run that has come so far."""
    token, before = tokens[at], tokens[at - 1]
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    last = tokens[at - 2] if before.kind == "blank" and at - 2 >= start else before
    parted, operand = before.kind == "blank", last.kind in _OPERANDS
    match token.kind:
        case "blank":
            return "\n" not in token.text or depth > 0
        case "operator" | "percent" | "symbol" | "command" | "function" | "close":
            return True
        case "sign":
            return not (parted and after is not None and after.kind == "word")
        case "number":
            return not operand or (not parted and last.kind != "percent") or _is_fraction(tokens, at)
        case "open":
            return depth > 0 or not parted or not operand
        case "money":
            return not operand
        case "letter":
            return not (parted and operand) or (after is not None and after.text == "^")
        case "joint":
            digits = after is not None and after.kind == "number"
            return (
                (depth > 0 and token.text in ",;")
                or (token.text == "_" and not parted)
                or (digits and not parted and last.kind == "number")
                or (token.text == ":" and parted and after is not None and after.kind == "blank")
            )
    return False


def _is_fraction(tokens: list[Token], at: int) -> bool:
    """Whether `1/2` stands at `at`, so that `2 1/2` is one number."""
    return [t.text if t.kind == "operator" else t.kind for t in tokens[at : at + 3]] == ["number", "/", "number"]


def _trimmed(run: list[Token]) -> list[Token]:
    while run and run[-1].kind in _TRAILING:
        run = run[:-1]
    while run and run[0].kind in _LEADING:
        run = run[1:]
    return run
