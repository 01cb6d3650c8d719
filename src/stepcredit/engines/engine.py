"""Engines: prompts in, sampled token ids out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import TurnEnds
from stepcredit.errors import InputError, quoted
from stepcredit.settings import Limits, check_settings, choose


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of a generation.

    Attributes:
        max_new_tokens: length limit; a response that reaches it is truncated.
        temperature: sampling temperature; 0 is greedy.
        top_p, top_k: nucleus and top-k filters; 1.0 and 0 turn them off.
        stop: strings that end a response and stay part of it.
        seed: seed of the sampling noise, which also depends on prompt, sample and position.

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
    """Request for one response: the prompt's ids, the prompt id, and the index of the sample."""

    prompt_ids: tuple[int, ...]
    prompt_id: str
    sample: int = 0


def check_prompts(requests: Sequence[Request], max_length: int | None) -> None:
    """Checks that every prompt has tokens, and leaves room in a context of `max_length`; None: any length.

    Raises:
        InputError: one does not.
    """
    for request in requests:
        where, tokens = f"prompt {request.prompt_id}", len(request.prompt_ids)
        if not tokens:
            raise InputError("the prompt has no tokens", where)
        if max_length is not None and tokens >= max_length:
            raise InputError(f"the prompt has {tokens} tokens, the model reads {max_length}; shorten it", where)


@dataclass(frozen=True, eq=False)
class Generation:
    """Sampled response: ids with the end token, log-probabilities, and stop reason.

    `log_prob` is log μ(a|s) of each token under the sampling distribution (after temperature and filters; for greedy
    decoding, under the plain softmax); NaN where a server does not give it. `retokenised` tells whether the ids were
    encoded from the text of a server that gives none.
    """

    ids: NDArray[np.int32]
    log_prob: NDArray[np.float32]
    stop_reason: StopReason
    retokenised: bool = False


@runtime_checkable
class Engine(Protocol):
    """Interface of a generation backend. The sampling noise is keyed by (seed, prompt_id, sample, position), so
    responses depend on neither order nor batching.

    To add an engine, write a file in `engines/` and add a line to `ENGINES`. A complete example that echoes the prompt:

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

        def load(model, *, tokenizer, batch_size, dtype, trust_remote_code):
            return Echo(tokenizer, batch_size)

    `engines/scripted.py` is a test double.

    Attributes:
        tokenizer: tokenizer of the policy.
        ends: tokens that end a response of the policy.
        batch_size: responses sampled at a time.
    """

    tokenizer: Any
    ends: TurnEnds
    batch_size: int

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Generation]:
        """Yields one generation per request, in order, batch by batch."""
        ...


@runtime_checkable
class SteppingEngine(Engine, Protocol):
    """Engine that can also generate one step or one turn at a time, for beam search and conversations.

    Attributes:
        max_length: context length of the model; None if unknown.
    """

    max_length: int | None

    def stepper(self, params: SamplingParams, rule: StepRule) -> Any:
        """Returns a `stepping.TurnStepper` of the policy; `rule` decides where steps end."""
        ...


@dataclass(frozen=True)
class Servers:
    """Servers of a policy.

    Attributes:
        base_url: their addresses, with or without /v1.
        server_model: name of the policy on them; None: that of the policy.
        concurrency: requests at a time per server.
        request_timeout: seconds until a request is given up and repeated.
        retries: repetitions of a failed request, with growing pauses, until its server is given up.

    Raises:
        InputError: an address is not one of HTTP, or is given twice.
    """

    base_url: tuple[str, ...]
    server_model: str | None = None
    concurrency: int = 32
    request_timeout: float = 600.0
    retries: int = 6

    def __post_init__(self) -> None:
        for url in self.base_url:
            try:
                parts = urlsplit(url)
                is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:  # a port that is no number
                is_address = False
            if not is_address or url != url.strip():
                raise InputError(f"{quoted(url)} is no address like http://localhost:8000", "base_url")
        if len({url.rstrip("/").removesuffix("/v1") for url in self.base_url}) < len(self.base_url):
            raise InputError("an address is given twice", "base_url")


ENGINES = {"transformers": "stepcredit.engines.transformers", "openai": "stepcredit.engines.server.server_engine"}
"""Engine name → module with a function `load`, which takes the arguments of `load_engine` except the name."""


DTYPES = ("float32", "bfloat16")
"""Precisions in which weights can be loaded, besides that in which they were saved."""


def load_engine(
    model: Any,
    engine: str = "transformers",
    *,
    tokenizer: Any | None = None,
    batch_size: int = 64,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    servers: Servers | None = None,
) -> Engine:
    """Loads the engine of a policy.

    Args:
        model: folder, name on the hub, or model in memory.
        engine: a name in `ENGINES`.
        tokenizer: tokenizer of the policy; by default the one stored with it.
        batch_size: responses sampled at a time.
        dtype: a precision in `DTYPES`; None: as saved. Recorded log-probabilities are those of the model as loaded.
        trust_remote_code: whether to run code from the model repository.
        servers: the servers of the engine "openai".

    Raises:
        InputError: unknown engine or precision, a precision for a model in memory, the model cannot be loaded, or a
            server does not serve it.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {engine!r}; choose from {', '.join(ENGINES)}", "engine")
    if dtype is not None:
        choose(dtype, DTYPES, "dtype")
        if not isinstance(model, str):
            raise InputError(
                "a model in memory keeps its own precision; convert it before, or name its folder", "dtype"
            )
    if servers is not None and engine != "openai":
        raise InputError(f"the engine {engine} asks no servers; --engine openai does", "base_url")
    settings = {} if servers is None else {"servers": servers}
    try:
        module = importlib.import_module(ENGINES[engine])
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        raise InputError("needs the extra: pip install 'stepcredit[server]'", "engine") from error
    loaded: Engine = module.load(
        model, tokenizer=tokenizer, batch_size=batch_size, dtype=dtype, trust_remote_code=trust_remote_code, **settings
    )
    return loaded
