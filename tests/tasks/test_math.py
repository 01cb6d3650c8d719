import json
from collections import Counter
from pathlib import Path

import datasets
import pytest

from stepcredit.errors import InputError
from stepcredit.grading.extraction.boxes import boxed_gold
from stepcredit.grading.extraction.response import extract
from stepcredit.grading.grade import Grade
from stepcredit.grading.style import MATH as BOXED_EXPRESSION
from stepcredit.tasks import prompts
from stepcredit.tasks.math import MATH, SUBJECTS
from stepcredit.tasks.prompts import PROMPT_STYLES
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Problem, Task
from stepcredit.verdict import Verdict

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "math500.jsonl.gz").is_file(), reason="the real data is not here")

ROW = {
    "problem": "What is $1/3 + 1/3$?",
    "level": "Level 3",
    "type": "Algebra",
    "solution": "Not $\\boxed{1}$. It is $\\boxed{\\frac{2}{3}}$.",
}
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def one(tmp_path, row, style=None):
    (problem,) = MATH(write(tmp_path / "any.jsonl", [row]), style).problems("test")
    return problem


def test_a_problem_in_full(tmp_path):
    assert one(tmp_path, ROW) == Problem(
        prompt_id="math-test-0",
        prompt=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": ROW["problem"]}],
        answer="\\frac{2}{3}",
        solution=ROW["solution"],
        metadata={"level": 3, "type": "Algebra"},
    )


def test_a_problem_of_math500_in_full(tmp_path):
    row = {
        "problem": "P?",
        "solution": "It is $\\boxed{2}$.",
        "answer": "2",
        "subject": "Geometry",
        "level": 5,
        "unique_id": "test/geometry/1.json",
    }
    write(tmp_path / "math500.jsonl", [row])
    (problem,) = MATH(str(tmp_path), "plain").problems("math500")
    assert problem == Problem(
        prompt_id="math-math500-0",
        prompt="Question: P?\nAnswer:",
        answer="2",
        solution=" It is $\\boxed{2}$.",
        metadata={"level": 5, "type": "Geometry", "unique_id": "test/geometry/1.json"},
    )


@pytest.mark.parametrize(
    ("row", "answer", "solution"),
    [
        ({"solution": "So \\fbox{7}."}, "7", "So \\fbox{7}."),
        ({"solution": "So $\\boxed 5$."}, "5", "So $\\boxed 5$."),
        ({"solution": "So $\\boxed{ x }$."}, "x", "So $\\boxed{ x }$."),
        ({"solution": "So $\\boxed{2}$.", "answer": "two"}, "two", "So $\\boxed{2}$."),
        ({"solution": "So 2.\n", "answer": 2}, "2", "So 2.\nThe answer is $\\boxed{2}$."),
        ({"solution": None, "answer": "2"}, "2", None),
        ({"answer": "2"}, "2", None),
    ],
)
def test_answers_and_solutions(tmp_path, row, answer, solution):
    problem = one(tmp_path, {"problem": "P?", **row})
    assert (problem.answer, problem.solution) == (answer, solution)
    assert problem.metadata == {"level": None, "type": None}


@pytest.mark.parametrize(("level", "number"), [("Level 1", 1), ("Level ?", None), (4, 4), ("5", 5), (None, None)])
def test_levels(tmp_path, level, number):
    assert one(tmp_path, {**ROW, "level": level}).metadata["level"] == number


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"problem": "P?", "solution": "So 2."}, "no 'answer', and no \\boxed{} in the 'solution'"),
        ({"problem": "P?", "solution": "So $\\boxed{ }$."}, "no 'answer', and no \\boxed{} in the 'solution'"),
        ({"problem": "P?", "answer": " "}, "no 'answer', and no \\boxed{} in the 'solution'"),
        ({"problem": "P?"}, "no 'answer', and no \\boxed{} in the 'solution'"),
        ({"problem": "P?", "solution": 3, "answer": "2"}, "'solution' must be non-blank text"),
        ({"question": "P?", "answer": "2"}, "no column 'problem'; there is question, answer"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, what):
    data = write(tmp_path / "any.jsonl", [ROW, row])
    with pytest.raises(InputError) as error:
        MATH(data).problems("test")
    assert str(error.value) == f"{data}:2: {what}"


def test_examples_before_a_problem(tmp_path):
    write(tmp_path / "train.jsonl", [{"problem": f"P{k}?", "solution": f"$\\boxed{{{k}}}$"} for k in range(5)])
    write(tmp_path / "math500.jsonl", [ROW])
    task = MATH(str(tmp_path), "lm-eval")
    (problem,) = task.problems("math500")
    whole = {f"Problem:\nP{k}?\n\nSolution: $\\boxed{{{k}}}$" for k in range(5)}
    *shown, asked = problem.text.split("\n\nProblem:\n")
    assert asked == f"{ROW['problem']}\n\nSolution:"
    assert {"Problem:\n" + example.removeprefix("Problem:\n") for example in shown} < whole
    assert len(shown) == 4
    assert problem.solution == " " + ROW["solution"]
    for k, own in enumerate(task.problems("train")):
        assert own.text.count(f"P{k}?") == 1
    assert set(task.source_versions) == {"train", "math500"}


