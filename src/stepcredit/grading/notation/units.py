"""Words and signs after a number: canonical names of units, and scale words."""

from __future__ import annotations

_NO_UNITS = "pi e i and or to mod not times plus minus over sqrt sin cos tan log ln exp dots cdots if for is"
NO_UNITS = frozenset(_NO_UNITS.split())
"""Words after a number that are not units."""

SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

KNOWN_UNITS = {
    alias: name
    for name, aliases in {
        "dollar": "$ dollar usd",
        "cent": "cent ¢ penny pennie",
        "euro": "€ euro",
        "pound": "£",
        "second": "second sec s",
        "minute": "minute min",
        "hour": "hour hr h",
        "day": "day",
        "week": "week",
        "month": "month",
        "year": "year yr",
        "millimeter": "millimeter millimetre mm",
        "centimeter": "centimeter centimetre cm",
        "meter": "meter metre m",
        "kilometer": "kilometer kilometre km",
        "inch": "inch inche in",
        "foot": "foot feet ft",
        "yard": "yard yd",
        "mile": "mile mi",
        "gram": "gram g",
        "kilogram": "kilogram kg",
        "ounce": "ounce oz",
        "liter": "liter litre l",
        "degree": "degree ^\\circ",
        "radian": "radian rad",
        "percent": "percent",
    }.items()
    for alias in aliases.split()
}


def is_unit(word: str) -> bool:
    """Whether a word is a known unit, in the plural, too."""
    word = word.lower()
    return word in KNOWN_UNITS or word.removesuffix("s") in KNOWN_UNITS
