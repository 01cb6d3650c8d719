import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stepcredit.grading.extraction.runs import runs
from stepcredit.grading.extraction.values import last_value, plain_number, with_its_words

RUNS = {
    "42 because 6 * 7 = 42.": ["42", "6 * 7 = 42"],
    "18 eggs per day": ["18"],
    "$18.50 a day": ["$18.50"],
    "3/4 of the cake (9 pieces)": ["3/4", "9"],
    "10^6": ["10^6"],
    "2½ cups": ["2½"],
    "1 ½ cups": ["1 ½"],
    "2 1/2 cups": ["2 1/2"],
    "\\frac{3}{4} of it": ["\\frac{3}{4}"],
    "3x.": ["3x"],
    "- 3": ["- 3"],
    "minus 3": ["minus 3"],
    "5 minus 3": ["5 minus 3"],
    "10 - 3 = 7 apples": ["10 - 3 = 7"],
    "Step-3": ["3"],
    "5 x 4 = 20 pens": ["5 x 4 = 20"],
    "n is 34": ["34"],
    "$60 ($30 + $30)": ["$60", "($30 + $30)"],
    "((3 + 4 apples) and 5)": ["3 + 4", "5"],
    "18! Great": ["18"],
    "18th floor": ["18"],
    "4:30 p.m.": ["4:30 p.m."],
    "10,20": ["10,20"],
    "5 apples, 3 pears": ["5", "3"],
    "2 million dollars": ["2 million"],
    "5 cents": ["5 cents"],
    "-$5": ["-$5"],
    "90°": ["90°"],
    "[1, 2)": ["[1, 2)"],
    "words alone": [],
}  # fmt: skip


@pytest.mark.parametrize("text", RUNS)
def test_a_run_is_as_long_as_its_mathematics(text: str) -> None:
    assert runs(text) == RUNS[text]


def test_a_plain_blank_joins_digits_only_where_it_may() -> None:
    assert runs("1 234") == ["1", "234"]
    assert runs("1 234", grouped=True) == ["1 234"]
    assert runs("1 23", grouped=True) == ["1", "23"]
    assert runs("1\u00a0234") == ["1\u00a0234"]


@given(st.text(alphabet="()[]{}12x+-*/=^.,:$%½√ \\ab\n", max_size=80))
def test_a_run_is_a_piece_of_the_text_with_balanced_brackets(text: str) -> None:
    for run in runs(text):
        assert run in text
        assert sum(run.count(c) for c in "([{") == sum(run.count(c) for c in ")]}")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("more than 5 days", "more than 5 days"),
        ("not 5", "not 5"),
        ("5 to 6 days", "5 to 6"),
        ("5 or 6", "5 or 6"),
        ("3 out of 4", "3 out of 4"),
        ("2 and a half hours", "2 and a half"),
        ("3 hours 20 minutes", "3 hours 20 minutes"),
        ("5 apples and 6 pears", "5"),
        ("about 5", "5"),
    ],
)
def test_words_that_make_a_number_something_else_go_with_it(text: str, whole: str) -> None:
    assert with_its_words(text, runs(text)[0]) == whole


@pytest.mark.parametrize(
    ("run", "value"),
    [
        ("6 * 7 = 42", "42"),
        ("(40 - 35 = 5)", "5"),
        ("98 < 80", "80"),
        ("60 - 34", "34"),
        ("3-5", "5"),
        ("10^6", "10^6"),
        ("x = - 3", "- 3"),
        ("6x = y", "6"),
    ],
)
def test_the_value_of_the_last_run(run: str, value: str) -> None:
    assert last_value(run) == value


@example("the ratio is 1 : 2")
@given(st.text(alphabet="abx =.:-$,%^12\n", max_size=40))
def test_the_quick_way_finds_what_the_slow_one_does(text: str) -> None:
    quick = plain_number(text)
    if quick is not None:
        assert last_value(runs(text)[-1]) == quick
