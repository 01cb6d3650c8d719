import gzip
import json
from pathlib import Path

import datasets
import pytest

from stepcredit.errors import InputError
from stepcredit.grading.extraction.response import extract
from stepcredit.grading.grade import Grade
from stepcredit.grading.style import GSM8K as HASHES_NUMBER
from stepcredit.grading.style import AnswerStyle, Kind, Marker
from stepcredit.tasks import prompts
from stepcredit.tasks.gsm8k import GSM8K
from stepcredit.tasks.prompts import PROMPT_STYLES
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Problem, Task
from stepcredit.verdict import Verdict

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "gsm8k_test.jsonl.gz").is_file(), reason="the real data is not here")

ROW = {
    "question": "Natalia sold 48 clips, then half as many. How many in all?",
    "answer": "She sold 48/2 = <<48/2=24>>24 then.\nShe sold 48+24 = <<48+24=72>>72 in all.\n#### 72",
}
SYSTEM = "Please reason step by step, and produce a final answer following 4 '#', like '#### 0'"


def numbered(count):
    return [{"question": f"Q{k}?", "answer": f"It is <<{k}={k}>>{k}.\n#### {k}"} for k in range(count)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "gsm8k_train.jsonl", numbered(510))
    write(tmp_path / "gsm8k_test.jsonl", [ROW])
    write(tmp_path / "gsm8k_test_rollouts.jsonl", [{"question": "no", "answer": "no"}])
    return str(tmp_path)


def test_a_problem_in_full(folder):
    (problem,) = GSM8K(folder).problems("test")
    assert problem == Problem(
        prompt_id="gsm8k-test-0",
        prompt=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": ROW["question"]}],
        answer="72",
        solution="She sold 48/2 = 24 then.\nShe sold 48+24 = 72 in all.\n#### 72",
        metadata={},
    )


@pytest.mark.parametrize(
    ("style", "solution"),
    [
        ("qwen-math", "She sold 48/2 = 24 then.\nShe sold 48+24 = 72 in all.\n#### 72"),
        ("qwen-boxed", "She sold 48/2 = 24 then.\nShe sold 48+24 = 72 in all.\nThe answer is \\boxed{72}."),
        ("deepseek-math", "She sold 48/2 = 24 then.\nShe sold 48+24 = 72 in all.\nThe answer is \\boxed{72}."),
        ("deepseek-math-plain", " She sold 48/2 = 24 then.\nShe sold 48+24 = 72 in all.\nThe answer is \\boxed{72}."),
        ("lm-eval", " " + ROW["answer"]),
        ("plain", " She sold 48/2 = 24 then.\nShe sold 48+24 = 72 in all.\n#### 72"),
    ],
)
def test_worked_solutions_end_as_the_style_asks(folder, style, solution):
    (problem,) = GSM8K(folder, style).problems("test")
    assert problem.solution == solution


def test_examples_before_a_question(tmp_path):
    write(tmp_path / "train.jsonl", numbered(6))
    write(tmp_path / "test.jsonl", [ROW])
    task = GSM8K(str(tmp_path), "lm-eval")
    (problem,) = task.problems("test")
    shown = problem.text.split("\n\n")
    assert shown[-1] == f"Question: {ROW['question']}\nAnswer:"
    assert len(shown) == 6
    all_of_train = {f"Question: Q{k}?\nAnswer: It is <<{k}={k}>>{k}.\n#### {k}" for k in range(6)}
    assert set(shown[:-1]) < all_of_train
    for k, own in enumerate(task.problems("train")):
        itself = f"Question: Q{k}?\nAnswer: It is <<{k}={k}>>{k}.\n#### {k}"
        assert set(own.text.split("\n\n")[:-1]) == all_of_train - {itself}
        assert own.text.count(f"Q{k}?") == 1
    assert task.problems("train") == GSM8K(str(tmp_path), "lm-eval").problems("train", seed=7)
    assert set(task.source_versions) == {"train", "test"}


def test_examples_are_never_drawn_from_a_single_file(tmp_path):
    data = write(tmp_path / "any.jsonl", numbered(6))
    assert len(GSM8K(data, "lm-eval").problems("train")) == 6
    with pytest.raises(InputError, match="the examples come from train; give a folder with both splits"):
        GSM8K(data, "lm-eval").problems("test")


def test_splits(folder):
    task = GSM8K(folder)
    train, part, validation = (list(task.problems(s)) for s in ("train", "train_without_validation", "validation"))
    assert (len(train), len(part), len(validation)) == (510, 10, 500)
    assert part + validation == train
    assert [p.answer for p in part] == [str(k) for k in range(10)]
    assert validation[0].prompt_id == "gsm8k-train-10"
    assert task.problems("validation", 3, seed=5) == validation[:3]
    with pytest.raises(InputError, match="split: no split 'dev'; there is train, test, validation, train_without_val"):
        task.problems("dev")
    with pytest.raises(InputError, match="limit: 2 problems were asked for; the split has 1"):
        task.problems("test", 2)


def test_a_folder_may_have_a_validation_file(folder, tmp_path):
    write(tmp_path / "validation.jsonl", numbered(3))
    task = GSM8K(folder)
    assert [p.prompt_id for p in task.problems("validation")] == [f"gsm8k-validation-{k}" for k in range(3)]
    assert len(task.problems("train_without_validation")) == len(task.problems("train")) == 510


