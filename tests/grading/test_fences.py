import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.grading.extraction.fences import formulas, without_fences

INSIDES = {
    "They pay $5.00 + $2.00 = $7.00.": [],
    "from $5 to $7, or $5-$6": [],
    "it is 5$ and 7$": [],
    "$ 5.00 + $ 2.00 = $ 7.00": [],
    "costs $5 and $x$ more": ["x"],
    "so $x = 5$ and $ y = 6 $.": ["x = 5", "y = 6"],
    "$\\frac{3}{4}$": ["\\frac{3}{4}"],
    "$x = 5 \\text{ dollars}$": ["x = 5 \\text{ dollars}"],
    "\\(a\\) and \\[b\n= c\\] and $$d$$": ["a", "b\n= c", "d"],
    "\\$5 and \\$6": [],
    "$a\nb$": [],
    "\\(\\(a\\)": ["a"],
}


@pytest.mark.parametrize("text", INSIDES)
def test_formulas_are_told_from_money(text: str) -> None:
    assert [formula.inside for formula in formulas(text)] == INSIDES[text]


@given(st.text(alphabet="$\\()[]ab 1.\n", max_size=60))
def test_formulas_stand_where_they_say_in_the_order_in_which_they_close(text: str) -> None:
    found = formulas(text)
    assert all(f.inside in text[f.start : f.end] for f in found)
    assert [f.end for f in found] == sorted(f.end for f in found)
    without_fences(text)
