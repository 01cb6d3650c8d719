"""Result files that are damaged or somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from faults.case import Case
from faults.cases.commands import GOOD, ROUNDS
from faults.cases.damage import JSON_DAMAGE, content, shortened

FILES = {"results.json": "results", "value.json": "results", "credit.json": "results", "pairs.json": "comparison",
         "curves.json": "comparison"}  # fmt: skip
OTHER_ROWS = {
    "rows of text": '["a"]',
    "a row of nothing": "[{}]",
    "an accuracy of text": '[{"task": "a", "split": "test", "method": "m", "search": "greedy", "accuracy": "high"}]',
    "an accuracy of NaN": '[{"task": "a", "split": "test", "method": "m", "search": "greedy", "width": 1, "seed": 0, '
    '"n": 3, "accuracy": NaN, "stderr": 0.1}]',
    "an accuracy above 1": '[{"task": "a", "split": "test", "method": "m", "search": "greedy", "width": 1, "seed": 0, '
    '"n": 3, "accuracy": 7, "stderr": 0.1}]',
}


def cases() -> Iterator[Case]:
    """What report, evaluate and compare find in a folder."""
    for file, folder in FILES.items():
        for how, damage in JSON_DAMAGE.items():
            if how == "[]" or (how == "{}" and file == "curves.json"):
                continue  # nothing to show, and no damage
            yield Case(
                "results", f"report, {file}, {how}", ["report", folder], damage=damage(f"{folder}/{file}"), says=(file,)
            )
    for how, text in OTHER_ROWS.items():
        damage = content("results/results.json", text)
        yield Case("results", f"report, {how}", ["report", "results"], damage=damage, says=("results.json",))
    yield Case("results", "report, no folder", ["report", "nowhere"], says=("nowhere",))
    yield Case("results", "report, a file", ["report", "logs.jsonl"], says=("logs.jsonl",))
    yield Case("results", "report, nothing in it", ["report", "policy"], says=("policy",))
    command = [*GOOD["evaluate"]]
    command[command.index("out")] = "results"
    for how, damage in JSON_DAMAGE.items():
        if how == "[]":
            continue
        yield Case(
            "results", f"evaluate into, {how}", command, damage=damage("results/results.json"), says=("results.json",)
        )
    again = ["compare", "--task", "arithmetic", "--model", "policy", "--episodes", "episodes", "--methods", "rft", "--seeds",
             "0", "--learning_rates", "1e-3", "--steps", "1", "--validation_prompts", "2", "--test_prompts", "2",
             "--searches", "greedy", "--output_dir", "comparison"]  # fmt: skip
    for how, damage in JSON_DAMAGE.items():
        file = "comparison/runs/sft-seed0/result.json"
        yield Case("results", f"compare goes on, {how}", again, damage=damage(file), says=("result.json",))
    rounds = [*ROUNDS, "--model", "policy", "--output_dir", "rounds"]
    for file in ("rounds/iterate.json", "rounds/round1/manifest.json"):
        for how, damage in JSON_DAMAGE.items():
            name = Path(file).name
            yield Case("rounds", f"iterate goes on, {name}, {how}", rounds, damage=damage(file), says=(name,))
            if name != "iterate.json":
                command = [*rounds, "--verify"]
                yield Case("rounds", f"verify, {name}, {how}", command, damage=damage(file), says=(name,))
    for more in ([], ["--verify"], ["--rounds", "2"]):
        weights = "rounds/round1/train/policy/model.safetensors"
        command, how = [*rounds, *more], " ".join(["changed weights", *more])
        yield Case("rounds", how, command, damage=shortened(weights, 0.9), says=("model.safetensors", "changed"))
    yield Case("rounds", "another temperature", [*rounds, "--temperature", "0.5"], says=("temperature", "rounds"))
    yield Case("rounds", "nothing to verify", [*GOOD["iterate"], "--verify"], says=("out", "round"))
