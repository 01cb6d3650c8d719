"""What an engine is: prompts in, sampled token ids out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.episode import StopReason
from stepcredit.errors import InputError


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

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name, ok, must in (
            ("max_new_tokens", self.max_new_tokens >= 1, "be 1 or more"),
            ("temperature", self.temperature >= 0, "be 0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "lie in (0, 1]"),
            ("top_k", self.top_k >= 0, "be 0 (off) or more"),
        ):
            if not ok:
                raise InputError(f"{getattr(self, name)} must {must}", name)


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
    order nor batching changes a draw."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """One generation a request, in the order of the requests, batch by batch."""
        ...
