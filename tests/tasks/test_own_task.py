"""A task of one's own: one class in one file outside the package."""

import json
import sys

import pytest

from stepcredit.cli import main
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.models.scratch import ModelSize, policy_from_scratch
from stepcredit.tasks.registry import load_task

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


def test_it_is_collected_trained_on_and_evaluated(file, tmp_path, byte_tokenizer):
    policy = tmp_path / "policy"
    policy_from_scratch(byte_tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(policy)
    byte_tokenizer.save_pretrained(policy)
    task = ["--task", f"{file}:Doubling", "--model", str(policy)]
    assert (
        main(["collect", *task, "--limit", "6", "--num_generations", "4", "--output_dir", str(tmp_path / "episodes")])
        == 0
    )
    episodes = list(load_episodes(tmp_path / "episodes"))
    assert {e.prompt_id for e in episodes} == {f"train-{n}" for n in range(1, 7)}
    train = ["train", "--method", "oreo", "--level", "step", "--model", str(policy)]
    train += ["--episodes", str(tmp_path / "episodes"), "--output_dir", str(tmp_path / "out"), "--max_steps", "1"]
    assert main([*train, "--truncated", "zero", "--report_to", "none"]) == 0
    saved = json.loads((tmp_path / "out" / "value" / "config.json").read_text())["stepcredit"]
    assert saved == {"level": "step", "step_delimiters": ["1", "2"], "max_step_tokens": 256}
    evaluate = ["evaluate", *task, "--value_model", str(tmp_path / "out" / "value"), "--search", "beam", "--width", "2"]
    assert main([*evaluate, "--split", "test", "--limit", "3", "--output_dir", str(tmp_path / "results")]) == 0
    (row,) = json.loads((tmp_path / "results" / "results.json").read_text())
    assert (row["task"], row["task_version"], row["n"]) == ("doubling", "1", 3)


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
