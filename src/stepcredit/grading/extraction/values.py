"""Selection of a value in a text: the first with the words that belong to it, or the last."""

from __future__ import annotations

import re

from stepcredit.grading.extraction.runs import word_behind
from stepcredit.grading.notation.units import is_unit

_BOUND = re.compile(r"(?:\bnot|\b(?:more|less|fewer|greater) than|[<>≤≥])\s*$", re.IGNORECASE)
_GOES_ON = re.compile(
    r"\s*(?:and (?:a|one) (?:half|quarter|third)\b|(?:[a-z]+ )?(?:to|out of) (?:about )?[$€£]?\d[\d,.]*"
    r"|(?:and|or) [$€£]?\d[\d,.]*)",
    re.IGNORECASE,
)
_COMPOUND = re.compile(r"\s?([A-Za-z]+),?(?: and)? [$€£]?\d[\d,.]* ?([A-Za-z]+)")
_SIDES = re.compile(r"[=<>≤≥]")
_HOLDS_VALUE = re.compile(r"[^\W_a-zA-Z]|[√∞]|\\(?:pi|infty)|\bpi\b")
_RANGE = re.compile(r"\d\s?-\s?\$?\d[\d,.]*$|\s[-+*/^×÷]\s|\s(?:x|times|plus|minus|\\times|\\cdot)\s")
_LAST_NUMBER = re.compile(
    r"""
    (?:(?<![\w)\]}%])-)? (?:\\?[$£€]\s?)? (?:(?<=[$£€])-)?
    (?: (?: \d{1,3}(?:(?:,|\{,\}|,\\!|\\,|\u00a0)\d{3})+(?!\d) | \d+ ) (?:\.\d+)? | (?<![\d.])\.\d+ )
    (?: (?:[eE]|\s?(?:x|×|\*|\\times)\s?10\^)[-+]?\d+ )?
    (?: \s?/\s?\d+(?![\d/]) | \s\d+/\d+ )?
    (?: \s?\\?% | \s?(?:hundred|thousand|million|billion|trillion|dozen|percent)\b )?
    """,
    re.VERBOSE,
)
_PLAINLY = re.compile(
    r"""
    (?: (?<!minus)(?<!negative)(?<!times)(?<!plus)(?<=[A-Za-z]{2}) | = | (?<![ ]): ) [ ]
    (?P<number> -?\$? (?:\d{1,3}(?:,\d{3})+|\d+) (?:\.\d+)? )
    (?= [.!?]?\s*$ | [.!?]?\n | [ ](?!times|plus|minus|pi|sqrt|per|log)[a-z]{2} )
    """,
    re.VERBOSE,
)


def with_its_words(text: str, run: str) -> str:
    """The first run of a text with the words around it that make it something else than its number.

    A bound ("more than 5"), a range ("5 to 6"), a choice ("5 or 6"), a share ("3 out of 4"), "2 and a half", and a
    quantity in two units ("3 hours 20 minutes").
    """
    start = text.find(run)
    end = start + len(run)
    goes_on = _GOES_ON.match(text, end)
    number = re.search(r"[A-Za-z]+$", run)
    compound = _COMPOUND.match(text, start + number.start() if number is not None else end)
    if goes_on is None and compound is not None and all(is_unit(word) for word in compound.groups()):
        goes_on = compound
    bound = _BOUND.search(text, 0, start)
    return text[bound.start() if bound is not None else start : goes_on.end() if goes_on is not None else end].strip()


def plain_number(text: str) -> str | None:
    """The last number of a short text where it stands between words as they mostly do: the quick way of `runs`."""
    match = _PLAINLY.search(text)
    if match is None or any(digit.isdigit() for digit in text[match.end() :]):
        return None
    return match["number"] + word_behind(text, match.end())


def last_value(run: str) -> str:
    """What the last run of a free text is worth: its last side, and of a sum or a range there the last number."""
    if run[:1] == "(" and run[-1:] == ")" and "," not in run:
        run = run[1:-1]
    side = _SIDES.split(run)[-1].strip()
    if _HOLDS_VALUE.search(side) and _RANGE.search(side.lstrip("+- ")) is None:
        return side
    *_, last = [None, *_LAST_NUMBER.finditer(run)]
    return last[0].strip() if last is not None else side
