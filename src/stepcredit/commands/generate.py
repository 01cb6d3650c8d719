"""`stepcredit generate`: responses to the user's own prompts, with V per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepcredit.commands.console import quiet
from stepcredit.parsing import parse
from stepcredit.report.formatting import legible

if TYPE_CHECKING:
    from stepcredit.rollouts.generate import Answer


def run(arguments: list[str]) -> int:
    """Generates responses and writes them to a file or prints them."""
    quiet()
    from stepcredit.rollouts.generate import GenerateConfig, generate_batches, generate_file, read_prompts

    (config,) = parse("generate", [GenerateConfig], arguments)
    if config.output is not None:
        print(f"{config.output}: {generate_file(config, config.output)} responses")
        return 0
    console = Console()
    for batch in generate_batches(config, read_prompts(config.prompts)):
        for answer in batch:
            _show(answer, console)
    return 0


def _show(answer: Answer, console: Console) -> None:
    asked = answer.prompt if isinstance(answer.prompt, str) else str(answer.prompt[-1].get("content"))
    console.print(Text(legible(asked), style="bold"))
    if answer.values:
        table = Table("V", "step", box=None, pad_edge=False)
        for value, step in zip(answer.values, ["", *answer.steps], strict=True):
            table.add_row(_number(value), Text(legible(step.rstrip())))
        console.print(table)
    else:
        console.print(Text(legible(answer.text)))
    score = "" if answer.value is None else f", value {_number(answer.value)}"
    console.print(Text(f"{answer.stop_reason}, {answer.tokens} tokens{score}", style="dim"), end="\n\n")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