def test_examples_are_never_drawn_from_a_single_file(tmp_path):
    data = write(tmp_path / "any.jsonl", [{"problem": f"P{k}?", "answer": "1", "solution": "1"} for k in range(5)])
    assert len(MATH(data, "lm-eval").problems("train")) == 5
    for split in ("test", "math500"):
        with pytest.raises(InputError, match="the examples come from train"):
            MATH(data, "lm-eval").problems(split)


def test_splits(tmp_path):
    names = {"train": "math_train4500.jsonl", "test": "math_test.jsonl", "math500": "math500.jsonl"}
    for split, name in names.items():
        write(tmp_path / name, [{**ROW, "problem": split}] * 2)
    task = MATH(str(tmp_path))
    for split in names:
        assert [p.prompt_id for p in task.problems(split)] == [f"math-{split}-0", f"math-{split}-1"]
        assert task.problems(split, 1, seed=3)[0].prompt[1]["content"] == split
    with pytest.raises(InputError, match="split: no split 'dev'; there is train, test, validation, math500"):
        task.problems("dev")
    with pytest.raises(InputError, match="limit: 3 problems were asked for; the split has 2"):
        task.problems("test", 3)


def test_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list([{**ROW, "problem": str(config)}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = MATH()
    assert [p.prompt[1]["content"] for p in task.problems("train")] == list(SUBJECTS)
    assert asked == [("EleutherAI/hendrycks_math", subject, "train") for subject in SUBJECTS]
    asked.clear()
    task.problems("test", 1)
    task.problems("math500")
    assert asked == [
        *[("EleutherAI/hendrycks_math", subject, "test") for subject in SUBJECTS],
        ("HuggingFaceH4/MATH-500", None, "test"),
    ]
    assert {s: v.split("@")[0] for s, v in task.source_versions.items()} == {
        "train": "EleutherAI/hendrycks_math",
        "test": "EleutherAI/hendrycks_math",
        "math500": "HuggingFaceH4/MATH-500",
    }


@pytest.mark.parametrize("style", ["qwen-math", "deepseek-math-plain", "lm-eval", "plain"])
def test_grading_looks_for_a_box(monkeypatch, style):
    asked = []

    def grade_answer(*args):
        asked.append(args)
        return Grade(Verdict.WRONG, "3")

    monkeypatch.setattr(prompts, "grade_answer", grade_answer)
    task = MATH("unread", style)
    problem = Problem("p", "P?", "2")
    assert task.grade(problem, "\\boxed{3}") == Grade(Verdict.WRONG, "3")
    assert asked == [("\\boxed{3}", "2", BOXED_EXPRESSION)]
    assert task.wrong_steps(problem, "\\boxed{3}") is None


def test_the_protocol_and_the_registry():
    task = load_task("math", "unread", "lm-eval")
    assert isinstance(task, MATH)
    assert isinstance(task, Task)
    assert (task.stop, task.max_new_tokens, task.version) == (("Problem:",), 2048, "2")
    assert task.step_delimiters == ("\n", ". ", ".$ ")
    assert task.source_versions == {}
    with pytest.raises(InputError, match="no prompt style 'x'"):
        load_task("math", prompt_style="x")


@needs_data
def test_the_real_data():
    task = MATH(str(DATA))
    train, test = task.problems("train"), task.problems("math500")
    assert (len(train), len(test)) == (4500, 500)
    for problem in [*train, *test]:
        assert problem.answer
        assert boxed_gold(problem.solution) is not None
        assert problem.metadata["level"] in (1, 2, 3, 4, 5)
    subjects = {p.metadata["type"] for p in train}
    assert {s.lower().replace(" ", "_").replace("&", "and") for s in subjects} == set(SUBJECTS)
    assert {p.metadata["type"] for p in test} == subjects
    assert Counter(p.metadata["level"] for p in test) == {1: 43, 2: 90, 3: 105, 4: 128, 5: 134}
    assert not {p.prompt[1]["content"] for p in train} & {p.prompt[1]["content"] for p in test}


@needs_data
def test_the_answers_of_math500_are_the_boxes_of_its_solutions():
    problems = MATH(str(DATA / "math500.jsonl.gz")).problems("math500")
    assert [p.prompt_id for p in problems if boxed_gold(p.solution).strip() != p.answer] == []


@needs_data
@pytest.mark.parametrize("style", PROMPT_STYLES["math"])
def test_every_worked_solution_is_found_where_its_style_asks(style):
    task = MATH(str(DATA), style)
    for problem in task.problems("math500"):
        found = extract(problem.solution, task.prompt_style.style)
        assert (found.text, found.marker) == (problem.answer, task.prompt_style.style.marker)


@needs_data
def test_the_examples_of_the_real_data():
    problems = MATH(str(DATA), "lm-eval").problems("math500")
    assert {p.text.count("Problem:\n") for p in problems} == {5}
    assert len({p.text.rpartition("Problem:\n")[0] for p in problems}) == 1
