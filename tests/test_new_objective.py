"""A new objective is three files: a function, its config, its line in the table of methods."""

import json

import pytest

import stepcredit
from doubles.examples import Copy
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.tasks.arithmetic import Arithmetic

OBJECTIVE = '''"""Toy: the likelihood of right responses up, that of wrong ones down."""

import torch


def toy_loss(log_prob, action_mask, outcome, push):
    """The summed log-probability of each response [B], times how far its outcome falls short of `push`."""
    return (outcome - push) * -torch.where(action_mask, log_prob, 0.0).sum(-1)
'''
CONFIG = '''

@dataclass
class ToyConfig(OfflineConfig):
    """Toy: the likelihood of right responses up, that of wrong ones down."""

    method: ClassVar[str] = "toy"
    push: float = field(default=0.5, metadata={"help": "Outcomes below are pushed down."})
'''
LINE = """
from stepcredit.objectives.toy import toy_loss
from stepcredit.training.configs import ToyConfig

METHODS["toy"] = Method(
    ToyConfig, lambda s, c: LossTerms(toy_loss(s.log_prob, s.action_mask, s.outcome, c.push), None, {}), per="item",
    label="Toy method", color="#123456",
)
"""
RUN = """
import sys
from pathlib import Path
from stepcredit.cli import main

folder = Path(sys.argv[1])
given = ["--model", str(folder / "policy"), "--episodes", str(folder / "episodes")]
train = ["train", "--method", "toy", *given, "--output_dir", str(folder / "out"), "--max_steps", "1", "--push", "0.4"]
assert main([*train, "--report_to", "none"]) == 0
asked = ["--task", "arithmetic", "--model", str(folder / "out" / "policy"), "--limit", "2"]
assert main(["collect", *asked, "--output_dir", str(folder / "more"), "--num_generations", "2"]) == 0
assert main(["evaluate", *asked, "--output_dir", str(folder / "results"), "--method", "toy"]) == 0
compare = ["compare", "--task", "arithmetic", "--methods", "toy", "--seeds", "0", "--learning_rates", "1e-4"]
sizes = ["--steps", "1", "--validation_prompts", "2", "--test_prompts", "3", "--output_dir", str(folder / "compare")]
assert main([*compare, *given, *sizes]) == 0
import stepcredit
assert stepcredit.ToyConfig.method == "toy"
assert "ToyConfig" in stepcredit.__all__
try:
    main(["train", "--method", "toy", "--help"])
except SystemExit:
    pass
"""


@pytest.mark.long
def test_an_objective_in_three_files(tmp_path):
    copy = Copy(tmp_path)
    copy.append("objectives/toy.py", OBJECTIVE)
    copy.append("training/configs.py", CONFIG)
    copy.append("training/methods.py", LINE)
    assert copy.changed() == ["objectives/toy.py", "training/configs.py", "training/methods.py"]
    task = Arithmetic()
    policy = policy_from_scratch(task.tokenizer(), ModelSize(16, 32, 1, 2), seed=0)
    policy.save_pretrained(tmp_path / "policy")
    task.tokenizer().save_pretrained(tmp_path / "policy")
    stepcredit.append_episodes(tmp_path / "episodes", task.demonstrations(8, 0))
    printed = copy.run(RUN, tmp_path)
    assert "--push PUSH" in printed
    assert "dqo,oreo,toy}" in printed
    assert (tmp_path / "out" / "policy" / "model.safetensors").exists()
    rows = json.loads((tmp_path / "compare" / "results.json").read_text())
    assert [row["method"] for row in rows] == ["sft", "sft", "toy", "toy"]
    for folder in ("compare", "results"):
        run = json.loads((tmp_path / folder / "run.json").read_text())
        assert run["methods"]["toy"] == {"label": "Toy method", "color": "#123456"}
