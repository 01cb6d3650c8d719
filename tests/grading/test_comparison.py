"""Everything but the algebra, which is a double here; the real one is in test_grader.py."""

import pytest

from stepcredit.grading.comparison import UNDECIDED, Comparison, compare, split_parts
from stepcredit.verdict import Verdict


def no_algebra(gold: str, answer: str) -> Comparison:
    raise AssertionError(f"asked the algebra about {gold} and {answer}")


DECIDED = [
    ("\\text{Evelyn}", "Evelyn", True),
    ("\\text{Evelyn}", "Briana", False),
    ("\\text{C,E}", "E and C", True),
    ("\\text{C,E}", "C", False),
    ("\\text{(C)}", "C", True),
    ("\\text{(C)}", "(D)", False),
    ("4:30 \\text{ p.m.}", "4:30 pm", True),
    ("4:30 \\text{ p.m.}", "4:30", True),
    ("4:30 \\text{ p.m.}", "4:30 a.m.", False),
    ("4:30", "4:03", False),
    ("\\text{6:00 PM}", "6 p.m.", True),
    ("6 PM", "6 AM", False),
    ("4343_6", "4343_{6}", True),
    ("4343_6", "4343", True),
    ("4343_6", "4343_7", False),
    ("152A_{11}", "152A", True),
    ("25^\\circ", "25_{6}", False),
    ("17", "25_6", True),
    ("52_8", "52_1", False),
    ("17", "25_1", False),
    ("(3,4]", "(3, 4]", True),
    ("(3,4]", "[3,4]", False),
    ("(3,4]", "(3,4)", False),
    ("(3,4]", "(4,3]", False),
    ("(3,4]", "(3,4,5]", False),
    ("(1/2,-3)", "\\left(0.5,\\,-3\\right)", True),
    ("1,-2", "-2, 1", True),
    ("1,-2", "1", False),
    ("1,-2", "1,2", False),
    ("1,1,2", "1,2,2", False),
    ("7, -2, \\text{ and } -5", "-5,7,-2", True),
    ("x=1,2", "2 or 1", True),
    ("\\{1,2\\}", "2,1", True),
    ("x \\in [-2,7]", "[-2,7]", True),
    ("x \\in [-2,7]", "[-2,7)", False),
    ("3 \\pm 2", "1, 5", None),
    ("58,500", "58, 500", False),
    ("[-36,104]", "\\left[-36,104\\right]", True),
]


@pytest.mark.parametrize(("gold", "answer", "equal"), [row for row in DECIDED if row[2] is not None])
@pytest.mark.parametrize("identity", [True, False])
def test_decided_without_algebra(gold: str, answer: str, equal: bool, identity: bool) -> None:
    found = compare(gold, answer, no_algebra, identity=identity)
    assert found.verdict is (Verdict.RIGHT if equal else Verdict.WRONG)


def test_what_is_left_goes_to_the_algebra_part_by_part() -> None:
    asked = []

    def algebra(gold: str, answer: str) -> Comparison:
        asked.append((gold, answer))
        return Comparison(Verdict.RIGHT if gold == answer else Verdict.WRONG, "")

    assert compare("(\\pi, 2)", "(\\pi, 2.0)", algebra).verdict is Verdict.RIGHT
    assert asked == []
    assert compare("(\\pi, 2)", "(2\\pi/2, 3)", algebra).verdict is Verdict.WRONG
    assert asked == [("\\pi", "2\\pi/2")]
    asked.clear()
    assert compare("y = 2x", "x+x", algebra).verdict is Verdict.WRONG
    assert asked == [("2x", "x+x")]


def test_a_gold_number_reaches_the_algebra_in_plain_spelling() -> None:
    asked = []

    def algebra(gold: str, answer: str) -> Comparison:
        asked.append(gold)
        return Comparison(Verdict.WRONG, "")

    compare("\\frac{12}{5,\\!525}", "\\sqrt{2}", algebra)
    assert asked == ["\\frac{12}{5525}"]


@pytest.mark.parametrize("gold", ["(\\pi,2,3)", "\\pi,2,3"])
def test_undecided_parts(gold: str) -> None:
    def unsure(gold: str, answer: str) -> Comparison:
        return Comparison(UNDECIDED, "took too long")

    opening, closing = ("(", ")") if gold.startswith("(") else ("", "")
    assert compare(gold, f"{opening}x,2,3{closing}", unsure).verdict is Verdict.UNDECIDED


def test_one_wrong_part_is_enough_whatever_the_others_are() -> None:
    def unsure(gold: str, answer: str) -> Comparison:
        return Comparison(UNDECIDED, "took too long")

    assert compare("(\\pi,2)", "(x,3)", unsure).verdict is Verdict.WRONG


def test_a_list_too_long_for_pairs_is_undecided_unless_all_are_numbers() -> None:
    assert compare(",".join("x" * 30), ",".join("y" * 30), no_algebra).verdict is Verdict.UNDECIDED
    numbers = [str(k) for k in range(200)]
    assert compare(",".join(numbers), ", ".join(reversed(numbers)), no_algebra).verdict is Verdict.RIGHT


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        ("(1,2)", ("(", ")", ("1", "2"))),
        ("(1,2)\\cup(3,4)", ("", "", ("(1,2)\\cup(3,4)",))),
        ("\\{1\\pm\\sqrt{5},-2\\}", ("\\{", "\\}", ("1+\\sqrt{5}", "1-\\sqrt{5}", "-2"))),
        ("\\frac{1}{2}, f(1,2)", ("", "", ("\\frac{1}{2}", "f(1,2)"))),
        ("(x+1)(x-2)", ("", "", ("(x+1)(x-2)",))),
        ("(x+1)", ("", "", ("(x+1)",))),
        ("12,345", ("", "", ("12,345",))),
        ("random", ("", "", ("random",))),
    ],
)
def test_parts(answer: str, parts: tuple) -> None:
    found = split_parts(answer)
    assert (found.opening, found.closing, found.parts) == parts
