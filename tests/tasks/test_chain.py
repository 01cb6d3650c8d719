"""The chain task: hand-worked problems, graders against an independent solution, demonstrators as described."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.errors import InputError
from stepcredit.tasks.chain import STATES, Chain, states_of, work
from stepcredit.tasks.task import Problem, Task
from stepcredit.verdict import Verdict

TASK = Chain()
PROMPT = "chain b 7 0 4 | 3 3 8 | 1 9 2 | 5 5 1\n"
# sums 11, 14, 12, 11: remainders 2, 2, 0, 2; b is 1: 1 → 4 → 10-7=3 → 6 → 14-14=0
PROBLEM = Problem(PROMPT, PROMPT, "a")
LINES = [
    "work zero 7 one 0 one 4 two so two from b to e",
    "guess two 3 two 3 two 8 zero so two from e to d",
    "work zero 1 one 9 one 2 zero so zero from d to g",
    "guess two 5 zero 5 one 1 zero so two from g to a",
    "done",
]


def text(*lines):
    return "\n".join(lines)


def test_it_is_a_task_and_the_hand_worked_problem_is_right():
    assert isinstance(TASK, Task)
    assert states_of(PROMPT) == ["b", "e", "d", "g", "a"]
    assert TASK.grade(PROBLEM, text(*LINES)).verdict is Verdict.RIGHT
    assert TASK.wrong_steps(PROBLEM, text(*LINES)) == [False] * 5
    assert TASK.step_kinds(text(*LINES)) == ["work", "guess", "work", "guess", "done"]


@pytest.mark.parametrize(
    ("response", "verdict", "wrong"),
    [
        ("skim 7 0 4 so a", Verdict.RIGHT, [False]),
        ("skim 7 so b", Verdict.WRONG, [True]),
        ("answer a", Verdict.WRONG, [True]),
        ("done", Verdict.WRONG, [True]),
        (text(*LINES[:2], "done"), Verdict.WRONG, [False, False, True]),
        (text(*LINES[:4]), Verdict.WRONG, [False] * 4),
        (text(LINES[0], "guess one 3 one 3 one 8 two so lost"), Verdict.WRONG, [False, True]),
        (text(LINES[0].replace("to e", "to f"), *LINES[1:]), Verdict.RIGHT, [True, False, False, False, False]),
        (text(*LINES[:3], LINES[3].replace("so two", "so one"), "done"), Verdict.RIGHT, [False] * 3 + [True, False]),
        (text(*LINES, *LINES), Verdict.RIGHT, [False] * 5 + [True] * 5),
        (text(*LINES[:4], "skim 1 so a"), Verdict.WRONG, [False] * 4 + [True]),
        ("", Verdict.WRONG, [True]),
    ],
)
def test_responses_by_hand(response, verdict, wrong):
    assert TASK.grade(PROBLEM, response).verdict is verdict
    assert TASK.wrong_steps(PROBLEM, response) == wrong


def test_work_by_hand():
    assert work([7, 0, 4]) == " 7 one 0 one 4 two"
    assert work([3, 3, 8], 1, -1) == " 3 one 3 one 8 two"


def test_demonstrators_are_as_described():
    demonstrations = TASK.demonstrations(4000, 0)
    texts = [str(e.completion) for e in demonstrations]
    right = np.array([e.reward for e in demonstrations])
    blind = np.array([t.startswith("skim") for t in texts])
    assert abs(blind.mean() - 0.4) < 0.03
    assert abs(right[blind].mean() - 1 / len(STATES)) < 0.02
    assert abs(right[~blind].mean() - (0.3 + 0.7 / 3) ** 4) < 0.025
    assert right.mean() < 0.15
    kinds = [kind for t in texts for kind in TASK.step_kinds(t) if kind in ("work", "guess")]
    assert abs(kinds.count("guess") / len(kinds) - 0.7) < 0.02
    for e, response in zip(demonstrations, texts):
        problem = Problem(e.prompt_id, str(e.prompt), e.metadata["answer"])
        wrong = TASK.wrong_steps(problem, response)
        assert any(wrong) == (e.reward == 0)
        assert wrong.count(True) == (e.reward == 0)
        assert wrong[-1] == (e.reward == 0)
        assert TASK.tokenizer()(response).input_ids.count(TASK.tokenizer().unk_token_id) == 0


@given(st.integers(0, 5), st.integers(1, 40))
@settings(deadline=None, max_examples=20)
def test_problems_are_distinct_seeded_and_split_for_good(seed, count):
    splits = {name: {p.prompt for p in TASK.problems(name, count, seed)} for name in ("train", "validation", "test")}
    assert all(len(prompts) == count for prompts in splits.values())
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["validation"]
    again = TASK.problems("train", count, seed)
    assert {p.prompt for p in again} == splits["train"]
    for p in again:
        state = STATES.index(p.prompt.split()[1])
        for group in p.prompt.split(" ", 2)[2].split("|"):
            state = (2 * state + sum(map(int, group.split())) % 3) % 7
        assert STATES[state] == p.answer


def test_no_such_split():
    with pytest.raises(InputError, match="no split 'dev'"):
        TASK.problems("dev")
