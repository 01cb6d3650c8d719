"""Arithmetic expressions inside text: tokens, and a recursive reader that computes exact values and never evaluates."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

MAX_TOKENS = 120
"""A side of an equation is read as far as this, which also bounds how deep its brackets go."""
MAX_DIGITS = 30
_AHEAD = 3
"""Tokens behind an expression that decide whether it ends there."""
UNIT_WORDS = 5
"""A number has at most so many words behind it as its unit."""

_TOKEN = re.compile(
    r"""
    (?P<other>\*\*|\^|[<>~≈≠≤≥]|\d{1,2}:\d\d|\d+(?:,(?!\d{3}(?!\d))\d+)+)
  | (?P<number>\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)
  | (?P<times>(?<![^\W\d_])[xX](?=\s*\(?\s*[$£€]?\s*[.\d]))
  | (?P<word>[-/]?[^\W\d_]+(?:[-'’/][^\W\d_]+)*)
  | (?P<operator>[-+*/×÷·−–])
  | (?P<open>\() | (?P<close>\)) | (?P<currency>[$£€]) | (?P<percent>%) | (?P<cent>¢)
  | (?P<stop>[.,;:?!])
  | (?P<unknown>\S)
    """,
    re.VERBOSE,
)
_NAMES = {"×": "*", "·": "*", "x": "*", "X": "*", "÷": "/", "−": "-", "–": "-"}
_SCALE_WORDS = "dozen dozens hundred thousand million billion"
_OPERATION_WORDS = "times plus minus divided multiplied squared cubed remainder"
_OTHER_WORDS = (
    "twice half double triple thrice third thirds quarter quarters fourth fifth square root percent power than over "
    "about approximately roughly around almost nearly"
)
_SCALES = frozenset(_SCALE_WORDS.split())
"""Words that multiply the number before them, whose value is then left undecided."""
_OPERATIONS = frozenset(_OPERATION_WORDS.split())
"""Words behind a number that change what it is worth."""
_RECKONING = _SCALES | _OPERATIONS | frozenset(_OTHER_WORDS.split())
"""Words beside an expression that change what it is worth."""
_PERCENT_READINGS = (Fraction(1, 100), Fraction(1))


class Unreadable(ValueError):
    """The text is no expression, or one whose value is not certain."""


class Token(NamedTuple):
    """A token with its kind, the name of its group in the pattern."""

    kind: str
    text: str


@dataclass(frozen=True)
class Expression:
    """An expression that was read.

    Attributes:
        values: its value for each reading of percent signs, without repetition.
        first_values: those of its first number alone.
        places: decimal places, if it is a single number; first_places: of the first number.
        operators, words: the operators and the unit words in it.
        has_point: whether a number has a decimal point.
    """

    values: tuple[Fraction, ...]
    first_values: tuple[Fraction, ...]
    places: int | None
    first_places: int
    operators: frozenset[str]
    words: frozenset[str]
    has_point: bool


def tokens_of(text: str) -> list[Token]:
    """Splits text into tokens; operators are spelt + - * /."""
    found = []
    for match in _TOKEN.finditer(text):
        kind, written = match.lastgroup or "unknown", match[0]
        if kind in ("operator", "times"):
            kind, written = "operator", _NAMES.get(written, written)
        found.append(Token(kind, written))
    return found


def read_prefix(tokens: list[Token]) -> Expression:
    """Reads the expression that begins the tokens.

    Raises:
        Unreadable: there is none, or what follows may belong to it.
    """
    expression, end = _read(tokens[:MAX_TOKENS], 0)
    if end + _AHEAD > MAX_TOKENS and len(tokens) > MAX_TOKENS:
        raise Unreadable
    if end < len(tokens) and (tokens[end].kind == "other" or tokens[end].text.lower() in _OPERATIONS):
        raise Unreadable
    return expression


def read_longest_suffix(tokens: list[Token]) -> tuple[Expression, int]:
    """Reads the longest expression that ends the tokens; returns it and where it begins.

    Raises:
        Unreadable: there is none.
    """
    if len(tokens) > MAX_TOKENS:
        tokens = tokens[-MAX_TOKENS:]
        if tokens[0].kind == "operator":
            raise Unreadable
    for start, token in enumerate(tokens):
        if token.kind in ("number", "currency", "open") or token == ("operator", "-"):
            try:
                expression, end = _read(tokens, start)
            except Unreadable:
                continue
            if end == len(tokens):
                return expression, start
    raise Unreadable


def clause_before(tokens: list[Token], start: int) -> None:
    """Checks that the words before an expression, back to the last stop, are no part of it.

    Raises:
        Unreadable: there is an operator, a word such as "twice", or a number right before it.
    """
    if start and tokens[start - 1].kind not in ("word", "stop", "unknown", "open"):
        raise Unreadable
    for token in reversed(tokens[:start]):
        if token.kind == "stop":
            return
        if token.kind in ("operator", "other") or (token.kind == "word" and _changes_numbers(token.text)):
            raise Unreadable


def _changes_numbers(word: str) -> bool:
    return word.strip("-/").lower() in _RECKONING or _is_variable(word, "aAI")


def _is_variable(word: str, words: str) -> bool:
    """Whether a word is a single letter, but for these."""
    letters = word.strip("-/")
    return len(letters) == 1 and letters not in words


def _read(tokens: list[Token], start: int) -> tuple[Expression, int]:
    """Reads the longest expression that begins at `start`; returns it and where it ends."""
    values, firsts = [], []
    for percent in _PERCENT_READINGS:
        reader = _Reader(tokens, start, percent)
        values.append(reader.sum())
        firsts.append(reader.first)
    return Expression(
        values=tuple(dict.fromkeys(values)),
        first_values=tuple(dict.fromkeys(firsts)),
        places=reader.places[0] if len(reader.places) == 1 and not reader.operators else None,
        first_places=reader.places[0],
        operators=frozenset(reader.operators),
        words=frozenset(reader.words),
        has_point=any(reader.places),
    ), reader.at


@dataclass
class _Reader:
    """Recursive reader of tokens from a position on, with one meaning of the percent sign."""

    tokens: list[Token]
    at: int
    percent: Fraction
    operators: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    places: list[int] = field(default_factory=list)
    first: Fraction = Fraction(0)
    is_share: bool = False
    """Whether the last operand was a percentage or a fraction, so that "of" multiplies."""

    def sum(self) -> Fraction:
        total = self._product()
        while (sign := self._operator("+-")) is not None:
            term = self._product()
            total = total + term if sign == "+" else total - term
        return total

    def _product(self) -> Fraction:
        product = self._factor()
        while (sign := self._operator("*/") or self._of()) is not None:
            factor = self._factor()
            if sign == "/" and factor == 0:
                raise Unreadable
            product = product / factor if sign == "/" else product * factor
            self.is_share = self.is_share or sign == "/"
        return product

    def _factor(self) -> Fraction:
        if self._kind() == "operator" and self.tokens[self.at].text == "-":
            self.at += 1
            return -self._factor()
        self._skip("currency")
        if self._kind() == "open":
            self.at += 1
            value = self.sum()
            if not self._skip("close"):
                raise Unreadable
        else:
            value = self._number()
        self._skip("currency")
        self.is_share = self._skip("percent")
        if self.is_share:
            value *= self.percent
        if len(self.places) == 1 and not self.operators:
            self.first = value
        if self._kind() in ("number", "other"):
            raise Unreadable
        self._unit()
        return value

    def _number(self) -> Fraction:
        if self._kind() != "number" or len(self.tokens[self.at].text) > MAX_DIGITS:
            raise Unreadable
        text = self.tokens[self.at].text
        self.at += 1
        self.places.append(len(text.partition(".")[2]))
        return Fraction(text.replace(",", ""))

    def _unit(self) -> None:
        """Skips the unit of a number: words, also in brackets."""
        for _ in range(UNIT_WORDS):
            if self._kind() == "word":
                word = self.tokens[self.at].text
                if word.lower() in _SCALES or _is_variable(word, "a"):
                    raise Unreadable
                if word.lower() in _RECKONING or (self._says_of() and self._begins_operand(self.at + 1)):
                    return
                self.is_share = False  # "20% interest for a total of $15" multiplies nothing
                self.words.update(word.lower().strip("-/").split("/"))
            elif self._kind() == "cent":
                self.words.add("¢")
            elif [t.kind for t in self.tokens[self.at : self.at + 3]] == ["open", "word", "close"]:
                self.at += 2
            else:
                return
            self.at += 1

    def _of(self) -> str | None:
        """Reads "of" behind a percentage or a fraction as "*"."""
        if not (self.is_share and self._says_of() and self._begins_operand(self.at + 1)):
            return None
        self.at += 1
        self.operators.add("*")
        return "*"

    def _says_of(self) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].text.lower() == "of"

    def _operator(self, among: str) -> str | None:
        """Reads an operator if an operand follows; a dash before words is punctuation."""
        if self._kind() != "operator" or self.tokens[self.at].text not in among:
            return None
        if not self._begins_operand(self.at + 1):
            return None
        self.at += 1
        self.operators.add(self.tokens[self.at - 1].text)
        return self.tokens[self.at - 1].text

    def _begins_operand(self, at: int) -> bool:
        if at >= len(self.tokens):
            return False
        return self.tokens[at].kind in ("number", "currency", "open") or self.tokens[at] == ("operator", "-")

    def _kind(self) -> str | None:
        return self.tokens[self.at].kind if self.at < len(self.tokens) else None

    def _skip(self, kind: str) -> bool:
        if self._kind() != kind:
            return False
        self.at += 1
        return True
