"""Outputs that cannot be written."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import Case
from faults.cases.commands import GOOD
from faults.cases.damage import content


def output(name: str, path: str) -> list[str]:
    """A good command with another output."""
    command = list(GOOD[name])
    flag = "--output" if name in ("grade", "generate") else "--output_dir"
    command[command.index(flag) + 1] = path
    return command


def cases() -> Iterator[Case]:
    """A file where a folder should be, a folder of something else, no place below a file, a name that is too long."""
    for name in GOOD:
        if name in ("inspect", "report", "alfworld demonstrate", "generate", "estimate"):
            continue
        says = ("out",)
        if name != "grade":
            yield Case("outputs", f"{name}, a file", output(name, "out"), damage=content("out", b"mine"), says=says)
            yield Case(
                "outputs", f"{name}, below a file", output(name, "out/x"), damage=content("out", b"mine"), says=says
            )
        long = "x" * 300 + (".jsonl" if name == "grade" else "")
        yield Case("outputs", f"{name}, a name too long", output(name, long), says=("x" * 20,))
        nul = "a\x00b" + (".jsonl" if name == "grade" else "")
        yield Case("outputs", f"{name}, NUL", output(name, nul), says=("output",))
    for name in ("quickstart", "import", "collect", "alfworld build"):
        yield Case("outputs", f"{name}, somebody's folder", output(name, "policy"), says=("policy",))
    yield Case("outputs", "generate, a folder", output("generate", "policy"), says=("policy",))
    yield Case("outputs", "generate, below a file", output("generate", "logs.jsonl/x"), says=("logs.jsonl",))
    yield Case("outputs", "generate, NUL", output("generate", "a\x00b"), says=("output",))
    yield Case("outputs", "grade, a folder", output("grade", "policy"), says=("policy",))
    yield Case("outputs", "grade, its own input", output("grade", "answers.jsonl"), says=("answers.jsonl",))
    yield Case("outputs", "grade, no known suffix", output("grade", "out.xlsx"), says=("out.xlsx",))
    for path in ("policy", "logs.jsonl/x", "x" * 300):
        yield Case("outputs", f"estimate, {path[:20]}", [*GOOD["estimate"], "--output", path], says=(path[:20],))
    for name in ("collect", "train", "evaluate", "compare", "iterate", "import"):
        yield Case("outputs", f"{name}, /dev/null", output(name, "/dev/null"), says=("/dev/null",))
        yield Case("outputs", f"{name}, /proc", output(name, "/proc/nothing/here"), says=("/proc/nothing",))
    for name in ("collect", "evaluate", "import", "train", "compare"):
        leaves = ("out", "curves.json") if name == "train" else ()
        for limit in (0, 300, 2_000):
            yield Case("full disks", f"{name}, {limit} bytes", output(name, "out"), file_limit=limit, leaves=leaves)
