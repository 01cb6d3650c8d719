"""The interfaces of servers that take and give token ids: what is sent, and how answers are read.

                 sampled ids                 log μ under the sampling distribution
vLLM             token_ids                   if it is the model's own: the server gives those of the model
SGLang           output_ids                  likewise
llama.cpp        tokens                      always, but for tokens of a stop string and parts of a character

Every setting that a server may have a default of its own for is sent.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from stepcredit.engines.server.answers import UNKNOWN, Answer, Ask, field, listed
from stepcredit.engines.server.connection import Failure


class Dialect(Protocol):
    """Interface of a server.

    Attributes:
        name: its name, for messages.
        path: address of completions.
        tokenize: address of its tokenizer; None if it has none.
    """

    name: str
    path: str
    tokenize: str | None

    def payload(self, ask: Ask) -> dict[str, Any]:
        """Returns the body of a request."""
        ...

    def read(self, answer: Any, ask: Ask) -> Answer:
        """Returns the answer to a request; raises `Failure` if it is not one."""
        ...

    def text_payload(self, text: str, model: str) -> dict[str, Any]:
        """Returns the body of a request for the ids of a text, special tokens in it included and none added."""
        ...


def _shared_settings(ask: Ask) -> dict[str, Any]:
    """Returns the settings that vLLM and SGLang call alike. The ends are ours alone, and filters are for sampling."""
    params = ask.params
    return {
        "temperature": params.temperature,
        "top_p": params.top_p if params.temperature else 1.0,
        "top_k": (params.top_k if params.temperature else 0) or -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": list(ask.stop),
        "stop_token_ids": list(ask.ends),
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    }


class VLLM:
    """Dialect of vLLM from 0.10.2 on."""

    name, path, tokenize = "vLLM", "/v1/completions", "/tokenize"

    def payload(self, ask: Ask) -> dict[str, Any]:
        """See `Dialect.payload`; stop strings stay in the text."""
        return {
            "model": ask.model,
            "prompt": list(ask.ids),
            "max_tokens": ask.most,
            "seed": ask.seed,
            "include_stop_str_in_output": True,
            "ignore_eos": True,
            **_shared_settings(ask),
            "logprobs": 1,
            "return_token_ids": True,
        }

    def read(self, answer: Any, ask: Ask) -> Answer:
        """See `Dialect.read`."""
        choices = listed(answer, "choices")
        if len(choices) != 1:
            raise Failure(f"{len(choices)} choices, where 1 was asked for")
        choice = choices[0]
        if listed(choice, "prompt_token_ids") != list(ask.ids):
            raise Failure("the prompt_token_ids are not those of the prompt")
        ids = listed(choice, "token_ids")
        log_prob = listed(choice, "logprobs", "token_logprobs") if ask.is_plain else [UNKNOWN] * len(ids)
        by_string = isinstance(choice.get("stop_reason"), str)
        return Answer(ids, log_prob, field(choice, "text"), field(choice, "finish_reason") == "length", by_string)

    def text_payload(self, text: str, model: str) -> dict[str, Any]:
        """See `Dialect.text_payload`."""
        return {"model": model, "prompt": text, "add_special_tokens": False}


class SGLang:
    """Dialect of SGLang's own interface."""

    name, path, tokenize = "SGLang", "/generate", "/tokenize"

    def payload(self, ask: Ask) -> dict[str, Any]:
        """See `Dialect.payload`."""
        sampling = {
            "max_new_tokens": ask.most,
            "sampling_seed": ask.seed,
            "no_stop_trim": True,
            "ignore_eos": False,  # it would ignore `stop_token_ids`, too
            **_shared_settings(ask),
        }
        return {"input_ids": list(ask.ids), "sampling_params": sampling, "return_logprob": True}

    def read(self, answer: Any, ask: Ask) -> Answer:
        """See `Dialect.read`; some versions give the ids with the log-probabilities alone."""
        given = listed(answer, "meta_info", "output_token_logprobs")
        pairs = [(field(entry, 0), field(entry, 1)) for entry in given]
        ids = listed(answer, "output_ids") if "output_ids" in answer else [i for _, i in pairs]
        if ids != [i for _, i in pairs]:
            raise Failure("the log-probabilities are those of other tokens")
        log_prob = [number for number, _ in pairs] if ask.is_plain else [UNKNOWN] * len(ids)
        ended = field(answer, "meta_info", "finish_reason")
        by_string = isinstance(ended, dict) and isinstance(ended.get("matched"), str)
        return Answer(ids, log_prob, field(answer, "text"), field(ended, "type") == "length", by_string)

    def text_payload(self, text: str, model: str) -> dict[str, Any]:
        """See `Dialect.text_payload`."""
        return {"model": model, "prompt": text, "add_special_tokens": False}


class LlamaCpp:
    """Dialect of llama.cpp's server."""

    name, path, tokenize = "llama.cpp", "/completion", "/tokenize"

    def payload(self, ask: Ask) -> dict[str, Any]:
        """See `Dialect.payload`; only the samplers named here are applied, in this order."""
        params = ask.params
        filters = (["top_k"] if params.top_k else []) + (["top_p"] if params.top_p < 1 else [])
        return {
            "prompt": list(ask.ids),
            "n_predict": ask.most,
            "samplers": ["temperature", *(filters if params.temperature else [])],
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_keep": 0,
            "mirostat": 0,
            "dynatemp_range": 0.0,
            "seed": ask.seed,
            "stop": list(ask.stop),
            "ignore_eos": False,
            "return_tokens": True,
            "n_probs": 1,
            "post_sampling_probs": not ask.is_plain,
            "response_fields": ["content", "tokens", "stop_type", "completion_probabilities"],
        }

    def read(self, answer: Any, ask: Ask) -> Answer:
        """See `Dialect.read`."""
        ids, ended = listed(answer, "tokens"), field(answer, "stop_type")
        given = listed(answer, "completion_probabilities") if "completion_probabilities" in answer else []
        log_prob = _aligned(ids, given, ended == "word")
        return Answer(ids, log_prob, field(answer, "content"), ended == "limit", ended == "word")

    def text_payload(self, text: str, model: str) -> dict[str, Any]:
        """See `Dialect.text_payload`."""
        return {"content": text, "add_special": False, "parse_special": True}


def _aligned(ids: list[Any], given: list[Any], by_string: bool) -> list[Any]:
    """Returns the log-probability of each id, from those that llama.cpp gives.

    It leaves out those of the tokens of a stop string, which are the last, and those of all but the last token of a
    character. Where the latter are missing, all are `UNKNOWN`: an id may occur twice.
    """
    entries = [field(entry, "id") for entry in given]
    if by_string and entries == ids[: len(entries)]:
        return [*map(_log_prob, given), *[UNKNOWN] * (len(ids) - len(entries))]
    if entries == ids:
        return [_log_prob(entry) for entry in given]
    rest = iter(ids)
    if (by_string or len(entries) < len(ids)) and all(entry in rest for entry in entries):
        return [UNKNOWN] * len(ids)
    raise Failure("the log-probabilities are those of other tokens")


def _log_prob(entry: Any) -> Any:
    """Returns the log-probability of an entry, which gives it, or the probability after filters."""
    if "logprob" in entry:
        return entry["logprob"]
    number = field(entry, "prob")
    return math.log(number) if isinstance(number, int | float) and 0 < number < math.inf else math.inf
