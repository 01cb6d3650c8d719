"""What an answer must also satisfy where a verifier of reasoning-gym 0.1.25 counts wrong answers as right, or fails.

game_of_life_halting   counts any text as right
puzzle24               counts any four numbers from 1 to 10 that give 24, not only those of the problem
coin_flip              counts the first digits of the probability: 0 for 0.0703
complex_arithmetic     counts nan
prime_factorization    raises for what is no product of numbers, which would leave it undecided
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

TOLERANCE = 1e-4
"""Of a probability, as in the verifier of `coin_flip`."""


def _is_same_word(answer: str, entry: dict[str, Any]) -> bool:
    return answer.strip().lower() == str(entry["answer"]).lower()


def _uses_the_numbers(answer: str, entry: dict[str, Any]) -> bool:
    return sorted(map(int, re.findall(r"\d+", answer))) == sorted(entry["metadata"]["numbers"])


def _is_near(answer: str, entry: dict[str, Any]) -> bool:
    try:
        given = float(Fraction(answer.strip().replace(",", "")))
    except (ValueError, ZeroDivisionError, OverflowError):
        return False
    return abs(given - float(Fraction(entry["answer"]))) <= TOLERANCE


def _is_number(answer: str, entry: dict[str, Any]) -> bool:
    return "nan" not in answer.lower()


def _is_product(answer: str, entry: dict[str, Any]) -> bool:
    return re.fullmatch(r"\s*\d+\s*(×\s*\d+\s*)*", answer, re.ASCII) is not None


CHECKS: dict[str, Callable[[str, dict[str, Any]], bool]] = {
    "coin_flip": _is_near,
    "complex_arithmetic": _is_number,
    "game_of_life_halting": _is_same_word,
    "prime_factorization": _is_product,
    "puzzle24": _uses_the_numbers,
}
"""Dataset → check of an answer and its entry; an answer that fails is wrong, and the verifier is not asked."""
