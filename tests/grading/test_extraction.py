import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.grading.extraction.boxes import last_boxed
from stepcredit.grading.extraction.response import extract, last_formula, last_number
from stepcredit.grading.notation.characters import folded
from stepcredit.grading.style import GSM8K, MATH, Marker

NUMBERS = {
    "She has 3 + 4 = 7.\n#### 7": ("7", Marker.HASHES),
    "#### 7\n\nQuestion: another\nAnswer: 8\n#### 9": ("7", Marker.HASHES),
    "####\n 1,234 eggs": ("1,234", Marker.HASHES),
    "#### $1.5 million a year": ("$1.5 million", Marker.HASHES),
    "#### 70\\,000": ("70\\,000", Marker.HASHES),
    "#### $18.50 a day": ("$18.50", Marker.HASHES),
    "#### 6 * 7 = 42": ("42", Marker.HASHES),
    "#### \\boxed{42}": ("42", Marker.HASHES),
    "I boxed 5 of them. The answer is 9.\n#### 4": ("4", Marker.HASHES),
    "so \\boxed{18} dollars": ("18", Marker.BOXED),
    "#### no number here, but \\boxed{3}": ("3", Marker.HASHES),
    "#### none\n\\boxed{3}": ("3", Marker.BOXED),
    "It takes 6 days.\nThe answer is 42 because 6 * 7 = 42.": ("42", Marker.PHRASE),
    "A: 42": ("42", Marker.PHRASE),
    "**Final Answer:** $26.00\nI hope it is correct.": ("$26.00", Marker.PHRASE),
    "The final answer is 12 apples.\nLet me know if 2 more steps help!\nThanks.": ("12", Marker.PHRASE),
    "Answer: 5 boxes\nSo 5 x 4 = 20 pens in all.": ("20", Marker.LAST),
    "That leaves 10 - 3 = 7 apples.": ("7", Marker.LAST),
    "She pays -$5": ("-$5", Marker.LAST),
    "From 3-5": ("5", Marker.LAST),
    "A total of 1,000,000.": ("1,000,000", Marker.LAST),
    "It is 25%": ("25%", Marker.LAST),
    "It is 3/4.": ("3/4", Marker.LAST),
    "It is 2 1/2 cups": ("2 1/2", Marker.LAST),
    "It is .5": (".5", Marker.LAST),
    "x" * 400 + " 17 " + "y" * 4_000: ("17", Marker.LAST),
}


@pytest.mark.parametrize("response", NUMBERS)
def test_where_a_number_is_found(response: str) -> None:
    found = extract(response, GSM8K)
    assert found is not None
    assert (found.text, found.marker) == NUMBERS[response]


EXPRESSIONS = {
    "Thus $x = \\boxed{\\frac{1}{2}}$.": ("\\frac{1}{2}", Marker.BOXED),
    "\\boxed{1}, then \\boxed{\\{x : \\text{odd}\\}}": ("\\{x : \\text{odd}\\}", Marker.BOXED),
    "\\boxed 7": ("7", Marker.BOXED),
    "\\fbox{7}": ("7", Marker.BOXED),
    "\\boxed{7} or \\boxed{8": ("7, 8", Marker.BOXED),
    "\\boxed{3}\n#### 4": ("3", Marker.BOXED),
    "Final Answer: The final answer is $\\sqrt{2}$. I hope it is correct.": ("\\sqrt{2}", Marker.PHRASE),
    "The answer is 2x + 1, since it must be odd": ("2x + 1", Marker.PHRASE),
    "Hence $a = 1$ and $b = 2$": ("b = 2", Marker.LAST),
    "Hence \\[x^2 = 4\\] and so on": ("x^2 = 4", Marker.LAST),
    "Hence 12": ("12", Marker.LAST),
}  # fmt: skip


@pytest.mark.parametrize("response", EXPRESSIONS)
def test_where_an_expression_is_found(response: str) -> None:
    found = extract(response, MATH)
    assert found is not None
    assert (found.text, found.marker) == EXPRESSIONS[response]


@pytest.mark.parametrize("response", ["", "   ", "no idea", "\\boxed{}", "####", "$ $"])
def test_no_answer(response: str) -> None:
    assert extract(response, GSM8K) is None
    assert extract(response, MATH) is None


nested = st.recursive(
    st.text(alphabet="ab1 ", max_size=4), lambda inner: inner.map(lambda t: f"{{{t}}}x"), max_leaves=8
)


@given(nested, st.text(alphabet="ab {}$.", max_size=30))
def test_a_box_gives_back_what_was_put_in(content: str, before: str) -> None:
    assert last_boxed(f"{before}\\boxed{{{content}}}.") == content


@given(st.text())
def test_any_response_is_survived(text: str) -> None:
    for style in (GSM8K, MATH):
        found = extract(text, style)
        assert found is None or set(found.text) <= {*folded(text), *", "}
    last_formula(text)


@given(st.integers(-(10**12), 10**12), st.text(alphabet="abc ,.\n", max_size=30))
def test_the_last_number_is_found_behind_any_words(number: int, after: str) -> None:
    assert last_number(f"1 or 2, so {number} {after}") == str(number)
