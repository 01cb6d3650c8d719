"""Names with control and bidirectional characters: said, and never raw."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import Case
from faults.cases.commands import GOOD

NAMES = {
    "escape": "\x1b[31mred\x1b[0m",
    "bidi": "\u202egnp.exe",
    "bell": "\x07\x07",
    "newline": "two\nlines",
    "title": "\x1b]0;x\x07",
}


def cases() -> Iterator[Case]:
    """Names that do not exist, as every kind of argument."""
    for how, name in NAMES.items():
        yield Case("hostile names", f"a command, {how}", [name])
        yield Case("hostile names", f"a flag, {how}", [*GOOD["collect"], f"--{name}", "1"])
        yield Case("hostile names", f"a policy, {how}", [*GOOD["collect"], "--model", name])
        prompts = ["generate", f"{name}.jsonl", "--model", "policy"]
        if how != "newline":  # a text, where no such file is
            yield Case("hostile names", f"prompts, {how}", prompts)
        yield Case("hostile names", f"a task, {how}", [*GOOD["collect"], "--task", name])
        yield Case("hostile names", f"a dataset, {how}", [*GOOD["collect"], "--task", f"reasoning-gym:{name}"])
        yield Case("hostile names", f"a file, {how}", ["import", f"{name}.jsonl", "--output_dir", "out"])
        yield Case("hostile names", f"episodes, {how}", ["inspect", name])
        yield Case("hostile names", f"a method, {how}", [*GOOD["compare"], "--methods", name])
        yield Case("hostile names", f"a search, {how}", [*GOOD["evaluate"], "--search", name])
