import pytest

from stepcredit.report.step_values import marked, pair_up, value_colour
from stepcredit.results.row_files import parsed
from stepcredit.results.schema import CreditExample


def response(values=(), rights=None, initial=None, **fields):
    rights = rights or [None] * len(values)
    steps = [{"text": f"step {i}\n", "value": v, "right": r} for i, (v, r) in enumerate(zip(values, rights))]
    return {"prompt": "p", "answer": "1", "extracted": "1", "verdict": "right"} | {
        "value_initial": initial,
        "steps": steps,
        **fields,
    }


def responses_of(rows):
    return [marked(parsed(CreditExample, row, "credit.json")) for row in rows]


def one(*args, **fields):
    return responses_of([response(*args, **fields)])[0]


def test_colours_at_the_ends_the_middle_and_beyond():
    assert value_colour(0.0) == "rgba(224, 116, 24, 0.550)"
    assert value_colour(0.5) == "rgba(36, 118, 196, 0.000)"
    assert value_colour(1.0) == "rgba(36, 118, 196, 0.550)"
    assert value_colour(0.25) == "rgba(224, 116, 24, 0.275)"
    assert value_colour(-3.0) == value_colour(0.0)
    assert value_colour(1.7) == value_colour(1.0)
    assert value_colour(None) == "transparent"


def test_changes_start_at_the_value_of_the_prompt():
    steps = one([0.75, 0.25, 0.5], initial=0.5).steps
    assert [step.change for step in steps] == [0.25, -0.5, 0.25]
    assert [step.largest_drop for step in steps] == [False, True, False]


def test_the_first_of_equal_drops_is_marked():
    assert [s.largest_drop for s in one([0.75, 0.5, 0.25]).steps] == [False, True, False]
    assert [s.largest_drop for s in one([0.75, 0.5, 0.25], initial=1.0).steps] == [True, False, False]


def test_no_drop_no_mark():
    assert not any(step.largest_drop for step in one([0.1, 0.5, 0.9]).steps)
    assert not any(step.largest_drop for step in one([0.5, 0.497]).steps)
    assert one([0.1, 0.5]).summary == "V never drops."
    assert one([]).steps == ()


def test_an_unknown_value_breaks_the_chain():
    steps = one([0.9, None, 0.1, 0.05]).steps
    assert [step.change for step in steps] == [None, None, None, pytest.approx(-0.05)]
    assert [step.largest_drop for step in steps] == [False, False, False, True]


def test_the_first_wrong_step_is_marked_once():
    steps = one([0.9, 0.4, 0.3], [True, False, False], initial=0.9).steps
    assert [step.first_wrong for step in steps] == [False, True, False]


def test_the_summary_compares_the_marks():
    assert "at the first wrong step, step 2" in one([0.9, 0.1], [True, False]).summary
    assert one([0.9, 0.1, 0.05], [True, None, False]).summary == (
        "The largest drop is at step 2; the first wrong step is step 3."
    )
    assert one([0.9, 0.95], [True, False]).summary == "V never drops; the first wrong step is step 2."


def test_pairs_prefer_the_same_prompt():
    rows = [
        response(prompt="a"),
        response(prompt="b", verdict="wrong"),
        response(prompt="b"),
        response(prompt="b", verdict="undecided"),
    ]
    responses = responses_of(rows)
    pairs, others = pair_up(responses)
    assert [(x is responses[2], y is responses[1]) for x, y in pairs] == [(True, True)]
    assert others == [responses[0], responses[3]]


def test_without_a_common_prompt_the_first_right_and_the_first_wrong_are_the_pair():
    responses = responses_of([response(prompt=p, verdict=v) for p, v in [("a", "right"), ("b", "wrong")]])
    assert pair_up(responses) == ([(responses[0], responses[1])], [])
    assert pair_up(responses[:1]) == ([], responses[:1])


def test_a_prompt_of_messages_is_what_each_says():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    assert one(prompt=messages).prompt == "system: Be brief.\n\nuser: 1+1?"
