import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.episodes.alignment import align
from stepcredit.episodes.encoding import decode, prompt_ids
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.tasks.arithmetic import DIGITS, GROUPS, GUESS_RIGHT, HASTY, Arithmetic, work
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict

TASK = Arithmetic()
PROBLEM = Problem("p", "digits 7 0 4 | 3 3 8 | 1 9 2\n", "odd even even")
GOOD = (
    "work even 7 odd 0 odd 4 odd so odd\n"
    "guess even 3 odd 3 even 8 even so even\n"
    "work even 1 odd 9 even 2 even so even\n"
)
GUESSED_WRONG = GOOD.replace("guess even 3 odd 3 even 8 even so even", "guess odd 3 even 3 odd 8 odd so odd")
WORKED_WRONG = GOOD.replace("2 even so even", "2 odd so odd")
CHANGED_ITS_MIND = GOOD.replace("8 even so even", "8 even so odd")


def test_work_by_hand():
    assert work([7, 0, 4]) == " 7 odd 0 odd 4 odd"
    assert work([3, 3, 8]) == " 3 odd 3 even 8 even"
    assert work([3, 3, 8], start=1) == " 3 even 3 odd 8 odd"


@pytest.mark.parametrize(
    ("response", "verdict", "wrong"),
    [
        (GOOD + "answer odd even even", Verdict.RIGHT, [False] * 4),
        (GUESSED_WRONG + "answer odd odd even", Verdict.WRONG, [False, True, False, False]),
        (GUESSED_WRONG + "answer odd even even", Verdict.WRONG, [False, True, False, True]),
        (WORKED_WRONG + "answer odd even odd", Verdict.WRONG, [False, False, True, False]),
        (GOOD + "answer odd even odd", Verdict.WRONG, [False, False, False, True]),
        (CHANGED_ITS_MIND + "answer odd even even", Verdict.WRONG, [False, True, False, True]),
        (GOOD.replace("so odd", "odd", 1) + "answer odd even even", Verdict.WRONG, [True, False, False, True]),
        (GOOD + "answer odd even", Verdict.WRONG, [False, False, False, True]),
        (GOOD + "answer odd even even even", Verdict.WRONG, [False, False, False, True]),
        (GOOD.splitlines()[0] + "\nanswer odd", Verdict.WRONG, [False, True]),
        (GOOD + GOOD + "answer odd even even", Verdict.WRONG, [False] * 3 + [True] * 4),
        ("", Verdict.WRONG, [True]),
        ("answer", Verdict.WRONG, [True]),
        ("answer odd even even", Verdict.WRONG, [True]),
        ("the answer odd even even", Verdict.WRONG, [True]),
    ],
)  # fmt: skip
def test_verdicts_and_wrong_steps_by_hand(response, verdict, wrong):
    assert TASK.grade(PROBLEM, response).verdict is verdict
    assert TASK.wrong_steps(PROBLEM, response) == wrong


def test_kinds():
    assert TASK.step_kinds(GOOD + "answer odd even even") == ["work", "guess", "work", "answer"]
    assert TASK.step_kinds("well\nanswer odd") == ["other", "answer"]


def test_every_gold_answer_passes_and_every_other_fails():
    for problem in TASK.problems("test", 300):
        groups = [[int(d) for d in part.split()] for part in problem.prompt.removeprefix("digits").split("|")]
        assert {len(g) for g in groups} == {DIGITS}
        truth = ["odd" if sum(g) % 2 else "even" for g in groups]
        assert len(truth) == GROUPS
        lines = "".join(f"work even{work(g)} so {t}\n" for g, t in zip(groups, truth))
        assert TASK.grade(problem, lines + "answer " + " ".join(truth)).verdict is Verdict.RIGHT
        for k in range(len(truth)):
            other = [*truth[:k], {"odd": "even", "even": "odd"}[truth[k]], *truth[k + 1 :]]
            assert TASK.grade(problem, lines + "answer " + " ".join(other)).verdict is Verdict.WRONG


def test_splits_share_no_prompt_and_seeds_differ():
    prompts = {s: {p.prompt for p in TASK.problems(s, 400, seed)} for seed in (0, 1) for s in ("train", "test")}
    assert not prompts["train"] & prompts["test"]
    assert TASK.problems("test", 50, 0) == TASK.problems("test", 80, 0)[:50]
    assert TASK.problems("test", 50, 0) != TASK.problems("test", 50, 1)
    with pytest.raises(InputError, match="no split 'exam'; there is train, validation, test"):
        TASK.problems("exam")
    with pytest.raises(InputError, match="more than half of all"):
        TASK.problems("test", 10**9)
    with pytest.raises(InputError, match="unknown task 'x'; choose from alfworld, arithmetic"):
        load_task("x")


def test_demonstrators_are_as_described():
    episodes = TASK.demonstrations(2000, seed=0)
    problems = {p.prompt_id: p for p in TASK.problems("train", 2000, 0)}
    kinds, wrong = [], []
    for episode in episodes:
        problem = problems[episode.prompt_id]
        kinds += TASK.step_kinds(episode.completion)
        wrong += TASK.wrong_steps(problem, episode.completion)
        assert episode.reward == float(not any(TASK.wrong_steps(problem, episode.completion)))
    kinds, wrong = np.array(kinds), np.array(wrong)
    lines = kinds != "answer"
    ends_odd = np.array(
        [line.rpartition(" so")[0].endswith("odd") for e in episodes for line in e.completion.split("\n")]
    )
    assert (wrong == ends_odd)[kinds == "guess"].all()
    assert abs((kinds[lines] == "guess").mean() - HASTY) < 0.03
    assert abs((~wrong[kinds == "guess"]).mean() - GUESS_RIGHT) < 0.03
    assert not wrong[kinds != "guess"].any()


def test_one_token_a_word_and_text_comes_back():
    tokenizer = TASK.tokenizer()
    for episode in TASK.demonstrations(50, seed=1):
        row = align(episode, tokenizer, StepRule(TASK.step_delimiters))
        assert decode(row.ids.tolist(), tokenizer) == episode.prompt + episode.completion + "<eos>"
        assert tokenizer.unk_token_id not in row.ids
        assert int(row.action_mask.sum()) <= TASK.max_new_tokens
        assert row.step_id.max() + 1 == len(TASK.wrong_steps(PROBLEM, episode.completion)) + 1
    assert len(prompt_ids(PROBLEM.prompt, tokenizer)) == 1 + 9 + 2 + 1


@given(st.text(alphabet="work guesbcaud 123\n|", max_size=80))
def test_the_grader_never_raises_and_judges_every_line(response):
    assert TASK.grade(PROBLEM, response).verdict in Verdict
    assert len(TASK.wrong_steps(PROBLEM, response)) == len(TASK.step_kinds(response))
