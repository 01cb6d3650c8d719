import pytest

from stepcredit.grading.notation.names import assignments, is_unsolved, value_of
from stepcredit.grading.notation.regions import Piece, read_region

VALUES = {
    "x = 5": "5",
    "5 = x": "5",
    "n is 34": "34",
    "Total: 34": "34",
    "(p,q) = (3,2)": "(3,2)",
    "6 \\cdot 7 = 42": "42",
    "x = 6/2 = 3": "3",
    "x = 22/7 \\approx 3.14": "22/7",
    "\\angle ABC = 30^\\circ": "30^\\circ",
    "f^{-1}(x) = 2x": "2x",
    "2x = 5": "2x = 5",
    "x^2 = 3": "x^2 = 3",
    "x+y = 5": "x+y = 5",
    "x = 1, y = 2": "x = 1, y = 2",
    "x = 1 or x = 2": "x = 1 or x = 2",
    "\\sum_{k=1}^n k": "\\sum_{k=1}^n k",
    "3:4": "3:4",
}


@pytest.mark.parametrize("text", VALUES)
def test_the_value_that_is_named(text: str) -> None:
    assert value_of(text) == VALUES[text]


def test_an_expression_of_several_unknowns_may_be_what_is_asked_for_and_one_of_one_is_not() -> None:
    assert value_of("x+y = 5", loosely=True) == "5"
    assert value_of("\\sin x = \\frac{1}{2}", loosely=True) == "\\frac{1}{2}"
    assert value_of("2x = 5", loosely=True) == "2x = 5"
    assert is_unsolved("2x = 5")
    assert not is_unsolved("x+y = 5")
    assert not is_unsolved("5")


def test_assignments() -> None:
    assert assignments(("x = 3", "y_1 = 2")) == {"x": "3", "y_1": "2"}
    assert assignments(("x = 3", "x = 2")) is None
    assert assignments(("x = 3", "2")) is None


A, B = Piece("-oo", False, "1", False), Piece("3", True, "oo", False)
REGIONS = {
    "(-\\infty,1)\\cup[3,\\infty)": [A, B],
    "x < 1 or x \\ge 3": [A, B],
    "1 > x or 3 \\le x": [A, B],
    "x \\in (-\\infty,1)": [A],
    "x > -2 and x < 2": [Piece("-2", False, "2", False)],
    "-2 < x < 2": [Piece("-2", False, "2", False)],
    "2 > x > -2": [Piece("-2", False, "2", False)],
    "|x| < 2": [Piece("-2", False, "2", False)],
    "x \\ne 1": [A, Piece("1", False, "oo", False)],
    "\\mathbb{R} \\setminus \\{1\\}": [A, Piece("1", False, "oo", False)],
    "\\{x \\mid x < 1\\}": [A],
    "\\mathbb{R}": [Piece("-oo", False, "oo", False)],
    "x > 2 and x < -2": None,
    "x < y": None,
    "2x < 4": None,
    "5": None,
    "x = 3": None,
    "(1,2),(3,4)": None,
}


@pytest.mark.parametrize("text", REGIONS)
def test_regions_are_read_by_their_ends(text: str) -> None:
    assert read_region(text) == REGIONS[text]
