"""Signals at marked errors, counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from stepcredit.evaluation.first_error import (
    CHANCE,
    KIND,
    LENGTH,
    POSITION,
    Marked,
    chosen_cases,
    first_error_rows,
    with_controls,
)


def response(problem, wrong, changes, right=False, kinds=None, lengths=None):
    flags = tuple(x == "!" for x in wrong)
    return Marked(
        problem=problem,
        right=right,
        wrong=flags,
        kinds=tuple(kinds or "+" * len(flags)),
        lengths=tuple(lengths or [5] * len(flags)),
        signals={"ΔV": changes},
        about={},
    )


RESPONSES = [
    response("a", ".!.", [0.1, -0.5, 0.0]),  # found
    response("b", "!..", [0.1, -0.5, 0.0]),  # missed
    response("b", ".!", [0.1, -0.5]),  # found
    response("c", "..", [0.0, -0.1], right=True),
    response("c", "!.", [-0.2, 0.3], right=True),  # found, but right
]


def find(rows, metric, signal="ΔV", of="wrong responses", **more):
    (row,) = [
        r for r in rows
        if (r["metric"], r["signal"], r["of"]) == (metric, signal, of) and all(r[k] == v for k, v in more.items())
    ]  # fmt: skip
    return row


def test_hits_by_hand():
    rows = first_error_rows(RESPONSES, {"task": "t"})
    hit = find(rows, "hit")
    assert (hit["estimate"], hit["n"], hit["problems"], hit["task"]) == (round(2 / 3, 4), 3, 2, "t")
    assert find(rows, "hit", of="every mistake")["estimate"] == 3 / 4
    chance = (1 / 3 + 1 / 3 + 1 / 2) / 3
    assert find(rows, "hit", CHANCE)["estimate"] == round(chance, 4)
    assert find(rows, "hit_minus", minus=CHANCE)["estimate"] == round(2 / 3 - chance, 4)


def test_pairs_of_one_kind_and_place_by_hand():
    """At 0: wrong 0.1 (b) and -0.2 (c), right 0.1, 0.1, 0.0: -0.2 is below all three, 0.1 ties twice and is above
    once. At 1: wrong -0.5 twice, right -0.1: below twice."""
    rows = first_error_rows(RESPONSES, {})
    row = find(rows, "below_kind_position", of="steps")
    assert row["n"] == 8
    assert row["estimate"] == round((3 + 1 + 2) / 8, 4)


def test_another_kind_is_not_compared():
    responses = [response("a", "!", [-1.0], kinds="+"), response("b", ".", [0.0], kinds="*", right=True)]
    assert not [r for r in first_error_rows(responses, {}) if r["metric"] == "below_kind_position"]


def test_steps_of_two_fits_are_not_compared():
    wrong, right = response("a", "!", [-1.0]), response("b", ".", [0.0], right=True)
    for fits, pairs in ((("0", "1"), 0), (("1", "1"), 1)):
        both = [replace(r, fit=fit) for r, fit in zip((wrong, right), fits, strict=True)]
        found = [r["n"] for r in first_error_rows(both, {}) if r["metric"] == "below_kind_position"]
        assert found == [1] * pairs


def test_controls_come_from_the_training_responses():
    train = [
        response("w", "...", [0, 0, 0], kinds="+++", right=True),
        response("x", "..!.", [0, 0, 0, 0], kinds="+-*+", lengths=[9, 9, 1, 9]),
        response("y", ".!.", [0, 0, 0], kinds="+*+", lengths=[9, 1, 9]),
    ]
    (test,) = with_controls(train, [response("z", "!.....", [0] * 6, kinds="+*++-+", lengths=[3, 4, 5, 6, 7, 1])])
    assert test.signals[POSITION] == [0, 0, 0, 0, -1, 0]  # the last step but one
    assert test.signals[KIND] == [0, -1, 0, 0, 0, 0]
    assert test.signals[LENGTH] == [3, 4, 5, 6, 7, 1]  # the shortest step drops most
    assert test.signals["ΔV"] == [0] * 6
    (test,) = with_controls([response("x", ".!", [0, 0], lengths=[1, 9])], [test], (LENGTH,))
    assert test.signals[LENGTH] == [-3, -4, -5, -6, -7, -1]  # the longest step drops most
    assert test.signals[KIND] == [0, -1, 0, 0, 0, 0]


def test_a_signal_that_knows_nothing_is_at_chance_and_one_that_knows_is_above():
    rng = np.random.default_rng(0)
    responses = []
    for k in range(300):
        steps = int(rng.integers(2, 6))
        flags = "".join("!" if i == rng.integers(steps) else "." for i in range(steps))
        noise = rng.normal(size=steps)
        flags = flags if "!" in flags else "!" + flags[1:]
        r = response(f"p{k}", flags, noise.tolist())
        knows = noise - 3 * np.array([x == "!" for x in flags])
        responses.append(replace(r, signals={"ΔV": noise.tolist(), "oracle": knows.tolist()}))
    rows = first_error_rows(responses, {})
    blind, oracle = find(rows, "hit_minus", minus=CHANCE), find(rows, "hit_minus", "oracle", minus=CHANCE)
    assert blind["low"] < 0 < blind["high"]
    assert oracle["low"] > 0.2
    assert find(rows, "below_kind_position", "oracle", of="steps")["low"] > 0.9


@pytest.mark.parametrize(("count", "problems"), [(2, "ab"), (3, "abb"), (9, "abb")])
def test_cases_are_half_found_and_half_missed(count, problems):
    assert sorted(r.problem for r in chosen_cases(RESPONSES, "ΔV", count)) == sorted(problems)


def test_nothing_marked_gives_no_rows():
    assert first_error_rows([], {}) == []
    assert {r["metric"] for r in first_error_rows([response("c", "..", [0.0, 1.0], right=True)], {})} == set()
