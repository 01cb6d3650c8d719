"""Flags that are unknown, misspelled, without a value or of the wrong type."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import Case
from faults.cases.commands import GOOD

MISSPELLED = {
    "quickstart": ("--sead", "--seed"),
    "import": ("--colums", "--columns"),
    "inspect": ("--previw", "--preview"),
    "collect": ("--temprature", "--temperature"),
    "grade": ("--anwsers", "--answers"),
    "train": ("--learning_rat", "--learning_rate"),
    "estimate": ("--devise", "--device"),
    "evaluate": ("--serch", "--search"),
    "compare": ("--method", "--methods"),
    "iterate": ("--round", "--rounds"),
    "reproduce": ("--seed", "--seeds"),
    "alfworld build": ("--valid_unsen", "--valid_unseen"),
    "alfworld demonstrate": ("--careles", "--careless"),
    "generate": ("--tempurature", "--temperature"),
    "report": ("--confg", "--config"),
}
ILL_TYPED = {
    "quickstart": ("--seed", "x"),
    "import": ("--reward_range", "low"),
    "inspect": ("--preview", "two"),
    "collect": ("--num_generations", "1.5"),
    "grade": ("--workers", "many"),
    "train": ("--learning_rate", "fast"),
    "estimate": ("--num_prompts", "many"),
    "evaluate": ("--width", "wide"),
    "compare": ("--seeds", "zero"),
    "iterate": ("--rounds", "two"),
    "reproduce": ("--seeds", "1.5"),
    "generate": ("--num_generations", "many"),
    "alfworld build": ("--train", "all"),
    "alfworld demonstrate": ("--careless", "very"),
}
OLD = {"--policy": "policy", "--out": "x", "--value": "value", "--prompts": "2", "--samples": "2"}
HUGE = "9" * 5000


def cases() -> Iterator[Case]:
    """The cases, for every command."""
    for name, good in GOOD.items():
        wrong, right = MISSPELLED[name]
        yield Case("misspelled flags", f"{name} {wrong}", [*good, wrong, "1"], says=(wrong, right))
        yield Case("unknown flags", f"{name} --foo", [*good, "--foo", "1"], says=("--foo",))
        yield Case("unknown flags", f"{name} -x", [*good, "-x"], says=("-x",))
        if name in ILL_TYPED:
            flag, value = ILL_TYPED[name]
            yield Case("ill-typed flags", f"{name} {flag} {value}", [*good, flag, value], says=(flag, value))
            yield Case("huge numbers", f"{name} {flag}", [*good, flag, HUGE], says=(flag.strip("-"),))
            yield Case("flags without a value", f"{name} {flag}", [*good, flag], says=(flag,))
    for flag, value in OLD.items():
        yield Case("unknown flags", f"evaluate {flag}", [*GOOD["evaluate"], flag, value], says=(flag,))
    yield Case("unknown flags", "a stray word", [*GOOD["collect"], "stray"], says=("stray",))
    yield Case("unknown flags", "an abbreviation", [*GOOD["collect"], "--temp", "1"], says=("--temp", "--temperature"))
    yield Case("flags without a value", "--config", [*GOOD["collect"], "--config"], says=("--config",))
    yield Case("flags without a value", "--method", ["train", "--method"], says=("--method",))
    for name in ("import", "inspect", "grade", "reproduce", "report"):
        yield Case("missing arguments", name, [GOOD[name][0], *GOOD[name][2:]], says=())
    for name, flag in {
        "collect": "--model",
        "train": "--episodes",
        "estimate": "--model",
        "evaluate": "--task",
        "compare": "--task",
        "iterate": "--method",
    }.items():
        command = list(GOOD[name])
        at = command.index(flag)
        yield Case("missing arguments", f"{name} {flag}", command[:at] + command[at + 2 :], says=(flag,))
    for name in ("collect", "train", "evaluate", "compare", "iterate", "quickstart", "import", "reproduce"):
        command = list(GOOD[name])
        at = command.index("--output_dir")
        without = command[:at] + command[at + 2 :]
        yield Case("empty outputs", name, [*without, "--output_dir", ""], says=("output_dir",))
    yield Case("empty outputs", "grade", ["grade", "answers.jsonl", "--output", ""], says=("output",))
    yield Case("empty outputs", "estimate", [*GOOD["estimate"], "--output", ""], says=("output",))
