"""Canonical spelling of LaTeX and plain text: `\\dfrac12`, `\\frac{1}{2}`, `\\left( \\tfrac 12 \\right)`.

Only the spelling changes, never the meaning, and never by evaluating anything.
"""

from __future__ import annotations

import functools
import re

from stepcredit.grading.notation.braces import group_end, group_ends
from stepcredit.grading.notation.characters import BLANK, folded, spelled

MAX_CHARS = 2_000
"""Maximum length of an answer; longer ones are not compared."""

_DROPPED = re.compile(
    r"(?<!\\)\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|,|;|:|>|quad|qquad|\s)(?![a-zA-Z])"
)
_TIGHT = re.compile(rf"\s*(?<!\\)\\!\s*|(?<=\d)(?:\\[,;: ]\s*|['{BLANK}])(?=\d{{3}}(?!\d))")
_GROUPS = re.compile(r"([-+$€£\s]*)(\d{1,3}(?: \d{3})+)(?!\d|\s*/)(.*)", re.DOTALL)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|(\d|[a-zA-Z]|\\[a-zA-Z]+))"
_BARE_ARGUMENTS = re.compile(rf"\\(frac|binom){_ARGUMENT}{_ARGUMENT}")
_BARE_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]{}]*\])?\s*(\d|[a-zA-Z]|\\[a-zA-Z]+(?![a-zA-Z{]))")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mbox|hbox|operatorname|emph|bf|rm"
    r"|underline|boldsymbol|bm|mathsf|mathtt|texttt|textsf|boxed|fbox)\s*\{"
)
_BARE_NAME = re.compile(r"(?<![\\a-zA-Z])(pi|theta|infinity|infty|inf|sqrt|sin|cos|tan|cot|sec|csc|log|ln)(?![a-zA-Z])")
_BARE_ROOT_OF = re.compile(r"\\sqrt\s*(\[[^\[\]{}]*\])?\s*\(([^()]*)\)")
_BARE_EXP = re.compile(r"(?<![a-zA-Z])\\?exp\s*\(([^()]*)\)")
_CASES = re.compile(r"\\begin\{cases\}([^&]*)\\end\{cases\}", re.DOTALL)
_POWER = re.compile(r"(?<=[\w)\]}])\s*\*\*\s*(?=[\w({\\-])")
_LOOKS = re.compile(
    r"\\(?:color|hspace\*?|vspace\*?|tag|label|phantom)\s*\{[^{}]*\}|\\(?:textcolor)\s*\{[^{}]*\}(?=\s*\{)"
)
_WORD_SIGN = re.compile(r"(?<![a-zA-Z\\])(?:minus|negative)\s+(?=[\d$.\\])")
_WORD_OPERATOR = re.compile(r"(?<=[\d)}])\s+(times|plus)\s+(?=[\d(\\])")
_SYNONYMS = (
    ("\\leq", "\\le"),
    ("\\geq", "\\ge"),
    ("\\neq", "\\ne"),
    ("\\leqslant", "\\le"),
    ("\\geqslant", "\\ge"),
    ("\\lbrace", "\\{"),
    ("\\rbrace", "\\}"),
    ("\\lbrack", "["),
    ("\\rbrack", "]"),
    ("\\lparen", "("),
    ("\\rparen", ")"),
    ("\\degrees", "^\\circ"),
    ("\\degree", "^\\circ"),
    ("\\infin", "\\infty"),
    ("\\varnothing", "\\emptyset"),
)
_SYNONYM = re.compile("|".join(re.escape(a) + r"(?![a-zA-Z])" for a, _ in sorted(_SYNONYMS, key=lambda p: -len(p[0]))))
_MEANT = dict(_SYNONYMS)
_NEEDED_BLANK = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])")
_FENCES = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))


