"""Equality of two LaTeX answers by math-verify. Runs only in workers, because nothing here is bounded in time.

math-verify's own time limits are signals, which fail in threads and turn a time-out into "not equal"; they are
off, and the worker's limits stand in for them.
"""

from __future__ import annotations

import logging
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Expr, I, simplify

from stepcredit.grading.notation.spelling import plain, unfenced
from stepcredit.grading.real_functions import equal_as_real_functions

logging.getLogger("math_verify").setLevel(logging.CRITICAL)
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)

DIGITS = 30
RELATIVE = 1e-6
"""How near a decimal must come to an irrational answer, relative to its size."""

_LATEX = [LatexExtractionConfig()]


def equivalent(gold: str, answer: str) -> bool | None:
    """Whether the answer equals the gold one; None where the gold cannot be read.

    Both are read as they stand and, where that finds no equality, in the one spelling of `plain`.
    """
    read_gold = False
    for pair in dict.fromkeys([(unfenced(gold), unfenced(answer)), (plain(gold), plain(answer))]):
        wanted, given = map(_read, pair)
        read_gold = read_gold or bool(wanted)
        if wanted and given and verify(wanted, given, timeout_seconds=None, allow_set_relation_comp=True):
            return _close(wanted[0], given[0])
        if (
            wanted
            and given
            and (_equal_as_complex(wanted[0], given[0]) or equal_as_real_functions(wanted[0], given[0]))
        ):
            return True
    return False if read_gold else None


def _equal_as_complex(gold: Any, answer: Any) -> bool:
    """Whether two numbers are equal with i for the imaginary unit, where they name no other unknown."""
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    names = gold.free_symbols | answer.free_symbols
    if {str(name) for name in names} != {"i"}:
        return False
    return bool(simplify((gold - answer).subs(dict.fromkeys(names, I))) == 0)


def _close(gold: Any, answer: Any) -> bool:
    """Whether two numbers that were found equal are so relative to their size.

    math-verify compares to a fixed number of decimals, to which 1/2004! and -1/2004! are both zero.
    """
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return True
    left, right = gold.doit().evalf(DIGITS), answer.doit().evalf(DIGITS)
    return bool(abs(left - right) <= RELATIVE * max(abs(left), abs(right)))


def _read(answer: str) -> list[Any]:
    if not answer:
        return []
    found: list[Any] = parse(f"${answer}$", extraction_config=_LATEX, fallback_mode="no_fallback", parsing_timeout=None)
    return found


# Its grammar is compiled for one antlr only, and a mismatch shows as "not equal" later on: fail here instead.
if not _read("\\frac{1}{2}"):
    raise ImportError("math-verify cannot read \\frac{1}{2}: its antlr4 runtime does not fit; reinstall math-verify")
