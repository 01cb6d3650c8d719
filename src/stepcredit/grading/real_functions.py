"""Are two expressions with roots one function of real numbers? Runs in a worker alone, as `symbolic` does.

`\\sqrt{1/n}` and `1/\\sqrt{n}` are, though for negative n they differ as complex numbers; `\\sqrt{x^2}` and `x` are
not, nor are `\\ln x^2` and `2\\ln x`, of which one is real where the other is not.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import sympy

MAX_UNKNOWNS = 3
_SIZES = (sympy.Rational(3, 7), sympy.Rational(5, 3), sympy.Rational(11, 4))
_DIGITS = 30
_ZERO = 1e-15


def equal_as_real_functions(gold: Any, answer: Any) -> bool:
    """Whether both are equal for positive unknowns, and for others real together and then equal.

    Asked only of expressions with a root in the same unknowns, of which there are at most `MAX_UNKNOWNS`. Equality is
    proved for positive unknowns, and tried at a few points for each choice of signs.
    """
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return False
    unknowns = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if not 0 < len(unknowns) <= MAX_UNKNOWNS or gold.free_symbols != answer.free_symbols:
        return False
    if not (_has_root(gold) or _has_root(answer)):
        return False
    positive = {unknown: sympy.Dummy(str(unknown), positive=True) for unknown in unknowns}
    if sympy.simplify((gold - answer).subs(positive)) != 0:
        return False
    values = [sign * size for size in _SIZES for sign in (1, -1)]
    points = (dict(zip(unknowns, point, strict=True)) for point in product(values, repeat=len(unknowns)))
    return all(_agree(gold, answer, point) for point in points)


def _has_root(expression: sympy.Expr) -> bool:
    return any(not power.exp.is_integer for power in expression.atoms(sympy.Pow))


def _agree(gold: sympy.Expr, answer: sympy.Expr, point: dict[Any, Any]) -> bool:
    left, right = (complex(side.subs(point).evalf(_DIGITS)) for side in (gold, answer))
    real = [abs(value.imag) < _ZERO for value in (left, right)]
    if not any(real):
        return True
    return all(real) and abs(left - right) <= _ZERO * max(1.0, abs(left))