@functools.lru_cache(maxsize=8192)
def plain(answer: str) -> str:
    """The answer in one spelling: no math fences, no sizing, `\\frac` for `\\dfrac`, one blank between words.

    Text commands lose their name and keep their words; `{,}` between digits becomes a comma.

    Args:
        answer: at most `MAX_CHARS` characters; of a longer one the rest is ignored.
    """
    text = unfenced(spelled(folded(answer[:MAX_CHARS])))
    text = (
        text.replace("{,}", ",")
        .replace("\\$", "$")
        .replace("\\%", "%")
        .replace("\\&", "&")
        .replace("~", " ")
        .replace("+/-", "\\pm ")
    )
    text = _TIGHT.sub("", text)
    text = _CASES.sub(lambda m: re.sub(r"\s*,?\s*\\\\\s*", ", ", m[1].strip().removesuffix("\\\\")), text)
    text = _LOOKS.sub(" ", text) if "\\" in text else text
    text = _GROUPS.sub(lambda m: m[1] + m[2].replace(" ", "") + m[3], text) if _GROUPS.fullmatch(text) else text
    text = _WORD_OPERATOR.sub(lambda m: "\\times " if m[1] == "times" else "+", _WORD_SIGN.sub("-", text))
    text = _BARE_EXP.sub(r"e^{\1}", _POWER.sub("^", text))
    text = _DROPPED.sub(" ", text)
    text = _FRACTION.sub(r"\\frac", text)
    text = _SYNONYM.sub(lambda m: _MEANT[m.group()] + " ", text)
    text = re.sub(r"\\log_(?:e(?![a-zA-Z])|\{e\})", r"\\ln ", text)
    text = _BARE_NAME.sub(lambda m: "\\infty " if m[1].startswith("inf") else f"\\{m[1]} ", text)
    text = _with_braces(_BARE_ROOT_OF.sub(lambda m: f"\\sqrt{m[1] or ''}{{{m[2]}}}", text))
    text = _without_text_commands(text)
    text = re.sub(r"\^\s*\{\s*\\circ\s*\}", r"^\\circ", text)
    return _as_set(re.sub(r"\s+", " ", text).strip())


def _as_set(text: str) -> str:
    """`{1, 2}` as `\\{1, 2\\}`, and `{5}` as `5`: bare braces around all of an answer."""
    if not text.startswith("{") or group_ends(text).get(0) != len(text):
        return text
    inner = text[1:-1].strip()
    return f"\\{{{inner}\\}}" if "," in inner else inner


def unfenced(text: str) -> str:
    """Without the `$…$`, `\\(…\\)` or `**…**` around all of it, and without a closing period."""
    while True:
        text = text.strip()
        if text.endswith(".") and not text.endswith("..."):
            text = text[:-1]
            continue
        for opening, closing in _FENCES:
            inner = text[len(opening) : len(text) - len(closing)]
            if _is_fenced(text, inner, opening, closing):
                text = inner
                break
        else:
            return text


def _is_fenced(text: str, inner: str, opening: str, closing: str) -> bool:
    if len(text) < len(opening) + len(closing) + 1 or not (text.startswith(opening) and text.endswith(closing)):
        return False
    bare = inner.replace("\\\\", "").replace(f"\\{opening}", "")
    return opening not in bare and closing not in bare


def _with_braces(text: str) -> str:
    """`\\frac12` as `\\frac{1}{2}` and `\\sqrt2` as `\\sqrt{2}`."""
    text = _BARE_ROOT.sub(lambda m: f"\\sqrt{m[1] or ''}{{{m[2]}}}", text)
    for _ in range(3):
        text = _BARE_ARGUMENTS.sub(_argument_pair, text)
    return text


def _argument_pair(match: re.Match[str]) -> str:
    name, braced, bare, second_braced, second_bare = match.groups()
    first = bare if braced is None else braced
    second = second_bare if second_braced is None else second_braced
    return f"\\{name}{{{first.strip()}}}{{{second.strip()}}}"


def _without_text_commands(text: str) -> str:
    """`15\\mbox{ cm}^2` as `15 cm^2`."""
    pieces, at = [], 0
    while (match := _TEXT.search(text, at)) is not None:
        end = group_end(text, match.end() - 1)
        if end is None:
            break
        pieces += [text[at : match.start()], " ", text[match.end() : end - 1]]
        at = end
    return "".join([*pieces, text[at:]])


def normal_form(answer: str) -> str:
    """Normal form of an answer: `plain`, without blanks, and with pure text in lower case.

    Equal normal forms mean equal answers; different ones mean nothing.
    """
    text = plain(answer)
    if re.fullmatch(r"\(?[A-Za-z]\)?", text):
        return text.strip("()").upper()
    if re.fullmatch(r"[A-Za-z][A-Za-z .,:'-]*[A-Za-z.]", text):
        return re.sub(r"[\s.]+", "", text).lower()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text) if not text.startswith(("(", "[", "{", "\\{")) else text
    return re.sub(r"\s+", "", _NEEDED_BLANK.sub("\\1\0", text)).replace("\0", " ")
