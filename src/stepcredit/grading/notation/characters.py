"""Characters: the many that mean one thing, and those that the grader does not know.

`folded` makes one character of one, so that a minus is `-` whoever typed it. `spelled` writes what is left in LaTeX:
`2½` as `2\\frac{1}{2}`, `√5` as `\\sqrt{5}`, `2¹⁰` as `2^{10}`. What neither knows is left as it is, and an answer
that holds such a character is never called wrong because of it.
"""

from __future__ import annotations

import re
import unicodedata

BLANK = "\u00a0"
"""What every blank but the plain one is folded to: it may stand between the digits of one number."""

_MINUS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u02d7\u2796\ufe58\ufe63\uff0d"
_ALIKE = {
    "⁄": "/",
    "∕": "/",
    "∶": ":",
    "∗": "*",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "。": ".",
    "、": ",",
    "∣": "|",
}
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufe0e\ufe0f\ufeff"
_IN_LATEX = {
    "×": "\\times ", "⨯": "\\times ", "✕": "\\times ", "÷": "/", "·": "\\cdot ", "⋅": "\\cdot ", "∙": "\\cdot ",
    "±": "\\pm ", "∓": "\\mp ", "∞": "\\infty ", "≤": "\\le ", "⩽": "\\le ", "≦": "\\le ", "≥": "\\ge ", "⩾": "\\ge ",
    "≧": "\\ge ", "≠": "\\ne ", "≈": "\\approx ", "≅": "\\cong ", "≡": "\\equiv ", "∪": "\\cup ", "∩": "\\cap ",
    "∈": "\\in ", "∉": "\\notin ", "⊂": "\\subset ", "⊆": "\\subseteq ", "∅": "\\emptyset ", "∖": "\\setminus ",
    "°": "^\\circ ", "º": "^\\circ ", "˚": "^\\circ ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ",
    "⟨": "\\langle ", "⟩": "\\rangle ", "∠": "\\angle ", "∑": "\\sum ", "∏": "\\prod ", "∫": "\\int ", "…": "\\dots ",
    "∧": "\\land ", "∨": "\\lor ", "→": "\\to ", "⇒": "\\Rightarrow ", "ϕ": "\\phi ", "′": "'", "″": "''",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho - sigma tau upsilon phi "
    "chi psi omega"
)
_LETTERS = {chr(0x3B1 + k): f"\\{name} " for k, name in enumerate(_GREEK.split()) if name != "-"} | {
    upper: f"\\{unicodedata.name(upper).rpartition(' ')[2].capitalize()} " for upper in "ΓΔΘΛΞΠΣΦΨΩ"
}
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣʸᵃᵇᶜᵈᵉᵏᵐᵗ", "0123456789+-()nixyabcdekmt", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢₓₐₑₖₘₜ", "0123456789+-()nixaekmt", strict=True))

_SAME_BUT_FOR_LOOKS = frozenset({"<wide", "<narrow", "<font", "<small", "<compat"})
"""How Unicode calls forms of a character that mean no more than itself; `①` and `ᶠ` are none."""

_TABLE = str.maketrans({**_IN_LATEX, **_LETTERS, **{r: f"{command}\u221a" for r, command in _ROOTS.items()}})
_UNDER_ROOT = re.compile(
    r"\\sqrt(\[[34]\])?√\s*(?:\((?P<group>[^()]*)\)|(?P<brace>\{)|(?P<bare>\d+(?:\.\d+)?|[A-Za-z]|\\[a-zA-Z]+(?![a-zA-Z{])))?"
)
_SMALL_FRACTION = re.compile(f"([{''.join(_RAISED)}]+)/([{''.join(_LOWERED)}]+)")
_SCRIPTS = (
    (re.compile(f"[{''.join(_RAISED)}]+"), _RAISED, "^"),
    (re.compile(f"[{''.join(_LOWERED)}]+"), _LOWERED, "_"),
)


class _Folding(dict[int, str | None]):
    """What `str.translate` asks for each character, found out once."""

    def __missing__(self, code: int) -> str | None:
        self[code] = found = _fold(chr(code))
        return found


def _fold(character: str) -> str | None:
    if character in _MINUS:
        return "-"
    if character in _ALIKE:
        return _ALIKE[character]
    if character in _INVISIBLE:
        return None
    if unicodedata.category(character) == "Zs":
        return " " if character == " " else BLANK
    if character in _RAISED or character in _LOWERED or character in _IN_LATEX:
        return character
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if unicodedata.decomposition(character).partition(">")[0] not in _SAME_BUT_FOR_LOOKS:
        return character
    compatible = unicodedata.normalize("NFKC", character)
    return compatible if len(compatible) == 1 and (compatible.isascii() or compatible in _LETTERS) else character


_FOLDING = _Folding()


def folded(text: str) -> str:
    """The text with one character for all that mean it: minus signs, blanks, full-width forms, digits, quotes.

    Characters that cannot be seen are dropped. No character becomes two.
    """
    return text if text.isascii() else text.translate(_FOLDING)


def spelled(text: str) -> str:
    """A folded text with LaTeX for the signs of mathematics."""
    if text.isascii():
        return text
    text = _SMALL_FRACTION.sub(lambda m: f"\\frac{{{_said(m[1], _RAISED)}}}{{{_said(m[2], _LOWERED)}}}", text)
    for run, table, sign in _SCRIPTS:
        text = run.sub(lambda m, table=table, sign=sign: f"{sign}{{{_said(m[0], table)}}}", text)  # type: ignore[misc]
    text = "".join(_vulgar(c) for c in text) if any(_is_vulgar(c) for c in text) else text
    return _UNDER_ROOT.sub(_root, text.translate(_TABLE))


def unknown(text: str) -> str | None:
    """The first character that is neither plain ASCII nor a blank, or None."""
    return next((c for c in text if not (" " <= c <= "~" or c in "\t\n\r" or c == BLANK)), None)


def _said(run: str, table: dict[str, str]) -> str:
    return "".join(table[c] for c in run)


def _is_vulgar(character: str) -> bool:
    return not character.isascii() and unicodedata.decomposition(character).startswith("<fraction>")


def _vulgar(character: str) -> str:
    """`½` as `\\frac{1}{2}`."""
    if not _is_vulgar(character):
        return character
    above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
    return f"\\frac{{{above}}}{{{below}}}" if below else character


def _root(match: re.Match[str]) -> str:
    """A root with braces around what stands under it."""
    name = f"\\sqrt{match[1] or ''}"
    if match["brace"] is not None:
        return f"{name}{{"
    under = match["group"] if match["group"] is not None else match["bare"]
    return f"{name}{{{under}}}" if under is not None else f"{name} "
