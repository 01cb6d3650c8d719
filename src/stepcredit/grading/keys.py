"""Keys of answers for majority votes."""

from __future__ import annotations

from stepcredit.grading.notation.numbers import read_number
from stepcredit.grading.notation.spelling import normal_form


def answer_key(answer: str) -> str:
    """Returns a key that is equal for equal numbers and equal normal forms; cheap, without algebra.

    1/2, 0.5 and \\frac{1}{2} have one key; (x+1)^2 and x^2+2x+1 have two.
    """
    number = read_number(answer)
    if number is None:
        return normal_form(answer)
    return f"{number.value}{'%' if number.percent else ''}"
