"""What the commands are given: small models, episodes, logs, results, a checkpoint, a recipe; all of it good.

python -m faults.materials FOLDER     (with tests/ on the path)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from faults.cases.commands import ROUNDS
from stepcredit.cli import main
from stepcredit.episodes.store import append_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.models.loading import value_model_from
from stepcredit.tasks.arithmetic import Arithmetic

TRAIN = [
    "--max_steps",
    "2",
    "--use_cpu",
    "true",
    "--save_strategy",
    "steps",
    "--save_steps",
    "1",
    "--report_to",
    "none",
    "--warmup_steps",
    "0",
    "--per_device_train_batch_size",
    "4",
]


def make(folder: Path) -> None:
    """Write them all."""
    from transformers import AutoModelForSequenceClassification

    task = Arithmetic()
    tokenizer = task.tokenizer()
    policy = policy_from_scratch(tokenizer, ModelSize(16, 32, 2, 2), seed=0)
    config = type(policy.config).from_dict({**policy.config.to_dict(), "num_labels": 1})
    models = {
        "policy": policy,
        "value": value_model_from(policy),
        "reward": AutoModelForSequenceClassification.from_config(config),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    append_episodes(folder / "episodes", task.demonstrations(24, 0))
    rows = [{"prompt": f"{k}+1=", "completion": str(k + 1), "reward": 1.0} for k in range(4)]
    _lines(folder / "logs.jsonl", rows)
    _lines(folder / "answers.jsonl", [{"response": f"#### {k}", "answer": "1", "question": str(k)} for k in range(4)])
    _lines(folder / "problems.jsonl", [{"question": f"{k}+1?", "answer": f"#### {k + 1}"} for k in range(6)])
    (folder / "recipe.yaml").write_text(
        "model: policy\ntask: arithmetic\ncollect: {limit: 2, num_generations: 2, max_new_tokens: 4}\n"
        "train: {max_steps: 1, use_cpu: true, report_to: none}\nmethods: {rft: {}, oreo: {}}\n"
        "evaluate: {limit: 2, max_new_tokens: 4}\n"
    )
    for command in (
        ["train", "--method", "oreo", "--model", "policy", "--episodes", "episodes", "--output_dir", "trained", *TRAIN],
        ["collect", "--task", "arithmetic", "--model", "policy", "--limit", "4", "--num_generations", "2",
         "--max_new_tokens", "4", "--output_dir", "collected"],
        ["evaluate", "--task", "arithmetic", "--model", "policy", "--value_model", "value", "--limit", "4",
         "--max_new_tokens", "4", "--search", "sample", "--num_generations", "2", "--output_dir", "results"],
        ["compare", "--task", "arithmetic", "--model", "policy", "--episodes", "episodes", "--methods", "rft",
         "--seeds", "0", "--learning_rates", "1e-3", "--steps", "1", "--validation_prompts", "2", "--test_prompts",
         "2", "--searches", "greedy", "--output_dir", "comparison"],
        [*ROUNDS, "--model", "policy", "--output_dir", "rounds"],
    ):  # fmt: skip
        if main(command) != 0:
            raise SystemExit(f"materials: {' '.join(command)}")


def _lines(file: Path, rows: list[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    import os

    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True)
    os.chdir(target)
    make(Path())
