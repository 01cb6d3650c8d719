import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.episodes.steps import OpenStep, StepRule, preview, step_of_each_token, steps_of_tokens
from stepcredit.errors import InputError

LINES = StepRule(("\n",))
SENTENCES = StepRule(("\n", ". ", "? ", "! "))


@pytest.mark.parametrize(
    ("rule", "text", "steps"),
    [
        (LINES, "a=1\nb=2\n", ["a=1\n", "b=2\n"]),
        (LINES, "a=1\nb=2", ["a=1\n", "b=2"]),
        (LINES, "a\n\n  b", ["a\n\n  ", "b"]),
        (LINES, "\n\na\nb", ["\n\na\n", "b"]),  # a blank first line is no step
        (LINES, "", [""]),
        (SENTENCES, "Two. Is it 3.5? Yes!\nDone.", ["Two. ", "Is it 3.5? ", "Yes!\n", "Done."]),
        (StepRule(()), "a\nb. c", ["a\nb. c"]),
    ],
)
def test_by_hand(rule, text, steps):
    assert rule.split(text) == steps


@given(st.text(alphabet="ab .\n?", max_size=30))
def test_steps_joined_are_the_text_and_none_is_blank_but_the_first(text):
    steps = SENTENCES.split(text)
    assert "".join(steps) == text
    assert all(s.strip() for s in steps[1:])


def test_an_empty_delimiter_is_refused():
    with pytest.raises(InputError, match="must not be empty"):
        StepRule(("",))


def test_preview_numbers_the_steps():
    assert preview("x\ny", LINES) == "[0] 'x\\n'\n[1] 'y'"


def test_tokens_that_straddle_a_boundary_belong_where_their_first_letter_is():
    pieces = ["Two", ".", " Th", "ree", ".", "\n", "\n", "x"]
    ends = SENTENCES.ends("".join(pieces))
    assert ends == [5, 13, 14]
    assert step_of_each_token(pieces, ends).tolist() == [0, 0, 1, 1, 1, 1, 1, 2]


def test_a_step_that_no_token_starts_in_leaves_a_gap():
    assert step_of_each_token(["a\nb\n", "c"], [2, 4, 5]).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("rule", "texts", "steps"),
    [
        (LINES, ["a", "\n", "b", "\n\n", "  c"], [0, 0, 1, 1, 2]),
        (LINES, ["a", "\n", "\n", "  ", "b"], [0, 0, 0, 0, 1]),  # blank lines and indentation end no step
        (LINES, ["\n", "a", "\n", "b"], [0, 0, 0, 1]),
        (LINES, ["a\nb", "\n", "c"], [0, 0, 1]),  # nothing begins inside of a token
        (SENTENCES, ["Two", ".", " Th", "ree", ".", "5", ".", "\n", "x"], [0, 0, 1, 1, 1, 1, 1, 1, 2]),
        (SENTENCES, ["a", ".", " ", "b", "?", " ", " c"], [0, 0, 0, 1, 1, 1, 2]),
        (StepRule(("</s>",)), ["a", "</", "s", ">", "b"], [0, 0, 0, 0, 1]),
        (StepRule(("\n",), 2), ["a", "b", "c", "\n", "d", "e", "f"], [0, 0, 1, 1, 2, 2, 3]),
        (StepRule((), 1), ["a", "\n"], [0, 1]),
        (StepRule(()), ["a", "\n", "b"], [0, 0, 0]),
        (LINES, [], []),
    ],
)
def test_the_steps_of_tokens_by_hand(rule, texts, steps):
    assert steps_of_tokens(texts, rule).tolist() == steps


@given(st.lists(st.sampled_from(["a", "b.", ".", " c", " ", "\n", "\n\n", "  d", "?", "? ", "1.5"]), max_size=30))
def test_the_steps_of_tokens_are_those_of_the_text(texts):
    """Token by token without looking ahead, and from the whole text; no step begins inside of a token here."""
    whole = step_of_each_token(texts, SENTENCES.ends("".join(texts)))
    assert steps_of_tokens(texts, SENTENCES).tolist() == np.unique(whole, return_inverse=True)[1].tolist()


def test_a_step_is_begun_by_a_token_only_after_one_that_is_complete():
    step = OpenStep(StepRule((". ",), 4))
    assert not step.ends_before(" a")
    for text, begins in (("It", False), (".", True)):
        step.add(text)
        assert step.ends_before(" Then") is begins
    assert not step.ends_before("5")
    assert not step.ends_before(" ")
    assert not step.full
    step.add("5")
    step.add("6")
    assert step.full
    assert step.ends_before("7")
    assert step.ends_before(" ")


def test_a_limit_below_one_is_refused():
    with pytest.raises(InputError, match="max_step_tokens"):
        StepRule(("\n",), 0)


@given(
    st.text(alphabet="ab. \n\r\t\x1c\x85\u2028\u3000", max_size=20),
    st.sampled_from([("\n",), (". ", "\n"), ("b",), ()]),
)
def test_steps_are_counted_as_they_are_split(text, delimiters):
    rule = StepRule(delimiters)
    assert rule.count(text) == len(rule.split(text))
