import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.episodes.steps import StepRule, preview, step_of_each_token
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
    with pytest.raises(InputError, match="delimits nothing"):
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
