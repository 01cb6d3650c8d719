"""Extraction of the answer that a response states.

From the most explicit sign to the least: the `####` of GSM8K, `\\boxed{}`, "A:" and "the answer is", a response that
is nothing but an answer, the last number or formula. What the prompt asked for comes first; found there, the answer
is *strict*. Everything here takes time linear in the length of the response.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stepcredit.grading.extraction.boxes import boxed_answer
from stepcredit.grading.extraction.clauses import clause, has_prose, unemphasised, unwrapped
from stepcredit.grading.extraction.fences import formulas, without_fences
from stepcredit.grading.extraction.own_turn import own_turn
from stepcredit.grading.extraction.runs import runs
from stepcredit.grading.extraction.values import last_value, plain_number, with_its_words
from stepcredit.grading.notation.characters import folded
from stepcredit.grading.notation.numbers import read_number
from stepcredit.grading.style import AnswerStyle, Kind, Marker

TAIL = 20_000
"""Characters of a response's end in which an answer is looked for."""
MAX_WHOLE = 400
"""A longer response is more than an answer."""

_AROUND = 80
"""Characters of its line on either side of the last number that are read with it."""

_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?:\n[ \t]*)?(?P<said>[^\n]*)")
_HEADING = re.compile(
    r"\W*(?:step|part|case|method|solution|explanation|reasoning|understanding|analysis|given|approach|conclusion)\b.*",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\W*(?:\d+|[A-Za-z])[.):]\W*\s[^\W\d]{2}.*")
_ANSWER_BELOW = re.compile(r"\W*(?:the )?(?:final )?answer\W*", re.IGNORECASE)
_ANSWER_IS = re.compile(r"\W*(?:the )?(?:final )?answer(?: is)?\W*(?=\S)", re.IGNORECASE)
_PHRASE = re.compile(
    r"(?:^[ \t*#]*A(?:nswer)?[ \t*]*:|\banswer[ \t*]*(?: is\b|\s?[:=]|'s)(?:\s?:)?"
    r"|\banswer to [^\n.:]{1,80} is\b|答案(?:是|为)?:?)[ \t*:]*",
    re.IGNORECASE | re.MULTILINE,
)
_FINAL = re.compile(r"\bfinal answer[ \t*]*(?: is\b|\s?[:=]|(?=\n))(?:\s?:)?[ \t*:]*", re.IGNORECASE)
_LAST_SENTENCE = re.compile(r"(?s:.*)(?:\n|[.!?]\s)(?=.*\w)")
_SENTENCE = re.compile(r"\b(?:is|it|of|so|we|to|at|if|as|by|he|be|do|my|no)\b", re.IGNORECASE)
_LISTED = re.compile(r"(?:\s|,|;|\b(?:and|or)\b|\\quad|\\text\{\s*(?:and|or)\s*\})*")
_VALUE_ON_THE_LINE = re.compile(r"[^\w\n]*(?:[\w\\][^\n]*)")
_IN_WORDS = re.compile(r"([A-Za-z]+)(?:[- ][A-Za-z]+)?")
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_CHOICE = re.compile(r"\(([A-J])\)|\b(?:option|choice|statement) ([A-J])\b", re.IGNORECASE)


@dataclass(frozen=True)
class Extraction:
    """An answer as it was written (but for characters that `folded` makes one of), and where it stood."""

    text: str
    marker: Marker


def extract(response: str, style: AnswerStyle) -> Extraction | None:
    """The answer that a response states, or None.

    Args:
        response: what the policy wrote; of its own turn the last `TAIL` characters are looked at.
        style: which marker comes first, and what is looked for where none stands; its kind is settled.
    """
    text = folded(own_turn(response)[-TAIL:])
    for marker, found in _candidates(text, style):
        if found is not None and found.strip():
            return Extraction(found.strip(), marker)
    return None


