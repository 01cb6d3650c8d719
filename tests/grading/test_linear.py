"""Extraction takes time linear in the length of a response, whatever it repeats."""

import time

import pytest

from stepcredit.grading.extraction import response as extraction
from stepcredit.grading.extraction.response import extract
from stepcredit.grading.style import GSM8K, MATH, AnswerStyle, Kind

UNITS = [
    "\\(", "\\[", "$", "$$", "$a ", "{", "}", "####", "#### 1\n", "#### Step 1\n", "**", "\\boxed{", "\\boxed{a",
    "\\boxed{1} or ", "A: ", "final answer is ", "answer is ", "1", "1 ", "1,", "- ", "(", "(1 a", "[", "=", "½", "√",
    " ", "\n", "\\", "<|", "</think>", "Question: ", "`", "\\text{", "1'", "! ", "is ", "x = ", "|",
]  # fmt: skip
STYLES = [GSM8K, MATH, AnswerStyle(None, Kind.NUMBER), AnswerStyle(None, Kind.EXPRESSION, several=True)]


def seconds(text: str) -> float:
    """The least of three times."""
    spent = []
    for _ in range(3):
        start = time.process_time()
        for style in STYLES:
            extract(text, style)
        spent.append(time.process_time() - start)
    return min(spent)


@pytest.mark.parametrize("unit", UNITS)
def test_sixteen_times_the_text_takes_no_more_than_some_sixteen_times_as_long(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quadratic would be 256 times. The text is read whole here; of a response the last 20,000 characters are."""
    monkeypatch.setattr(extraction, "TAIL", 10**9)
    size = 4_000
    short, long = ((unit * 16 * size)[:length] for length in (size, 16 * size))
    assert seconds(long) < 48 * seconds(short) + 0.05
