"""The Python API: its names, and the commands as functions, with names or with models in memory."""

import json
import subprocess
import sys

import pytest
import torch

import stepcredit
from stepcredit.cli import main
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.results.schema import written
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.training.methods import METHODS


@pytest.fixture
def policy():
    return policy_from_scratch(Arithmetic().tokenizer(), ModelSize(16, 32, 1, 2), seed=0)


def test_importing_the_package_is_light():
    code = "import sys, stepcredit; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_are_pinned():
    assert stepcredit.__all__ == [
        "DPOConfig", "DQOConfig", "DROConfig", "Episode", "Grade", "IQLConfig", "InputError", "InteractiveTask",
        "InteractiveTaskDefaults", "KTOConfig", "OAPLConfig",
        "OREOConfig", "Observation", "OfflineConfig", "OfflineTrainer", "Problem", "RFTConfig", "SFTConfig",
        "StopReason", "TOPRConfig", "Task", "TaskDefaults", "Verdict", "__version__", "append_episodes", "collect",
        "evaluate", "grade", "load_episodes", "search",
    ]  # fmt: skip
    assert dir(stepcredit) == stepcredit.__all__
    assert all(getattr(stepcredit, name) is not None for name in stepcredit.__all__)
    assert {method.config.__name__ for method in METHODS.values()} <= set(stepcredit.__all__)
    for name in ("nothing", "NothingConfig"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(stepcredit, name)


def test_collect_returns_the_episodes_that_the_command_writes(policy, tmp_path):
    tokenizer, given = Arithmetic().tokenizer(), {"limit": 3, "num_generations": 2, "seed": 5}
    policy.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = ["collect", "--task", "arithmetic", "--model", str(tmp_path / "policy"), *flags]
    assert main([*command, "--output_dir", str(tmp_path / "command")]) == 0
    written = [(e.completion, e.reward) for e in stepcredit.load_episodes(tmp_path / "command")]
    for name, model in (("named", str(tmp_path / "policy")), ("memory", policy)):
        episodes = stepcredit.collect(
            task="arithmetic", model=model, tokenizer=tokenizer, output_dir=str(tmp_path / name), **given
        )
        assert [(e.completion, e.reward) for e in episodes] == written


def test_evaluate_returns_rows_and_never_goes_on_with_other_weights(policy, tmp_path):
    given = {"task": "arithmetic", "tokenizer": Arithmetic().tokenizer(), "limit": 4, "output_dir": str(tmp_path)}
    (row,) = stepcredit.evaluate(model=policy, **given)
    assert written(row) == json.loads((tmp_path / "results.json").read_text())[0]
    assert (row.n, row.search) == (4, "greedy")
    assert stepcredit.evaluate(model=policy, **given) == [row]
    with torch.no_grad():
        policy.lm_head.weight += 0.01
    with pytest.raises(InputError, match="model"):
        stepcredit.evaluate(model=policy, **given)
    with pytest.raises(InputError, match="unknown setting 'serach'"):
        stepcredit.evaluate(model=policy, serach="beam", **given)


@pytest.mark.parametrize(
    ("response", "answer", "settings", "verdict"),
    [
        ("so it is \\boxed{\\frac{1}{2}}", "0.5", {}, "right"),
        ("The answer is 18.", "9 + 9 = 18\n#### 18", {"answers": "number"}, "right"),
        ("#### 17", 18, {}, "wrong"),
        ("x = 3", "x", {"answers": "expression"}, "wrong"),
    ],
)
def test_grade_is_the_verdict_that_the_command_writes(response, answer, settings, verdict, tmp_path):
    grade = stepcredit.grade(response, answer, **settings)
    assert grade.verdict == verdict
    (tmp_path / "rows.jsonl").write_text(json.dumps({"response": response, "answer": answer}))
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    assert main(["grade", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out.jsonl"), *flags]) == 0
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert (written["verdict"], written["extracted"], written["strict"]) == (
        grade.verdict, grade.extracted, grade.strict
    )  # fmt: skip


def test_grade_says_what_is_wrong_with_its_arguments():
    with pytest.raises(
        InputError, match="answers: unknown kind of answers 'words'; choose from auto, number, expression"
    ):
        stepcredit.grade("a", "b", answers="words")
    with pytest.raises(InputError, match="answer: there is no answer in"):
        stepcredit.grade("a", " ")
