"""Kind of a gold answer, which determines the extraction: a number, words, or an expression; one part or more."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

from stepcredit.grading.comparison import split_parts
from stepcredit.grading.notation.numbers import read_number
from stepcredit.grading.notation.words import is_words
from stepcredit.grading.style import AnswerStyle, Kind


def kind_of(gold: str) -> Kind:
    """The kind of a gold answer. A plain number has digits and optionally a sign, currency, percent sign or unit."""
    number = read_number(gold)
    if number is not None and "\\frac" not in gold and re.search(r"\d", gold) is not None:
        return Kind.NUMBER
    return Kind.WORDS if is_words(gold) else Kind.EXPRESSION


@functools.lru_cache(maxsize=8192)
def style_for(gold: str, style: AnswerStyle) -> AnswerStyle:
    """The style with its kind; `auto` is resolved by the gold answer."""
    kind = kind_of(gold) if style.kind is Kind.AUTO else style.kind
    several = kind is Kind.EXPRESSION and (len(split_parts(gold).parts) > 1 or "\\pm" in gold)
    return replace(style, kind=kind, several=several)
