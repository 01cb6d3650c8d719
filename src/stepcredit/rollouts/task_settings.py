"""Which task, its data, and how its problems are put: the same flags in every command that asks a policy something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stepcredit.engines.engine import ENGINES, Engine, load_engine
from stepcredit.models.loading import load_tokenizer
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.task import Task


@dataclass(kw_only=True)
class TaskChoice:
    """The settings of a task."""

    task: str = field(
        metadata={
            "help": "The task: arithmetic, chain, fetch, gsm8k, math, alfworld; or one of your own, file.py:Class."
        }
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "Where gsm8k and math are read from: a file, or a folder of splits; default: the hub. "
            "alfworld: the folder of games; default: $ALFWORLD_DATA."
        },
    )
    prompt_style: str | None = field(
        default=None,
        metadata={
            "help": "How gsm8k and math put a problem: qwen-math (default), qwen-boxed, deepseek-math, "
            "deepseek-math-plain, lm-eval or plain; alfworld: react (default), think or act."
        },
    )

    max_turns: int | None = field(
        default=None, metadata={"help": "Turn limit of an interactive task (fetch, alfworld); default: the task's."}
    )
    workers: int | None = field(
        default=None,
        metadata={"help": "Processes for the environments of an interactive task; default: one a processor."},
    )

    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "A file with the chat template to use (Jinja); or the word original for the tokenizer's own, where "
            "a template that appends is known (Qwen3, DeepSeek-R1) and would take its place."
        },
    )
    merge_system_message: bool = field(
        default=False,
        metadata={"help": "Put the system text before the first user message, for templates that refuse a system."},
    )

    engine: str = field(
        default="transformers", metadata={"help": "What draws the responses.", "choices": list(ENGINES)}
    )

    def load_tokenizer(self, policy: str, trust_remote_code: bool) -> Any:
        """The policy's tokenizer, with the chat template that was asked for.

        Raises:
            InputError: no tokenizer there, or no such template.
        """
        return load_tokenizer(
            policy,
            trust_remote_code=trust_remote_code,
            chat_template=self.chat_template,
            merge_system_message=self.merge_system_message,
        )

    def load_engine(self, policy: str, batch_size: int, trust_remote_code: bool, tokenizer: Any = None) -> Engine:
        """The policy's engine, with the tokenizer of `load_tokenizer`.

        Raises:
            InputError: no policy there, or no such engine.
        """
        tokenizer = tokenizer or self.load_tokenizer(policy, trust_remote_code)
        return load_engine(
            policy, self.engine, tokenizer=tokenizer, batch_size=batch_size, trust_remote_code=trust_remote_code
        )

    def load_task(self) -> Task:
        """The task.

        Raises:
            InputError: no such task or style, or one is given to a task that makes its own problems.
        """
        return load_task(self.task, self.data, self.prompt_style)
