import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.grading.notation.characters import BLANK, folded, spelled, unknown

MINUS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d"


@pytest.mark.parametrize("minus", MINUS)
def test_every_minus_is_one(minus: str) -> None:
    assert folded(f"{minus}3") == "-3"


@pytest.mark.parametrize("blank", "\u00a0\u2002\u2009\u202f\u3000")
def test_every_blank_but_the_plain_one_may_part_digits(blank: str) -> None:
    assert folded(f"1{blank}234") == f"1{BLANK}234"


SPELLED = {
    "x＝5": "x=5",
    "3：4": "3:4",
    "（1，2）": "(1,2)",
    "१७": "17",
    "1\u200b2": "12",
    "1⁄2": "1/2",
    "¹⁄₂": "\\frac{1}{2}",
    "2½": "2\\frac{1}{2}",
    "⅜": "\\frac{3}{8}",
    "2¹⁰": "2^{10}",
    "10⁻³": "10^{-3}",
    "101₂": "101_{2}",
    "2√5": "2\\sqrt{5}",
    "√(15)": "\\sqrt{15}",
    "√{15}": "\\sqrt{15}",
    "√2.5": "\\sqrt{2.5}",
    "∛8": "\\sqrt[3]{8}",
    "±3": "\\pm 3",
    "ℝ": "\\mathbb{R}",
    "θ": "\\theta ",
}


@pytest.mark.parametrize("written", SPELLED)
def test_signs_are_spelled_in_latex(written: str) -> None:
    assert spelled(folded(written)) == SPELLED[written]
    assert unknown(SPELLED[written]) is None


@pytest.mark.parametrize("strange", ["2⊕3", "①", "5☃", "\u202e71", "1\x007", "é"])
def test_what_is_not_known_is_told(strange: str) -> None:
    assert unknown(spelled(folded(strange))) is not None


@given(st.text())
def test_folding_twice_is_folding_once_and_loses_only_what_cannot_be_seen(text: str) -> None:
    once = folded(text)
    assert folded(once) == once
    assert len(once) <= len(text)
    assert all(unicodedata.category(c) in ("Cf", "Mn") for c in text if folded(c) == "")
    spelled(once)
