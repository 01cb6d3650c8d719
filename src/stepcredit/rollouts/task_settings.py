"""Settings shared by the commands that generate responses: the task, and how the policy is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from stepcredit.engines.engine import DTYPES, ENGINES, Engine, Servers, load_engine
from stepcredit.errors import InputError
from stepcredit.flags import flag
from stepcredit.models.loading import load_tokenizer
from stepcredit.settings import Limits, Settings
from stepcredit.tasks.registry import TASK_NAMES, load_task
from stepcredit.tasks.task import Task


@dataclass(kw_only=True)
class TaskSettings(Settings):
    """Settings of a task and its prompts."""

    task: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("task", TASK_NAMES))
    data: str | None = field(
        default=None,
        metadata=flag(
            "data",
            "gsm8k and math: a file or a folder of splits; default: the hub. alfworld: the folder of games; default: "
            "$ALFWORLD_DATA.",
        ),
    )
    prompt_style: str | None = field(
        default=None,
        metadata=flag(
            "prompt_style",
            "gsm8k and math: qwen-math (default), qwen-boxed, deepseek-math, deepseek-math-plain, lm-eval or plain; "
            "reasoning-gym: answer-tags (default), qwen-math, qwen-boxed, deepseek-math or plain; "
            "alfworld: react (default), think or act.",
        ),
    )
    limit: Annotated[int | None, Limits(at_least=1)] = field(default=None, metadata=flag("limit", default="all"))
    max_turns: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata=flag("max_turns", "For interactive tasks (fetch, alfworld).", default="the task's")
    )
    workers: Annotated[int | None, Limits(at_least=1)] = field(
        default=None,
        metadata=flag("workers", "For interactive tasks.", default="one per processor"),
    )

    def load_task(self) -> Task:
        """Loads the task.

        Raises:
            InputError: unknown task or prompt style, or a setting that does not apply to the task.
        """
        return load_task(self.task, self.data, self.prompt_style)


HOW_ASKED = ("base_url", "concurrency", "request_timeout", "retries")
"""Settings of servers that do not determine the responses."""


@dataclass(kw_only=True)
class ServerSettings(Settings):
    """Settings of servers, for `--engine openai`."""

    base_url: Annotated[list[str] | None, Limits(not_empty=True)] = field(
        default=None,
        metadata=flag(
            "base_url", "With --engine openai; the key, if one is needed, is read from the variable OPENAI_API_KEY."
        ),
    )
    server_model: Annotated[str | None, Limits(not_empty=True)] = field(
        default=None, metadata=flag("server_model", default="that of --model, or its last part")
    )
    concurrency: Annotated[int, Limits(at_least=1, at_most=4096)] = field(
        default=Servers.concurrency, metadata=flag("concurrency")
    )
    request_timeout: Annotated[float, Limits(above=0)] = field(
        default=Servers.request_timeout, metadata=flag("request_timeout")
    )
    retries: Annotated[int, Limits(at_least=0)] = field(default=Servers.retries, metadata=flag("retries"))

    def servers(self, base_url: Sequence[str] | None, server_model: str | None = None) -> Servers | None:
        """Returns the servers at some addresses; None without addresses."""
        if base_url is None:
            return None
        return Servers(tuple(base_url), server_model, self.concurrency, self.request_timeout, self.retries)


@dataclass(kw_only=True)
class SamplingSettings(ServerSettings):
    """Settings of the engine and of sampling."""

    engine: str = field(default="transformers", metadata=flag("engine", choices=list(ENGINES)))
    max_new_tokens: Annotated[int | None, Limits(at_least=1)] = field(
        default=None, metadata=flag("max_new_tokens", default="the task's")
    )
    temperature: Annotated[float, Limits(at_least=0)] = field(default=1.0, metadata=flag("temperature"))
    top_p: Annotated[float, Limits(above=0, at_most=1)] = field(default=1.0, metadata=flag("top_p"))
    top_k: Annotated[int, Limits(at_least=0)] = field(default=0, metadata=flag("top_k"))
    seed: Annotated[int, Limits(at_least=0, at_most=2**32 - 1)] = field(default=0, metadata=flag("seed"))
    batch_size: Annotated[int, Limits(at_least=1)] = field(default=64, metadata=flag("batch_size"))
    dtype: str | None = field(default=None, metadata=flag("dtype", default="as saved", choices=list(DTYPES)))
    chat_template: str | None = field(default=None, metadata=flag("chat_template"))
    merge_system_message: bool = field(default=False, metadata=flag("merge_system_message"))
    trust_remote_code: bool = field(default=False, metadata=flag("trust_remote_code"))

    def load_tokenizer(self, policy: str, trust_remote_code: bool) -> Any:
        """Loads the policy's tokenizer, with the requested chat template.

        Raises:
            InputError: no tokenizer or chat template is found.
        """
        return load_tokenizer(
            policy,
            trust_remote_code=trust_remote_code,
            chat_template=self.chat_template,
            merge_system_message=self.merge_system_message,
        )

    def load_engine(self, policy: Any, batch_size: int, trust_remote_code: bool, tokenizer: Any = None) -> Engine:
        """Loads the policy's engine, by default with the tokenizer of `load_tokenizer`.

        Raises:
            InputError: no policy is found, the engine is unknown, a model in memory has another precision, or a server
                does not serve the policy.
        """
        if self.server_model is not None and self.base_url is None:
            raise InputError("names a model of servers; give --base_url, too", "server_model")
        tokenizer = tokenizer or self.load_tokenizer(policy, trust_remote_code)
        return load_engine(
            policy,
            self.engine,
            tokenizer=tokenizer,
            batch_size=batch_size,
            dtype=self.dtype,
            trust_remote_code=trust_remote_code,
            servers=self.servers(self.base_url, self.server_model),
        )
