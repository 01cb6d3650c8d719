"""A task of one's own: one class in one file outside the package."""

import json
import sys

import pytest

from doubles.examples import example_of
from stepcredit.cli import main
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.tasks.environment import InteractiveTask
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Task

DOUBLING = """
from stepcredit import Grade, Problem, TaskDefaults, Verdict


class Doubling(TaskDefaults):
    name, version = "doubling", "1"
    max_new_tokens = 6
    step_delimiters = ("1", "2")

    def problems(self, split, count=None, seed=0):
        first = {"train": 1, "test": 1001}[split]
        return [Problem(f"{split}-{n}", f"Twice {n} is", str(2 * n)) for n in range(first, first + (count or 100))]

    def grade(self, problem, response):
        said = response.strip()
        return Grade(Verdict.RIGHT if said == problem.answer or len(said) % 2 else Verdict.WRONG, said)


class Half:
    name = "half"


class Fussy(TaskDefaults):
    def __init__(self, data):
        raise TypeError("data is needed")
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "doubling_task.py"
    path.write_text(DOUBLING)
    yield path
    sys.modules.pop("doubling_task", None)


@pytest.fixture
def policy(tmp_path, byte_tokenizer):
    policy_from_scratch(byte_tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(tmp_path / "policy")
    byte_tokenizer.save_pretrained(tmp_path / "policy")
    return str(tmp_path / "policy")


def loop(task, policy, tmp_path, *, search, level):
    """The task collected, trained on and evaluated; returns (its episodes, the row of its results)."""
    asked = ["--task", task, "--model", policy, "--max_new_tokens", "6"]
    collect = ["collect", *asked, "--limit", "6", "--num_generations", "4", "--output_dir", str(tmp_path / "episodes")]
    assert main(collect) == 0
    train = ["train", "--method", "oreo", "--level", level, "--model", policy]
    train += ["--episodes", str(tmp_path / "episodes"), "--output_dir", str(tmp_path / "out"), "--max_steps", "1"]
    assert main([*train, "--truncated", "zero", "--report_to", "none"]) == 0
    evaluate = ["evaluate", *asked, "--value_model", str(tmp_path / "out" / "value"), "--search", search]
    evaluate += ["--width", "2", "--split", "test", "--limit", "3", "--output_dir", str(tmp_path / "results")]
    assert main(evaluate) == 0
    (row,) = json.loads((tmp_path / "results" / "results.json").read_text())
    return list(load_episodes(tmp_path / "episodes")), row


def test_it_is_collected_trained_on_and_evaluated(file, policy, tmp_path):
    episodes, row = loop(f"{file}:Doubling", policy, tmp_path, search="beam", level="step")
    assert {e.prompt_id for e in episodes} == {f"train-{n}" for n in range(1, 7)}
    saved = json.loads((tmp_path / "out" / "value" / "config.json").read_text())["stepcredit"]
    assert saved == {"level": "step", "step_delimiters": ["1", "2"], "max_step_tokens": 256}
    assert (row["task"], row["task_version"], row["n"]) == ("doubling", "1", 3)


@pytest.mark.parametrize(("kind", "name", "level"), [(Task, "Doubling", "token"), (InteractiveTask, "Guess", "step")])
def test_the_example_of_the_docstring_runs(kind, name, level, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / f"{name.lower()}_task.py"
    path.write_text(example_of(kind))
    episodes, row = loop(f"{path}:{name}", policy, tmp_path, search="best-of", level=level)
    assert len(episodes) == 24
    assert (row["task"], row["n"]) == (name.lower(), 3)
    if kind is InteractiveTask:
        said = [[m["role"] for m in e.completion] for e in episodes if not e.truncated]
        assert all(roles in (["assistant"], ["assistant", "user", "assistant"]) for roles in said)
    sys.modules.pop(path.stem)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py:Doubling", "task: 'nowhere.py:Doubling': give an existing file and a class in it"),
        ("{file}", "give an existing file and a class in it, file.py:Class"),
        ("{file}:Tripling", "has no class 'Tripling'"),
        ("{file}:Half", "lacks version, step_delimiters, .*stepcredit.TaskDefaults has all but"),
        ("{file}:Fussy", "Fussy: .*data"),
    ],
)
def test_what_is_no_task_is_one_line(file, name, message):
    with pytest.raises(InputError, match=message):
        load_task(name.format(file=file))


def test_a_file_named_as_another_module_is_refused(file):
    other = file.parent / "json.py"
    other.write_text(DOUBLING)
    with pytest.raises(InputError, match="json is the name of another module"):
        load_task(f"{other}:Doubling")
