"""Equations in worked solutions, checked by a calculator: "18 + 4 = 22 eggs" holds, "2+57=61" does not.

An equation is two neighbouring sides of "=" on one line: the longest arithmetic expression that ends the text before
it, and the one that begins the text after it. Operators are + - * / x × ÷ · and brackets; numbers may bear $, £, €, %,
thousands separators and units in words ("7 days/week * 5 weeks"). Calculator notes `<<18+4=22>>` are equations too.

What is not certain is undecided, never false: variables, powers, approximations, remainders, numbers in words next to
the expression ("twice 5 + 3"), sums of different measures (an hour and 30 minutes), text that is an operand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from stepcredit.grading.expressions import (
    Expression,
    Token,
    Unreadable,
    clause_before,
    read_longest_suffix,
    read_prefix,
    tokens_of,
)

_NOTE = re.compile(r"<<([^<>]*)>>")
_BULLET = re.compile(r"^\s*(?:[-*•+]\s+|\d{1,2}[.)]\s+|step\s+\d+\s*[:.]\s*)+", re.IGNORECASE)
_DIVISION = re.compile(r"/(?![^\W\d_])|÷")
_ANSWER = re.compile(r"\s*####")
_FAMILIES = (
    {"second", "minute", "hour", "day", "week", "month", "year"},
    {"cent", "¢", "dollar", "dime", "nickel", "quarter", "penny", "pennies"},
    {"inch", "inches", "foot", "feet", "yard", "mile", "meter", "metre", "kilometer", "centimeter", "cm", "km", "mm"},
    {"ounce", "oz", "pound", "lb", "gram", "kilogram", "kg", "ton"},
    {"cup", "pint", "quart", "gallon", "liter", "litre", "ml"},
)
_DOUBLE = 9
"""More decimal places than these are the tail of a floating-point number."""
NO_EQUATION, ANSWER = "words", "answer"
"""Kinds of steps without an equation: the line `#### 22`, and any other."""


@dataclass(frozen=True)
class Equation:
    """An equation of a worked solution.

    Attributes:
        text: the line, or the note, where it stands.
        operators: those of its two sides, sorted, each once: "+*".
        holds: whether it is true; None: undecided.
    """

    text: str
    operators: str
    holds: bool | None


def equations(text: str) -> list[Equation]:
    """Returns the equations of a text that have an operator, line by line, those of notes after those of their line.

    >>> [e.holds for e in equations("He has 18 + 4 = 22 eggs, so 22 / 2 = 12.")]
    [True, False]
    """
    found: list[Equation] = []
    for line in text.splitlines():
        notes = _NOTE.findall(line)
        for part in [_BULLET.sub("", _NOTE.sub("", line), count=1), *notes]:
            found += _equations_of_line(part)
    return found


def false_steps(steps: Sequence[str]) -> list[bool]:
    """Returns which steps have a false equation."""
    return [any(e.holds is False for e in equations(step)) for step in steps]


def step_kind(step: str) -> str:
    """Returns the kind of a step: the operators of its equations ("+", "*-", …), `ANSWER`, or `NO_EQUATION`."""
    operators = "".join(sorted({o for e in equations(step) for o in e.operators}))
    return operators or (ANSWER if _ANSWER.match(step) else NO_EQUATION)


def _equations_of_line(line: str) -> list[Equation]:
    sides = [tokens_of(side) for side in line.split("=")]
    found = []
    for k, (before, after) in enumerate(pairwise(sides), 2):
        equation = _equation(line, before, after, is_run_on=k < len(sides))
        if equation is not None:
            found.append(equation)
    return found


def _equation(line: str, before: list[Token], after: list[Token], is_run_on: bool) -> Equation | None:
    """Returns the equation of two sides; None where neither has an operator."""
    operators = "".join(sorted({t.text for side in (before, after) for t in side if t.kind == "operator"}))
    try:
        left, start = read_longest_suffix(before)
        right = read_prefix(after)
        if not left.operators | right.operators:
            raise Unreadable
        clause_before(before, start)
        holds = _holds(left, right, is_run_on)
    except Unreadable:
        return Equation(line, operators, None) if operators else None
    operators = "".join(sorted(left.operators | right.operators))
    return Equation(line, operators, True if holds else None if _is_uncertain(line, left, right) else False)


def _holds(left: Expression, right: Expression, is_run_on: bool) -> bool:
    """Whether two sides are equal in some reading.

    A percent sign divides by 100 or is a unit ("5 / 20 * 100 = 25%"); in a run-on such as "2 + 3 = 5 + 4 = 9" the first
    number after "=" is the result.
    """
    results = [(right.values, right.places)]
    if is_run_on:
        results.append((right.first_values, right.first_places))
    return any(
        _equal(x, y, places, left.has_point) for ys, places in results for x in left.values for y in ys
    )  # fmt: skip


def _equal(exact: Fraction, written: Fraction, places: int | None, has_point: bool) -> bool:
    """Whether a result is exact, or rounded or cut to the decimal places in which it is written.

    Only numbers with a decimal point have a rounded result that is whole: 13 * 0.5 = 6 holds, 10 / 3 = 3 false.

    Args:
        exact, written: the two sides.
        places: decimal places of the result; None if it is an expression.
        has_point: whether the exact side has a number with a decimal point.
    """
    if exact == written or places is None:
        return exact == written
    if places > 0:
        return abs(exact - written) < Fraction(1, 10 ** min(places, _DOUBLE))
    return has_point and abs(exact - written) < 1


def _is_uncertain(line: str, left: Expression, right: Expression) -> bool:
    """Whether sides that differ may still be meant right.

    So it is where the left one is a number alone ("Area of 1 room = 11 * 11"), where the line has another division
    ("2 / 1/3"), in a result in cents ("$1 / 2 = 50 cents"), and where measures are mixed.
    """
    if not left.operators or len(_DIVISION.findall(line)) > 1 or _mixes_measures(left, right):
        return True
    in_cents = {"cent", "cents", "¢"} & (left.words | right.words)
    return bool(in_cents) and any(x in (100 * y, y / 100) for x in left.values for y in right.values)


def _mixes_measures(left: Expression, right: Expression) -> bool:
    """Whether a sum has two measures of one family: 1 hour + 30 minutes."""
    if not (left.operators | right.operators) & {"+", "-"}:
        return False
    words = {form for word in left.words | right.words for form in (word, word.removesuffix("s"))}
    return any(len({w.removesuffix("s") for w in family & words}) > 1 for family in _FAMILIES)
