"""Digits that are no plain number: times of day, and numerals in other bases."""

from __future__ import annotations

import re

from stepcredit.grading.notation.names import value_of
from stepcredit.grading.notation.numbers import read_number
from stepcredit.grading.notation.spelling import plain

_BASE = re.compile(r"\(?(?P<digits>\d[0-9A-Z]*)\)?\s*(?:_\s*\{?\s*|(?:in )?base )(?P<base>\d{1,2}|[a-z]{3,7})\s*\}?")
_TIME = re.compile(r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s*(?:(?P<half>[ap])\.?\s?m\.?)?", re.IGNORECASE)


def equal_times(gold: str, answer: str) -> bool | None:
    """`4:30 p.m.`: hours and minutes must agree, the half of the day where both give it."""
    wanted, given = _time(gold), _time(answer)
    if wanted is None or given is None:
        return None
    halves = {half for _, half in (wanted, given) if half}
    return wanted[0] == given[0] and len(halves) < 2


def _time(answer: str) -> tuple[tuple[int, int], str] | None:
    """((hour, minute), "a" or "p" or "") of a time of day; a bare number is none."""
    match = _TIME.fullmatch(value_of(plain(answer)))
    if match is None or not (match["minute"] or match["half"]):
        return None
    return (int(match["hour"]), int(match["minute"] or 0)), (match["half"] or "").lower()


def equal_numerals(gold: str, answer: str) -> bool | None:
    """`4343_6`: the digits must agree, and the base where both sides give one."""
    wanted, given = _numeral(gold), _numeral(answer)
    if wanted is None and given is None:
        return None
    if wanted is not None and given is not None:
        return wanted == given
    if wanted is not None:
        return re.sub(r"[\s,]", "", value_of(plain(answer))) == wanted[0]
    number = read_number(gold)
    if given is None or number is None:
        return None
    try:
        return number.value == int(given[0], int(given[1]))
    except ValueError:  # a digit that the base does not have
        return False


def _numeral(answer: str) -> tuple[str, str] | None:
    """(digits, base) of a numeral that gives its base."""
    match = _BASE.fullmatch(value_of(plain(answer)))
    if match is None:
        return None
    base = read_number(match["base"])  # in words, too
    return (match["digits"], str(base.value)) if base is not None else None
