"""Numbers, exactly: what `$1,234.50`, `-3/4`, `2\\frac12`, `1.5 \\times 10^6`, `25%` and `90^\\circ` are worth.

No floating point, no tolerance: 0.333 is not 1/3, and 100 is not 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from stepcredit.grading.notation.names import value_of
from stepcredit.grading.notation.spelling import plain
from stepcredit.grading.notation.units import KNOWN_UNITS, NO_UNITS, SCALES

MAX_CHARS = 300
MAX_EXPONENT = 300

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"""
    (?P<before>[$£€¥₹]?\s*) (?P<sign>[-+]?) \s* (?P<after>[$£€¥₹]?) \s*
    (?:
        (?P<whole>\d+)? \s* \\frac\{{ \s*(?P<num>-?\d[\d,]*)\s* \}}\{{ \s*(?P<den>-?\d[\d,]*)\s* \}}
      | (?:(?P<mixed>\d+)\s+)? (?P<top>\d[\d,]*) \s?/\s? (?P<bottom>\d[\d,]*)
      | (?P<head>\d*)\.(?P<still>\d*)\\overline\{{(?P<repeating>\d+)\}}
      | (?P<decimal>{_DECIMAL})
        (?: \s* (?:\\times|\\cdot|\*|x) \s* 10 \s* (?:\^|\*\*) \s* \{{?\s*(?P<power>[-+]?\d+)\s*\}}?
          | [eE](?P<exponent>[-+]?\d+) )?
    )
    \s* (?P<rest>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
_UNIT = re.compile(r"(?P<words>[^\W\d_](?:[^\W\d_]|[.'/-])*(?: (?:[^\W\d_]|[.'/-])+){0,4})\s*(?:\^\s*\{?[23]\}?)?")
_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {word: value for value, word in enumerate(_TO_NINETEEN.split())} | {
    word: 10 * k for k, word in enumerate(_TENS.split(), 2)
}
_PARTS = {"half": 2, "third": 3, "quarter": 4}
_AND_A_HALF = re.compile(r"(\d+) and (?:a|one) (half|third|quarter)\b", re.IGNORECASE)
_IN_WORDS = re.compile(r"([a-z]+)(?:[- ]([a-z]+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Quantity:
    """A number as it was written.

    Attributes:
        value: its exact value, without percent sign and scale word.
        scale: what a word behind it multiplies it by ("million"), or 1.
        percent: whether it bears a percent sign.
        unit: its unit where that is a known one, by one name; else None.
    """

    value: Fraction
    scale: int = 1
    percent: bool = False
    unit: str | None = None

    @property
    def readings(self) -> frozenset[Fraction]:
        """The values that it may stand for: with and without its scale word."""
        return frozenset({self.value, self.value * self.scale})


def read_number(answer: str) -> Quantity | None:
    """The number that an answer is, or None where it is anything else, or more than one number.

    `x = 5` is 5. A trailing unit in words is allowed, a variable is not: `5 cm` is a number, `5x` is none.
    """
    if len(answer) > MAX_CHARS:
        return None
    text = _AND_A_HALF.sub(lambda m: f"{m[1]} 1/{_PARTS[m[2].lower()]}", value_of(plain(answer)))
    match = _NUMBER.fullmatch(text)
    if match is None:
        return _in_words(text)
    value = _magnitude(match)
    if value is None:
        return None
    rest = _rest(match["rest"].strip().rstrip(".,;").strip())
    if rest is None:
        return None
    scale, percent, unit = rest
    currency = (match["before"].strip() or match["after"]) or None
    unit = unit or (KNOWN_UNITS.get(currency) if currency else None)
    return Quantity(-value if match["sign"] == "-" else value, scale, percent, unit)


def _in_words(text: str) -> Quantity | None:
    """`twelve` and `twenty-five`."""
    match = _IN_WORDS.fullmatch(text)
    if match is None:
        return None
    if text.lower() in ("half", "one half", "a half"):
        return Quantity(Fraction(1, 2))
    first, second = _NUMBER_WORDS.get(match[1].lower()), _NUMBER_WORDS.get((match[2] or "zero").lower())
    if first is None or second is None or (match[2] and not (first >= 20 and 0 < second < 10)):
        return None
    return Quantity(Fraction(first + second))


def _magnitude(match: re.Match[str]) -> Fraction | None:
    """The value without its sign."""
    part = match.groupdict()
    if part["num"] is not None:
        return _mixed(part["whole"], part["num"], part["den"])
    if part["top"] is not None:
        return _mixed(part["mixed"], part["top"], part["bottom"])
    if part["repeating"] is not None:
        head, still, repeating = part["head"] or "0", part["still"], part["repeating"]
        nines = (10 ** len(repeating) - 1) * 10 ** len(still)
        return Fraction(int(head + still + repeating) - int(head + still), nines)  # 0.1\overline{6} = (16 - 1) / 90
    power = int((part["power"] or part["exponent"] or "0")[:10])
    if abs(power) > MAX_EXPONENT:
        return None
    return Fraction(re.sub(r"[,\s]", "", part["decimal"])) * Fraction(10) ** power


def _mixed(whole: str | None, top: str, bottom: str) -> Fraction | None:
    below = int(bottom.replace(",", ""))
    above = int(top.replace(",", ""))
    if below == 0 or (whole and (above < 0 or below < 0)):
        return None
    return int(whole or 0) + Fraction(above, below)


def _rest(rest: str) -> tuple[int, bool, str | None] | None:
    """(scale, percent sign, known unit) of what follows the digits; None where it is no unit."""
    if not rest:
        return 1, False, None
    if rest.startswith("^\\circ"):
        return (1, False, "degree") if rest[6:].strip() in ("", "C", "F") else None
    percent = rest.startswith("%")
    rest = rest.removeprefix("%").strip()
    if percent and not rest:
        return 1, True, "percent"
    match = _UNIT.fullmatch(rest)
    if match is None:
        return None
    words = [w.strip(".'").lower() for w in match["words"].split()]
    if NO_UNITS & set(words) or (len(words[0]) == 1 and words[0].isascii() and words[0] not in KNOWN_UNITS):
        return None
    if words[0] in ("percent", "percents"):
        return 1, True, "percent"
    scale = SCALES.get(words[0], 1)
    named = words[1:] if scale > 1 else words
    unit = KNOWN_UNITS.get(named[0].removesuffix("s") if len(named[0]) > 1 else named[0]) if named else None
    return scale, percent, unit


def equal_numbers(gold: Quantity, answer: Quantity) -> bool:
    """Whether an answer is worth the gold one.

    A percent sign on one side alone is read both ways: 20% answers 20 and 0.2. Both sides bare, or both with
    the sign, must be equal as they stand, so that a factor of 100 never passes. Units count only where both
    are known and differ; a scale word ("2 million") may be part of the number or of the unit.
    """
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.readings & answer.readings:
        return True
    if gold.percent == answer.percent:
        return False
    hundredth = Fraction(1, 100)
    if gold.percent:
        return gold.value * hundredth in answer.readings
    return answer.value * hundredth in gold.readings
