"""Names before a value: of `x = 5`, `(p,q) = (3,2)`, "n is 34", `6 \\cdot 7 = 42` the value alone.

An equation that is still to be solved, `2x = 5` or `x^2 = 3`, names nothing: its right side is not its answer.
"""

from __future__ import annotations

import re

_LETTER = r"[A-Za-z]'{0,2}(?:_(?:\{\w+\}|\w))?"
_SYMBOL = rf"(?:{_LETTER}|\\(?!frac|sqrt|text)[a-zA-Z]+(?:_(?:\{{\w+\}}|\w))?)"
_NAMED = re.compile(
    rf"{_SYMBOL}(?:\^\{{?-1\}}?)?(?:\s*\([^()=]{{1,20}}\))?"  # x, a_1, \theta, f(2), P(A), f^{-1}(x)
    rf"|\(\s*{_SYMBOL}(?:\s*,\s*{_SYMBOL})+\s*\)|{_SYMBOL}(?:\s*,\s*{_SYMBOL})+"  # (p, q)
    r"|m?\s*\\(?:angle|triangle|overline|widehat)\s*\{?\s*[A-Z]{1,4}\s*\}?"  # \angle ABC
    r"|\|?[A-Z]{2,4}\|?|\[[A-Z]{3,4}\]"  # AB
    r"|(?=.*[A-Za-z]{3})[A-Za-z][A-Za-z '()-]*",  # number of apples
)
_LETTERS = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])|(?<=\d)[A-Za-z](?![A-Za-z])")
_TRANSCENDENT = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|det|gcd|lcm|max|min|arg|dim|Pr|lim|sum|int|binom)\b|[|!]"
)
_IS = re.compile(
    r"(?P<name>[^=]*[A-Za-z'}]) (?:is|are|equals|was|will be|is equal to)(?: equal to)?:? (?P<value>\S.*)", re.DOTALL
)
_COLON = re.compile(r"(?P<name>[A-Za-z][A-Za-z ]{2,40}): ?(?P<value>\S.*)", re.DOTALL)
_SIDE = re.compile(r"\\.|[{}]|(?<![<>!:=])=(?!=)", re.DOTALL)
_MAY_NAME = re.compile(r"=|:|\\(?:approx|simeq)| (?:is|are|equals|was|be) ")
_ABOUT = re.compile(r"\\approx(?![a-zA-Z])|\\simeq(?![a-zA-Z])")
_LIST = re.compile(r",|;|\b(?:and|or)\b")


def value_of(text: str, *, loosely: bool = False) -> str:
    """The value that a text names, or the text itself.

    Args:
        text: in the one spelling of `plain`.
        loosely: whether what stands before the value may be an expression of several unknowns, as in `x + y = 5`;
            of an answer to a question for a value, not of a line or a circle.
    """
    if not _MAY_NAME.search(text):
        return text
    exact = [side.strip() for side in _ABOUT.split(text)]
    text = next((side for side in exact if side and not _NAMED.fullmatch(side)), text)
    for pattern in (_IS, _COLON):
        match = pattern.fullmatch(text)
        if match is not None and _is_name(match["name"].strip()):
            return value_of(match["value"].strip(), loosely=loosely)
    sides = _sides(text)
    if len(sides) < 2 or not all(sides):
        return text
    if len(sides) == 2 and _NAMED.fullmatch(sides[1]) and not _LETTERS.search(sides[0]):
        return sides[0]  # 5 = x
    if any(_LIST.search(side) for side in sides[1:-1]) or not _is_quantity(sides[0], loosely):
        return text
    return sides[-1]


def is_equation(text: str) -> bool:
    """Whether a text has an equals sign outside of all braces."""
    return "=" in text and len(_sides(text)) > 1


def is_unsolved(text: str) -> bool:
    """Whether a text is an equation in one unknown that nobody has solved, as `2x = 5` is."""
    sides = _sides(text)
    return len(sides) == 2 and all(sides) and value_of(text, loosely=True) == text


def _sides(text: str) -> list[str]:
    """What stands around the equals signs outside of all braces."""
    sides, depth, start = [], 0, 0
    for match in _SIDE.finditer(text):
        mark = match[0]
        depth += (mark == "{") - (mark == "}")
        if mark == "=" and depth == 0:
            sides.append(text[start : match.start()].strip())
            start = match.end()
    return [*sides, text[start:].strip()]


def assignments(parts: tuple[str, ...]) -> dict[str, str] | None:
    """Name → value of `x = 3` and `y = 2`; None where a part is no such assignment, or a name comes twice."""
    found: dict[str, str] = {}
    for part in parts:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not re.fullmatch(_SYMBOL, name) or name in found or "=" in value:
            return None
        found[name] = value
    return found


def _is_name(text: str) -> bool:
    return _NAMED.fullmatch(text) is not None or re.fullmatch(r"[A-Za-z\\][\w ,'{}()\\$^-]*", text) is not None


def _is_quantity(side: str, loosely: bool) -> bool:
    """A name or a number to be worked out; loosely, also an expression of several unknowns."""
    if _NAMED.fullmatch(side):
        return True
    bare = re.sub(r"\\[a-zA-Z]+", " ", side)
    if _LIST.search(side):
        return False
    if not re.search(r"[A-Za-z]", bare):
        return True
    if not loosely:
        return False
    return _TRANSCENDENT.search(side) is not None or len(set(re.findall(r"[A-Za-z]", bare))) > 1
