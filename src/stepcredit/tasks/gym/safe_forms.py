"""Safe stand-ins for what reasoning-gym's verifiers evaluate: literals and formulas of known functions.

Four verifiers call `eval` on an answer and five `sympy.parse_expr`, which runs it as Python. An answer is the text of a
model. In the worker, `eval` reads literals instead, and `parse_expr` reads numbers, operators, single letters and the
names below; anything else raises ValueError, which those verifiers count as a wrong answer.
"""

from __future__ import annotations

import ast
import importlib
import re
from typing import Any

FUNCTIONS = frozenset((
    "sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "acot", "asec", "acsc", "sinh", "cosh", "tanh",
    "coth", "asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "Abs", "sign", "erf", "pi",
))  # fmt: skip
MAX_CHARS = 2_000

LITERALS = (
    "algorithmic.binary_matrix",
    "algorithmic.spiral_matrix",
    "algorithmic.string_insertion",
    "games.n_queens",
)
"""Modules whose verifier calls `eval` on the answer."""
FORMULAS = ("games.countdown", "games.puzzle24")
"""Modules that import `parse_expr` by name; others call `sympy.parse_expr`."""

_TOKEN = re.compile(r"\s+|(?P<name>[A-Za-z]\w*)|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?(?![\w.])|\*\*|[-+*/(),]")


def is_formula(text: str) -> bool:
    """Whether a text consists of numbers, operators, parentheses, single letters and known functions."""
    position = 0
    while position < len(text) <= MAX_CHARS:
        token = _TOKEN.match(text, position)
        if token is None or (token["name"] and len(token["name"]) > 1 and token["name"] not in FUNCTIONS):
            return False
        position = token.end()
    return len(text) <= MAX_CHARS


def disarm() -> None:
    """Replaces `eval` and `parse_expr` for reasoning-gym in this process."""
    import sympy

    parse = sympy.parse_expr

    def parse_formula(text: str, *arguments: Any, **settings: Any) -> Any:
        if not is_formula(text):
            raise ValueError("not a formula of known functions")
        return parse(text, *arguments, **settings)

    sympy.parse_expr = parse_formula
    for name in FORMULAS:
        vars(importlib.import_module(f"reasoning_gym.{name}"))["parse_expr"] = parse_formula
    for name in LITERALS:
        vars(importlib.import_module(f"reasoning_gym.{name}"))["eval"] = ast.literal_eval
