"""Every dataset of reasoning-gym: its gold answers pass its verifier."""

from fractions import Fraction

import pytest

from stepcredit.tasks.registry import load_task
from stepcredit.verdict import Verdict

pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")

from stepcredit.tasks.gym import gym_task
from stepcredit.tasks.gym.answer_checks import CHECKS
from stepcredit.tasks.gym.gym_worker import names

WITHOUT_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Datasets whose entries have no answer: any that the verifier accepts is right."""


def grades(name, split, count):
    task = load_task(f"reasoning-gym:{name}")
    return [task.grade(p, f"So it is.\n<answer>{p.answer}</answer>").verdict for p in task.problems(split, count)]


def test_names():
    assert len(names()) == 105
    assert {"gsm_symbolic", "chain_sum", "countdown", *WITHOUT_GOLD, *CHECKS} < set(names())


@pytest.mark.parametrize("name", ["gsm_symbolic", "countdown", "binary_matrix", "number_sorting", *CHECKS])
def test_gold_answers_are_right(name):
    assert grades(name, "train", 8) == [Verdict.RIGHT] * 8


@pytest.mark.long
def test_gold_answers_of_every_dataset_are_right():
    found = {name: set(grades(name, split, 4)) for name in names() for split in ("train", "test")}
    without = {name for name, verdicts in found.items() if verdicts != {Verdict.RIGHT}}
    assert without == WITHOUT_GOLD
    assert all(found[name] == {Verdict.WRONG} for name in WITHOUT_GOLD)  # no answer


def test_a_generator_that_writes_files_leaves_none_here(tmp_path, monkeypatch):
    """Some programs of codeio write files where they run."""
    monkeypatch.chdir(tmp_path)
    gym_task._workers.cache_clear()  # a worker that starts here
    load_task("reasoning-gym:codeio").problems("train", 120)
    assert list(tmp_path.iterdir()) == []


def test_worked_solutions_are_right():
    task = load_task("reasoning-gym:gsm_symbolic", prompt_style="plain")
    problems = task.problems("train", 300)
    assert len({problem.metadata["template"] for problem in problems}) > 60
    wrong = [p.prompt_id for p in problems if task.grade(p, p.solution).verdict is not Verdict.RIGHT]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("game_of_life_halting", ["I do not know", "{other}"]),
        ("puzzle24", ["6*4*1*1"]),
        ("coin_flip", ["0"]),
        ("complex_arithmetic", ["nan", "nan+nanj"]),
        ("prime_factorization", ["x", "2 x 3", "[2, 3]"]),
    ],
)
def test_what_a_lenient_verifier_would_count_is_wrong(name, wrong):
    task = load_task(f"reasoning-gym:{name}")
    for problem in task.problems("train", 6):
        if name == "coin_flip" and float(Fraction(problem.answer)) < 1e-3:
            continue  # within the tolerance of 0
        other = {"True": "False", "False": "True"}.get(problem.answer, "")
        for answer in wrong:
            given = answer.format(other=other)
            assert task.grade(problem, f"<answer>{given}</answer>").verdict is Verdict.WRONG