def _candidates(text: str, style: AnswerStyle) -> Iterator[tuple[Marker, str | None]]:
    """What each marker gives, the first choice first."""
    explicit: dict[Marker, Callable[[str, AnswerStyle], tuple[str, int] | None]] = {
        Marker.HASHES: _hashes,
        Marker.BOXED: lambda text, style: boxed_answer(text, several=style.several),
    }
    if style.marker is None:
        found = [(place[1], marker, place[0]) for marker, find in explicit.items() if (place := find(text, style))]
        yield from ((marker, said) for _, marker, said in sorted(found, reverse=True))
    else:
        for marker in [style.marker, *(m for m in explicit if m is not style.marker)]:
            if marker in explicit:
                place = explicit[marker](text, style)
                yield marker, place[0] if place is not None else None
            else:
                yield marker, _OTHERS[marker](text, style)
    yield from ((marker, find(text, style)) for marker, find in _OTHERS.items())


# ---- behind a marker ---------------------------------------------------------------------------------


def _hashes(text: str, style: AnswerStyle) -> tuple[str, int] | None:
    """(the answer behind the first `####` that opens with one, else behind the last that has one; where it stands)."""
    if "####" not in text:
        return None
    fallback = None
    matches = list(_HASHES.finditer(text))
    for k, match in enumerate(matches):
        said = unemphasised(match["said"])
        is_last = k + 1 == len(matches)
        if _ANSWER_BELOW.fullmatch(said):
            below = text[match.end() :].lstrip()[:2_000].partition("\n")[0]
            stated = _stated(below, style)
        elif _HEADING.fullmatch(said) or (
            _NUMBERED.fullmatch(said) and not (is_last and not text[match.end() :].strip())
        ):
            continue
        else:
            stated = _stated(said, style)
        if not stated:
            continue
        if style.kind is not Kind.NUMBER or _opens_with_answer(said):
            return stated, match.start()
        fallback = (stated, match.start())
    return fallback


def _opens_with_answer(said: str) -> bool:
    said = _ANSWER_IS.sub("", said, count=1)
    return re.match(r"[^\w\\]*(?:\d|\\|minus |negative |[A-Za-z]\s*=|[^\x00-\x7f])", said) is not None or "box" in said


def _phrase(text: str, style: AnswerStyle) -> str | None:
    """What "final answer" says in the last three lines, or "answer is" in the last one.

    Further up, such words mostly answer a question on the way (docs/LOG.md has the count).
    """
    if not any(word in text for word in ("nswer", "NSWER", "A:", "答案")):
        return None
    lines = [line for line in text.rstrip()[-2_000:].splitlines() if line.strip()][-3:]
    for pattern, where in ((_FINAL, "\n".join(lines)), (_PHRASE, "\n".join(lines[-1:]))):
        *_, last = [None, *pattern.finditer(where)]
        stated = _stated(where[last.end() :], style) if last is not None else None
        if stated:
            return stated
    return None


def _stated(said: str, style: AnswerStyle) -> str | None:
    """The answer in the words behind a marker."""
    boxed = boxed_answer(said, several=style.several)
    if boxed is not None:
        return boxed[0]
    said = unemphasised(said)
    return _STATED[style.kind](said, style)


def _stated_number(said: str, style: AnswerStyle) -> str | None:
    text = unwrapped(without_fences(said))
    here = clause(text)
    if _is_list(here):
        return here  # and its first part is not the answer
    if _VALUE_ON_THE_LINE.match(text) is None or has_prose(here):
        here = text.rpartition("=")[2]
    for words in (here.rpartition("=")[2], here, text):
        found = runs(words, grouped=True)
        if found:
            return with_its_words(words, found[0])
    in_words = _IN_WORDS.match(here)
    candidates = [in_words[0], in_words[1]] if in_words is not None else []
    return next((words for words in candidates if read_number(words) is not None), None)


def _is_list(words: str) -> bool:
    """Whether there are several values, and nothing else but what parts them."""
    if has_prose(words):
        return False
    found, rest = runs(words, grouped=True), words
    for run in found:
        rest = rest.replace(run, " ", 1)
    return len(found) > 1 and _LISTED.fullmatch(rest) is not None


def _stated_expression(said: str, style: AnswerStyle) -> str | None:
    formula = _last_formulas(said, several=True)
    if formula is not None:
        return formula
    here = clause(said)
    if has_prose(here) and read_number(here) is None:
        found = runs(here, grouped=True)
        return found[0] if found else here
    return here


_STATED: dict[Kind, Callable[[str, AnswerStyle], str | None]] = {
    Kind.NUMBER: _stated_number,
    Kind.EXPRESSION: _stated_expression,
    Kind.WORDS: lambda said, style: clause(without_fences(said)),
}


