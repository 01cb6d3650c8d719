"""Comparison of an answer with the gold answer: exact methods first, part by part, then algebra.

Numbers are compared as fractions, words as words, numerals in other bases digit by digit, and tuples, intervals, sets
and lists part by part, with their brackets; everything else is passed to the algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stepcredit.grading.notation.characters import folded, spelled, unknown
from stepcredit.grading.notation.names import assignments, is_equation, is_unsolved, value_of
from stepcredit.grading.notation.numbers import equal_numbers, read_number
from stepcredit.grading.notation.numerals import equal_numerals, equal_times
from stepcredit.grading.notation.regions import Piece, Region, is_plain_pair, read_region
from stepcredit.grading.notation.spelling import normal_form, plain
from stepcredit.grading.notation.words import equal_words
from stepcredit.verdict import Verdict

MAX_PARTS = 24
"""Longer lists that are not all numbers are left undecided."""

UNREAD_GOLD = "the gold answer cannot be read"
"""Beginning of the reason of such a verdict."""

_BOUND = re.compile(r"(?:not |(?:more|less|fewer|greater) than |[<>≤≥])(.*)", re.IGNORECASE | re.DOTALL)
_RATIO = re.compile(r"\s*(\d{1,9})\s*:\s*(\d{1,9})\s*(?:[ap]\.?m\.?)?\s*", re.IGNORECASE)
_SPAN = re.compile(r"\s*\$?(\d{1,9})\s?-\s?\$?(\d{1,9}) [a-z]+\s*", re.IGNORECASE)
MAX_MULTIPLE = 60
_MULTIPLE = re.compile(r"(?!.*(?<![\d.])0+(?![\d.]))[-+*/.,\d\s$]*[a-zA-Z][-+*/.,\d\s$]*(?: [a-z]{3,})?")
"""An expression with one unknown, once, and no zero: it is no number, whatever the unknown is."""
_RELATION = re.compile(r"[<>≤≥]|\\(?:le|ge|lt|gt|ne)(?![a-z])|\\[lg]eq")
_BRACKETS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
_UNORDERED = frozenset({"", "\\{"})


class Comparison(NamedTuple):
    """A verdict on two answers, and why."""

    verdict: Verdict
    reason: str


RIGHT, WRONG, UNDECIDED = Verdict.RIGHT, Verdict.WRONG, Verdict.UNDECIDED
Algebra = Callable[[str, str], Comparison]
"""Compares two LaTeX expressions that no simpler method decides."""


@dataclass(frozen=True)
class Parts:
    """The parts and brackets of an answer: `(1, 2]` has opening "(", closing "]" and two parts."""

    opening: str
    closing: str
    parts: tuple[str, ...]


def compare(gold: str, answer: str, algebra: Algebra, *, identity: bool = True) -> Comparison:
    """Compares an answer with the gold answer.

    Args:
        gold: the gold answer.
        answer: the extracted answer.
        algebra: the comparison that is called last.
        identity: whether equal spellings are accepted without parsing; False only in tests of the other methods.
    """
    if identity and normal_form(gold) == normal_form(answer):
        return Comparison(RIGHT, "the same spelling")
    for layer, what in _LAYERS:
        equal = layer(gold, answer)
        if equal is not None:
            return Comparison(RIGHT, f"equal {what}s") if equal else Comparison(WRONG, f"another {what}")
    if read_number(gold) is not None:
        decided = _as_no_number(gold, answer)
        if decided is not None:
            return decided
    gold, answer = spelled(folded(gold)), spelled(folded(answer))
    strange = unknown(gold) or unknown(answer)
    if strange is not None:
        return Comparison(UNDECIDED, f"a character that the grader does not know: {strange!a}")
    regions = _as_regions(gold, answer, algebra)
    if regions is not None:
        return regions
    expected, actual = split_parts(gold), split_parts(answer)
    several = len(expected.parts) > 1 or len(actual.parts) > 1
    if several and not (_RELATION.search(gold) or _RELATION.search(answer)):
        return _by_parts(expected, actual, algebra)
    return _by_algebra(gold, answer, algebra)


def _by_algebra(gold: str, answer: str, algebra: Algebra) -> Comparison:
    """Compares values by algebra; an unsolved equation is never accepted for its right side."""
    left, right = plain(gold), plain(answer)
    if is_equation(left) == is_equation(right):
        return algebra(_as_latex(gold), _as_latex(answer))
    if is_equation(left):
        return algebra(_as_latex(value_of(left)), _as_latex(answer))
    if not is_unsolved(right):
        return algebra(_as_latex(gold), _as_latex(value_of(right, loosely=True)))
    found = algebra(_as_latex(gold), _as_latex(right.rpartition("=")[2].strip()))
    return found if found.verdict is WRONG else Comparison(UNDECIDED, "an equation, not a value")


def _as_latex(answer: str) -> str:
    """Rewrites fractions and integers in plain LaTeX for the algebra; other answers are returned unchanged."""
    number = read_number(answer)
    if number is None or number.percent or "." in answer:
        return answer
    above, below = number.value.as_integer_ratio()
    return str(above) if below == 1 else f"\\frac{{{above}}}{{{below}}}"


def _equal_numbers(gold: str, answer: str) -> bool | None:
    """Whether two numbers are equal; None if one is not a number."""
    expected = read_number(gold)
    actual = read_number(answer) if expected is not None else None
    return None if expected is None or actual is None else equal_numbers(expected, actual)


_LAYERS: tuple[tuple[Callable[[str, str], bool | None], str], ...] = (
    (equal_times, "time"),
    (_equal_numbers, "number"),
    (equal_numerals, "numeral"),
    (equal_words, "word"),
)


def _as_no_number(gold: str, answer: str) -> Comparison | None:
    """Compares a gold number with a bound, ratio, range or expression with an unknown; None for other answers."""
    bound, ratio, span = (pattern.fullmatch(answer) for pattern in (_BOUND, _RATIO, _SPAN))
    if bound is not None:  # whether "more than 5" answers 5, the question knows
        equal = _equal_numbers(gold, bound[1])
        return Comparison(WRONG if equal is False else UNDECIDED, "a bound, not a number")
    if ratio is not None:  # 3:4 is 0.75; whether 3:1 is three, and 3:00 too, the question knows
        equal = _equal_numbers(gold, f"{ratio[1]}/{ratio[2]}")
        whole = int(ratio[2]) in (0, 1) and _equal_numbers(gold, ratio[1])
        verdict = UNDECIDED if whole else RIGHT if equal else WRONG
        return Comparison(verdict, "a ratio")
    if span is not None and not _equal_numbers(gold, str(int(span[1]) - int(span[2]))):
        return Comparison(WRONG, "a range, not a number")
    if len(answer) <= MAX_MULTIPLE and _MULTIPLE.fullmatch(answer) is not None:
        return Comparison(WRONG, "not a number")
    return None


def _as_regions(gold: str, answer: str, algebra: Algebra) -> Comparison | None:
    """Compares sets of real numbers by their ends; None for two bracketed pairs, which are compared part by part."""
    gold, answer = plain(gold), plain(answer)
    if is_plain_pair(gold) and is_plain_pair(answer):
        return None
    expected = read_region(gold)
    actual = read_region(answer) if expected is not None else None
    if expected is None or actual is None:
        return None
    if len(expected) != len(actual):
        return Comparison(WRONG, f"{len(actual)} pieces, not {len(expected)}")
    return _same_pieces(expected, actual, algebra)


def _same_pieces(expected: Region, actual: Region, algebra: Algebra) -> Comparison:
    """Matches each interval with an equal one on the other side."""
    left, unsure = list(actual), None
    for piece in expected:
        found = [_same_piece(piece, other, algebra) for other in left]
        match = next((k for k, c in enumerate(found) if c.verdict is RIGHT), None)
        if match is None:
            unsure = next((c for c in found if c.verdict is UNDECIDED), None)
            return unsure or Comparison(WRONG, "another interval")
        left.pop(match)
    return Comparison(RIGHT, "equal intervals")


def _same_piece(expected: Piece, actual: Piece, algebra: Algebra) -> Comparison:
    if (expected.has_low, expected.has_high) != (actual.has_low, actual.has_high):
        return Comparison(WRONG, "other brackets")
    for low, other in ((expected.low, actual.low), (expected.high, actual.high)):
        if low == other:
            continue
        if "oo" in (low.lstrip("-"), other.lstrip("-")):
            return Comparison(WRONG, "another end")
        found = compare(low, other, algebra)
        if found.verdict is not RIGHT:
            return found
    return Comparison(RIGHT, "equal ends")


def split_parts(answer: str) -> Parts:
    """Splits a tuple, interval, set or bare list into its parts; other answers are one part. `a \\pm b` is two."""
    text = value_of(plain(answer))
    named = re.fullmatch(r"[A-Za-z]\s*(?:=|\\in(?![a-z]))\s*([^=]+)", text)  # x = 1, 2 and x \in [1, 2]
    text = named[1].strip() if named is not None else text
    opening = next((o for o in _BRACKETS if text.startswith(o)), "")
    closing = next((c for c in _BRACKETS.values() if text.endswith(c)), "")
    inner = text[len(opening) : len(text) - len(closing)]
    opening, closing = ("(", ")") if (opening, closing) == ("\\langle", "\\rangle") else (opening, closing)
    if not (opening and closing and _is_one_group(inner)):
        opening, closing, inner = "", "", text
    pieces = _top_level(inner, words=not opening)
    if opening and len(pieces) == 1 and opening != "\\{":
        return Parts("", "", tuple(_spread(text)))
    return Parts(opening, closing, tuple(s for piece in pieces for s in _spread(piece)))


def _is_one_group(inner: str) -> bool:
    """Whether the outer brackets match each other, unlike in `(1, 2) \\cup (3, 4)`."""
    depth = 0
    for token in re.findall(r"\\[{}]|[()\[\]]", inner):
        depth += 1 if token in ("(", "[", "\\{") else -1
        if depth < 0:
            return False
    return depth == 0


def _top_level(text: str, *, words: bool) -> list[str]:
    """The pieces between commas, and between "and" and "or" of a bare list, outside all brackets."""
    pieces, depth, start, at = [], 0, 0, 0
    thousands = words and re.fullmatch(r"-?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text) is not None
    separator = re.compile(r",(?:\s*(?:and|or)\b)?|;|\b(?:and|or)\b" if words else r",")
    while at < len(text) and not thousands:
        if text[at] == "\\" and text[at : at + 2] not in ("\\{", "\\}"):
            at += 2
            continue
        if text[at] in "([{":
            depth += 1
        elif text[at] in ")]}":
            depth -= 1
        match = separator.match(text, at) if depth == 0 else None
        if match is not None and not (match.group()[0].isalpha() and at and text[at - 1].isalnum()):
            pieces.append(text[start:at])
            start = at = match.end()
            continue
        at += 1
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if piece.strip()]


def _spread(piece: str) -> list[str]:
    """`1 \\pm \\sqrt{2}` as both of its values."""
    if piece.count("\\pm") != 1:
        return [piece]
    return [piece.replace("\\pm", "+").lstrip("+ "), piece.replace("\\pm", "-")]


def _by_parts(expected: Parts, actual: Parts, algebra: Algebra) -> Comparison:
    if len(expected.parts) != len(actual.parts):
        if _is_one_in_forms(expected, actual, algebra):
            return Comparison(RIGHT, "one value in several forms")
        return Comparison(WRONG, f"{len(actual.parts)} parts, not {len(expected.parts)}")
    names = assignments(expected.parts), assignments(actual.parts)
    if None not in names and names[0].keys() == names[1].keys():  # type: ignore[union-attr]
        return _in_order(list(names[0].values()), [names[1][name] for name in names[0]], algebra)  # type: ignore
    if expected.opening in _UNORDERED and actual.opening in _UNORDERED:
        return _in_any_order(expected.parts, actual.parts, algebra)
    if (expected.opening, expected.closing) != (actual.opening, actual.closing) and "" not in (
        expected.opening,
        actual.opening,
    ):
        return Comparison(WRONG, "other brackets")
    return _in_order(expected.parts, actual.parts, algebra)


def _is_one_in_forms(expected: Parts, actual: Parts, algebra: Algebra) -> bool:
    """Whether one side is a bare list of forms, each equal to the only part of the other: `2.5 or \\frac{5}{2}`."""
    one, forms = (expected, actual) if len(expected.parts) == 1 else (actual, expected)
    if len(one.parts) != 1 or forms.opening or len(forms.parts) > 3:
        return False
    pairs = ((one.parts[0], form) if one is expected else (form, one.parts[0]) for form in forms.parts)
    return all(compare(gold, answer, algebra).verdict is RIGHT for gold, answer in pairs)


def _in_order(expected: Sequence[str], actual: Sequence[str], algebra: Algebra) -> Comparison:
    undecided = None
    for w, g in zip(expected, actual, strict=True):
        found = compare(w, g, algebra)
        if found.verdict is WRONG:
            return found
        if found.verdict is UNDECIDED:
            undecided = undecided or found
    return undecided or Comparison(RIGHT, "equal part by part")


def _in_any_order(expected: Sequence[str], actual: Sequence[str], algebra: Algebra) -> Comparison:
    """Matches every gold part with a different part of the answer."""
    exact = [[read_number(part) for part in parts] for parts in (expected, actual)]
    if all(number is not None for numbers in exact for number in numbers):
        values = [sorted(number.value for number in numbers if number is not None) for numbers in exact]
        return Comparison(RIGHT if values[0] == values[1] else WRONG, "the same numbers, or not")
    if len(expected) > MAX_PARTS:
        return Comparison(UNDECIDED, f"more than {MAX_PARTS} parts")
    left = list(actual)
    for part in expected:
        found = [compare(part, other, algebra) for other in left]
        match = next((k for k, c in enumerate(found) if c.verdict is RIGHT), None)
        if match is None:
            return next((c for c in found if c.verdict is UNDECIDED), Comparison(WRONG, "a part is missing"))
        left.pop(match)
    return Comparison(RIGHT, "equal part by part")