def test_too_few_rows_to_hold_500_out(tmp_path):
    data = write(tmp_path / "any.jsonl", numbered(500))
    for split in ("validation", "train_without_validation"):
        with pytest.raises(InputError, match=f"{split} needs more than 500 rows of train; there are 500"):
            GSM8K(data).problems(split)


@pytest.mark.parametrize("answer", ["It is 72.", "It is 72.\n####", "It is 72.\n####  "])
def test_an_answer_without_its_mark_is_named(tmp_path, answer):
    data = write(tmp_path / "any.jsonl", [ROW, {"question": "Q?", "answer": answer}])
    with pytest.raises(InputError, match=r"any.jsonl:2: 'answer' must end in '#### ' and the final answer"):
        GSM8K(data).problems("test")


def test_the_text_after_the_last_mark_is_the_answer(tmp_path):
    data = write(tmp_path / "any.jsonl", [{"question": "Q?", "answer": "#### 1\nNo:\n####  1,234 "}])
    (problem,) = GSM8K(data).problems("test")
    assert (problem.answer, problem.solution) == ("1,234", "#### 1\nNo:\n#### 1,234")


def test_versions_are_of_what_was_read(folder):
    task = GSM8K(folder)
    assert task.version == "2"
    assert task.source_versions == {}
    task.problems("validation")
    assert list(task.source_versions) == ["train"]
    task.problems("test")
    assert all(version.startswith("sha256:") for version in task.source_versions.values())
    assert set(task.source_versions) == {"train", "test"}


def test_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list([ROW])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = GSM8K()
    assert [p.answer for p in task.problems("test")] == ["72"]
    assert asked == [("openai/gsm8k", "main", "test")]
    assert task.source_versions["test"].startswith("openai/gsm8k@")


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("qwen-math", HASHES_NUMBER),
        ("qwen-boxed", AnswerStyle(Marker.BOXED, Kind.NUMBER)),
        ("lm-eval", HASHES_NUMBER),
    ],
)
def test_grading_asks_for_what_the_prompt_asked_for(monkeypatch, style, expected):
    asked = []

    def grade_answer(*args):
        asked.append(args)
        return Grade(Verdict.RIGHT, "72")

    monkeypatch.setattr(prompts, "grade_answer", grade_answer)
    task = GSM8K("unread", style)
    problem = Problem("p", "Q?", "72")
    assert task.grade(problem, "#### 72") == Grade(Verdict.RIGHT, "72")
    assert asked == [("#### 72", "72", expected)]
    assert task.wrong_steps(problem, "#### 72") is None


def test_the_protocol_and_the_registry():
    task = load_task("gsm8k", "unread", "lm-eval")
    assert isinstance(task, GSM8K)
    assert isinstance(task, Task)
    assert (task.stop, task.step_delimiters, task.max_new_tokens) == (("Question:",), ("\n",), 2048)
    assert load_task("gsm8k").stop == ()
    with pytest.raises(InputError, match="no prompt style 'x'"):
        load_task("gsm8k", prompt_style="x")
    with pytest.raises(
        InputError, match="task: unknown task 'x'; choose from alfworld, arithmetic, chain, fetch, gsm8k, math"
    ):
        load_task("x")


@pytest.mark.parametrize("name", ["arithmetic", "chain"])
def test_generated_tasks_read_nothing(name):
    assert load_task(name).name == name
    with pytest.raises(InputError, match=f"data: not supported by {name}, which generates its problems"):
        load_task(name, data="somewhere")
    with pytest.raises(InputError, match=f"prompt_style: not supported by {name}, which generates its problems"):
        load_task(name, prompt_style="plain")


@needs_data
def test_the_real_data():
    task = GSM8K(str(DATA))
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test), len(task.problems("validation"))) == (7473, 1319, 500)
    assert len({p.prompt_id for p in [*train, *test]}) == 7473 + 1319
    for problem in [*train, *test]:
        float(problem.answer.replace(",", ""))
        assert problem.solution.endswith(f"\n#### {problem.answer}")
        assert "<<" not in problem.solution
        assert ">>" not in problem.solution


@needs_data
@pytest.mark.parametrize("style", PROMPT_STYLES["gsm8k"])
def test_every_worked_solution_is_found_where_its_style_asks(style):
    task = GSM8K(str(DATA), style)
    for problem in task.problems("test"):
        found = extract(problem.solution, task.prompt_style.style)
        assert (found.text, found.marker) == (problem.answer, task.prompt_style.style.marker)


@needs_data
def test_the_examples_of_the_real_data():
    rows = [json.loads(line) for line in gzip.decompress((DATA / "gsm8k_train.jsonl.gz").read_bytes()).splitlines()]
    train = {f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows}
    problems = GSM8K(str(DATA), "lm-eval").problems("test")
    (before,) = {p.text.rpartition("\n\nQuestion: ")[0] for p in problems}
    shown = [f"Question: {part}" for part in before.removeprefix("Question: ").split("\n\nQuestion: ")]
    assert len(shown) == 5
    assert set(shown) < train