# ---- without a marker --------------------------------------------------------------------------------


def _whole(text: str, style: AnswerStyle) -> str | None:
    """The response itself, where it is nothing but an answer."""
    bare = text.strip()
    if len(bare) > MAX_WHOLE or ("\n" in bare and "\\begin" not in bare):
        return None
    bare = without_fences(unemphasised(bare)).strip()
    if style.kind is Kind.WORDS:
        return bare if len(bare.split()) <= 6 else None
    if has_prose(bare) or _SENTENCE.search(bare) or "\\boxed" in bare:
        return None
    return bare if re.search(r"\w|\\", bare) else None


def _last(text: str, style: AnswerStyle) -> str | None:
    if style.kind is Kind.WORDS:
        return _last_words(text)
    if style.kind is Kind.NUMBER:
        return _formula_at_the_end(text) or last_number(text)
    formula = _last_formulas(text, several=style.several)
    return formula or (_last_list(text) if style.several else None) or last_number(text)


def _last_words(text: str) -> str | None:
    """A choice or bold words in the last line, or else the last formula."""
    line = text.rstrip().rpartition("\n")[2]
    for pattern in (_CHOICE, _BOLD):
        found = [next(group for group in match.groups() if group) for match in pattern.finditer(line)]
        if found:
            return found[-1]
    return last_formula(text)


def last_number(text: str) -> str | None:
    """The last number of a text, with its sign, currency and percent sign, and with what is glued to it: `10^6`."""
    at = max(text.rfind(digit) for digit in "0123456789")
    if at >= 0 and text.isascii():  # only the line around the last digit is read
        plainly = plain_number(text[max(0, at - 24) : at + 24])
        if plainly is not None:
            return plainly
        start = max(text.rfind("\n", 0, at) + 1, at - _AROUND)
        found = _runs_of(text[start : min((text.find("\n", at) + 1 or len(text)), at + _AROUND)])
        if len(found) > 1 or (found and not text[start - 1 : start].strip()):
            return last_value(found[-1])
    for window in (300, 3_000, len(text)):
        start = max(0, len(text) - window)
        found = _runs_of(text[start:])
        if found and (len(found) > 1 or not start):
            return last_value(found[-1])
    return None


def _last_list(text: str) -> str | None:
    """The list of values with which the last line ends: `2, -3` of "so the roots are 2 and -3"."""
    line = unemphasised(text.rstrip()[-MAX_WHOLE:].rpartition("\n")[2])
    parts: list[str] = []
    end = len(line)
    for run in reversed(runs(line)):
        at = line.rfind(run, 0, end)
        if parts and _LISTED.fullmatch(line[at + len(run) : end]) is None:
            break
        parts.insert(0, run)
        end = at
    return ", ".join(parts) or None


def _runs_of(text: str) -> list[str]:
    return runs(unwrapped(without_fences(unemphasised(text))))


def last_formula(text: str) -> str | None:
    """The last `$…$`, `\\(…\\)` or `\\[…\\]` of a text."""
    found = formulas(text)
    return found[-1].inside if found else None


def _last_formulas(text: str, *, several: bool) -> str | None:
    """The last formula, with those that stand before it as a list, if there may be several."""
    found = formulas(text)
    if not found:
        return None
    parts = [found[-1]]
    for formula in reversed(found[:-1]):
        between = text[formula.end : parts[0].start]
        if not several or formula.end > parts[0].start or not _LISTED.fullmatch(between) or not between.strip():
            break
        parts.insert(0, formula)
    return ", ".join(part.inside for part in parts)


def _formula_at_the_end(text: str) -> str | None:
    """The last formula of the last sentence, if it ends in a value: `so $x = 3$ in 2 steps` says 3."""
    end = text.rstrip()[-600:]
    cut = _LAST_SENTENCE.match(end)
    inside = last_formula(end[cut.end() :] if cut is not None else end)
    if inside is None or "=" not in inside or not runs(inside.rpartition("=")[2]):
        return None
    return inside


_OTHERS: dict[Marker, Callable[[str, AnswerStyle], str | None]] = {
    Marker.PHRASE: _phrase,
    Marker.WHOLE: _whole,
    Marker.LAST: _last,
}
