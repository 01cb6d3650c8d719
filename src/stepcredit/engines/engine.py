"""Engines: prompts in, sampled token ids out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import TurnEnds
from stepcredit.errors import InputError
from stepcredit.settings import Limits, check_settings


@dataclass(frozen=True)
class SamplingParams:
    """How responses are drawn.

    Attributes:
        max_new_tokens: the length limit; a response that meets it is truncated.
        temperature: 0 is greedy.
        top_p, top_k: nucleus and top-k filters; 1.0 and 0 are off.
        stop: a response ends after any of these strings, which stay part of it.
        seed: of the sampling noise, together with prompt, sample and position.

    Raises:
        InputError: a setting out of range.
    """

    max_new_tokens: Annotated[int, Limits(at_least=1)]
    temperature: Annotated[float, Limits(at_least=0)] = 1.0
    top_p: Annotated[float, Limits(above=0, at_most=1)] = 1.0
    top_k: Annotated[int, Limits(at_least=0)] = 0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Request:
    """One response to be drawn: the prompt's ids, which prompt it is, and which of its samples."""

    prompt_ids: tuple[int, ...]
    prompt_id: str
    sample: int = 0


@dataclass(frozen=True, eq=False)
class Generation:
    """One response: the sampled ids with their end token, and why it ended.

    `log_prob` is log μ(a|s) of each id under the distribution it was drawn from (after temperature and
    filters; greedy: the plain softmax).
    """

    ids: NDArray[np.int32]
    log_prob: NDArray[np.float32]
    stop_reason: StopReason


@runtime_checkable
class Engine(Protocol):
    """Anything that draws responses. The noise is keyed by (seed, prompt_id, sample, position), so neither
    order nor batching changes a draw.

    A new one is a file in `engines/`, and its line in `ENGINES`. One that echoes the prompt, the whole file:

        import numpy as np

        from stepcredit.engines.engine import Generation
        from stepcredit.episodes.episode import StopReason
        from stepcredit.episodes.turns import turn_ends

        class Echo:
            def __init__(self, tokenizer, batch_size):
                self.tokenizer, self.ends, self.batch_size = tokenizer, turn_ends(tokenizer), batch_size

            def generate(self, requests, params):
                for request in requests:
                    ids = np.array([*request.prompt_ids, self.ends.of_text], dtype=np.int32)
                    cut = ids[: params.max_new_tokens]
                    reason = StopReason.STOP if len(cut) == len(ids) else StopReason.LENGTH
                    yield Generation(cut, np.zeros(len(cut), dtype=np.float32), reason)

        def load(model, *, tokenizer, batch_size, trust_remote_code):
            return Echo(tokenizer, batch_size)

    `engines/scripted.py` is a double for tests.

    Attributes:
        tokenizer: of the policy.
        ends: what ends a response of the policy.
        batch_size: responses drawn at a time.
    """

    tokenizer: Any
    ends: TurnEnds
    batch_size: int

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """One generation a request, in the order of the requests, batch by batch."""
        ...


@runtime_checkable
class SteppingEngine(Engine, Protocol):
    """An engine that can also draw a step or a turn at a time, for beams and conversations.

    Attributes:
        max_length: positions that the model reads; None where it does not say.
    """

    max_length: int | None

    def stepper(self, params: SamplingParams, rule: StepRule) -> Any:
        """A `stepping.TurnStepper` of the policy, whose steps end by `rule`."""
        ...


ENGINES = {"transformers": "stepcredit.engines.transformers"}
"""Name → module with a function `load`, whose arguments are those of `load_engine` without the name."""


def load_engine(
    model: Any,
    engine: str = "transformers",
    *,
    tokenizer: Any | None = None,
    batch_size: int = 64,
    trust_remote_code: bool = False,
) -> Engine:
    """The engine of a policy.

    Args:
        model: a folder, a name on the hub, or a model in memory.
        engine: a name of `ENGINES`.
        tokenizer: of the policy; None: its own.
        batch_size: responses drawn at a time.
        trust_remote_code: whether to run code that a model repository brings.

    Raises:
        InputError: no such engine, or nothing there that it can load.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}", "engine")
    loaded: Engine = importlib.import_module(ENGINES[engine]).load(
        model, tokenizer=tokenizer, batch_size=batch_size, trust_remote_code=trust_remote_code
    )
    return loaded
