"""The good commands that the cases spoil, and words that are no command."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import Case

TRAIN = ["--max_steps", "1", "--use_cpu", "true", "--save_strategy", "no", "--report_to", "none"]
ROUNDS = [
    *("iterate", "--task", "arithmetic", "--method", "oreo", "--rounds", "1", "--limit", "2", "--num_generations", "2"),
    *("--max_new_tokens", "4", "--validation_prompts", "2", "--test_prompts", "0", "--settings"),
    '{"oreo": {"max_steps": 1, "use_cpu": true, "save_strategy": "no", "report_to": "none", "truncated": "zero"}}',
]
DRAW = ["--task", "arithmetic", "--limit", "2", "--max_new_tokens", "4"]

GOOD: dict[str, list[str]] = {
    "quickstart": ["quickstart", "--output_dir", "out", "--demonstrations", "200", "--sft_steps", "1"],
    "import": ["import", "logs.jsonl", "--output_dir", "out"],
    "inspect": ["inspect", "episodes"],
    "collect": ["collect", *DRAW, "--model", "policy", "--num_generations", "2", "--output_dir", "out"],
    "grade": ["grade", "answers.jsonl", "--output", "out.jsonl"],
    "train": [
        "train",
        "--method",
        "oreo",
        "--model",
        "policy",
        "--episodes",
        "episodes",
        "--output_dir",
        "out",
        *TRAIN,
    ],
    "estimate": [
        *("estimate", "--method", "oreo", "--model", "policy", "--episodes", "episodes", "--device", "H100"),
    ],
    "evaluate": ["evaluate", *DRAW, "--model", "policy", "--output_dir", "out"],
    "compare": [
        *("compare", "--task", "arithmetic", "--model", "policy", "--episodes", "episodes", "--methods", "rft"),
        *("--seeds", "0", "--steps", "1", "--test_prompts", "2", "--validation_prompts", "2", "--output_dir", "out"),
    ],
    "iterate": [*ROUNDS, "--model", "policy", "--output_dir", "out"],
    "reproduce": ["reproduce", "recipe.yaml", "--output_dir", "out"],
    "alfworld build": ["alfworld", "build", "--output_dir", "out", "--train", "1"],
    "alfworld demonstrate": ["alfworld", "demonstrate", "--data", "games", "--output_dir", "out"],
    "generate": ["generate", "1+1=", "--model", "policy", "--max_new_tokens", "4", "--output", "out.jsonl"],
    "report": ["report", "results"],
}
"""A command of each kind that would run, in a folder of the materials."""


def cases() -> Iterator[Case]:
    """Words that are no command."""
    for word, says in {"colect": "collect", "evalute": "evaluate", "repot": "report", "help": "--help"}.items():
        yield Case("unknown commands", word, [word], says=(word, says))
    yield Case("unknown commands", "alfworld play", ["alfworld", "play"], says=("build", "demonstrate"))
    yield Case("unknown commands", "a flag first", ["--task", "arithmetic"], says=("--help",))
