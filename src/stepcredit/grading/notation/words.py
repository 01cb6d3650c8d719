"""Answers that are words: names, yes and no, the letter of a choice."""

from __future__ import annotations

import re

from stepcredit.grading.notation.names import value_of
from stepcredit.grading.notation.spelling import plain

_WORDS = re.compile(r"[^\W\d_]+(?:[ ,'-]+[^\W\d_]+)*")
_SHORT_WORD = re.compile(r"yes|no|odd|all|any|one|two|six|ten|red|day|sun|mon|tue|wed|thu|fri|sat", re.IGNORECASE)
_CHOICE = re.compile(r"\(?([A-J])\)?")
_CHOSEN = re.compile(r"\(([A-Z])\).*|(?:option |choice )?([A-Z])(?:[.:)].*)?", re.IGNORECASE | re.DOTALL)
_TEXT_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|textbf|hbox)")


def is_words(gold: str) -> bool:
    """Whether a gold answer is words or a choice, not mathematics."""
    words = plain(gold)
    is_text = _TEXT_COMMAND.search(gold) is not None or re.search(r"[A-Za-z]{4}", words) is not None
    is_text = is_text or _SHORT_WORD.fullmatch(words) is not None
    return (is_text and _WORDS.fullmatch(words) is not None) or _choice(gold) is not None


def _choice(gold: str) -> str | None:
    """The letter of `\\text{(C)}`; a bare `C` may be a variable."""
    match = _CHOICE.fullmatch(plain(gold))
    is_choice = match is not None and (_TEXT_COMMAND.search(gold) is not None or "(" in gold)
    return match[1] if match is not None and is_choice else None


def equal_words(gold: str, answer: str) -> bool | None:
    """Where the gold answer is a word, whether the answer is the same one; of a choice the letter counts.

    None where the gold answer is mathematics.
    """
    choice, given = _choice(gold), plain(answer)
    bare = _CHOICE.fullmatch(plain(gold))
    if choice is not None or (bare is not None and re.fullmatch(r"\([A-J]\)[^,;]*|[A-J][.:)].+", given) is not None):
        chosen = _CHOSEN.fullmatch(value_of(given))
        letter = bare[1] if bare is not None else choice
        return chosen is not None and (chosen[1] or chosen[2]).upper() == letter
    return _bag_of(plain(gold)) in (_bag_of(given), _bag_of(value_of(given))) if is_words(gold) else None


def _bag_of(words: str) -> list[str]:
    """Words as they are compared: a list of them in any order, anything else in its own."""
    return sorted(re.sub(r"[\W_]", "", piece.lower()) for piece in re.split(r",|\band\b", words))
