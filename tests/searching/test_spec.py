"""The one description of a search: what it refuses, what it needs, and what `--search all` is."""

import pytest

from stepcredit.engines.engine import SamplingParams
from stepcredit.errors import InputError
from stepcredit.searching.spec import SEARCHES, SearchSpec, requested_searches

PARAMS = SamplingParams(8, temperature=0.7, top_p=0.9, top_k=5, seed=3)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("search", {"name": "beem"}),
        ("width", {"width": 0}),
        ("continuations", {"continuations": 0}),
        ("max_step_tokens", {"max_step_tokens": 0}),
        ("budget", {"budget": 0}),
        ("choose", {"choose": "luck"}),
    ],
)
def test_settings_out_of_range(name, given):
    with pytest.raises(InputError, match=f"^{name}: "):
        SearchSpec(**{"name": "beam", "width": 1, "params": PARAMS, **given})


def test_greedy_has_no_temperature_and_no_filters():
    assert SearchSpec("greedy", 1, PARAMS).params == SamplingParams(8, temperature=0.0, seed=3)
    assert SearchSpec("sample", 1, PARAMS).params == PARAMS


@pytest.mark.parametrize(
    ("name", "needs_scorer", "samples", "replies", "values_replies"),
    [
        ("greedy", False, 1, 1, False),
        ("sample", False, 3, 1, False),
        ("vote", False, 1, 1, False),
        ("weighted-vote", True, 1, 1, False),
        ("best-of", True, 1, 3, True),
        ("beam", True, 1, 1, False),
        ("random", False, 1, 3, False),
    ],
)
def test_what_a_search_needs_and_draws(name, needs_scorer, samples, replies, values_replies):
    spec = SearchSpec(name, 3, PARAMS)
    assert (spec.needs_scorer, spec.samples, spec.replies, spec.values_replies) == (
        needs_scorer, samples, replies, values_replies,
    )  # fmt: skip
    assert {name} <= set(SEARCHES)
    assert not SearchSpec(name, 1, PARAMS).values_replies


def test_all_searches_are_those_that_have_what_they_need():
    spec = SearchSpec("beam", 5, PARAMS, continuations=2, budget=9)

    def names(*given):
        return [(s.name, s.width) for s in requested_searches("all", spec, *given)]

    head, powers = [("greedy", 1), ("sample", 5)], (1, 2, 4)
    assert names(3, False, False) == [*head, *(("vote", k) for k in powers)]
    searches = ("vote", "weighted-vote", "best-of", "beam")
    assert names(3, True, False) == [*head, *((s, k) for s in searches for k in powers)]
    turns = [("greedy", 1), ("sample", 3)]
    assert names(3, False, True) == [*turns, *(("random", k) for k in range(2, 6))]
    assert names(3, True, True) == [*turns, *((s, k) for s in ("best-of", "random") for k in range(2, 6))]
    assert {(s.continuations, s.budget) for s in requested_searches("all", spec, 1, True, False)} == {(2, 9)}


def test_one_search_has_its_own_width_and_what_it_needs():
    spec = SearchSpec("sample", 5, PARAMS)

    def width(name, *given):
        (one,) = requested_searches(name, spec, 3, *given)
        assert one.name == name
        return one.width

    assert [width(name, True, False) for name in ("greedy", "sample", "vote", "beam")] == [1, 3, 5, 5]
    assert [width(name, True, True) for name in ("greedy", "sample", "best-of", "random")] == [1, 3, 5, 5]
    for name, given, error in (
        ("beam", (False, False), "beam needs --value_model"),
        ("best-of", (False, True), "best-of needs --value_model"),
        (
            "vote",
            (True, True),
            "'vote' does not apply to an interactive task; choose from greedy, ",
        ),
        ("random", (True, False), "'random' does not apply to a single-turn task"),
        ("beem", (True, False), "unknown search 'beem'; did you mean beam"),
    ):
        with pytest.raises(InputError, match=f"^search: {error}"):
            width(name, *given)
