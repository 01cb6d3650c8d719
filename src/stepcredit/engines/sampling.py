"""Token sampling from logits: temperature, top-k, top-p, and inverse transform of a uniform number."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper

from stepcredit.engines.engine import SamplingParams

_AT_ONCE = {"cpu": 2**18}
"""Device → logits computed at a time: on a CPU few, so that float64 intermediates stay in its cache."""
_MANY = 2**26
"""Logits computed at a time on other devices, which bounds the memory of the intermediates (0.5 GB each)."""
_LIKELY = 1024
"""Tokens among which the nucleus is looked for first."""


class TopP(LogitsProcessor):
    """Nucleus filter: keeps the likeliest tokens until their probabilities sum to `top_p`.

    Equals `transformers.TopPLogitsWarper` without sorting the vocabulary, except that tokens as likely as the last one
    kept are kept too, in whatever order sorting would put them.

    Args:
        top_p: sum of the probabilities, above 0 and below 1.
    """

    def __init__(self, top_p: float) -> None:
        self.top_p = top_p

    def __call__(self, input_ids: Any, scores: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """Returns the scores, -inf outside the nucleus."""
        probability = scores.softmax(-1)
        count = min(_LIKELY, scores.shape[-1])
        likely = probability.topk(count).values
        if count < scores.shape[-1] and not (likely.sum(-1) >= self.top_p).all():
            likely = probability.sort(-1, descending=True).values
        likelier = likely.cumsum(-1) - likely  # sum over the tokens before each
        last = (likelier < self.top_p).sum(-1, keepdim=True) - 1
        return scores.masked_fill(probability < likely.gather(-1, last.clamp(min=0)), -torch.inf)


def warpers(params: SamplingParams) -> LogitsProcessorList:
    """Returns the logits processors for temperature, top-k and top-p, in that order; none for greedy decoding."""
    chain = LogitsProcessorList()
    if params.temperature not in (0.0, 1.0):
        chain.append(TemperatureLogitsWarper(float(params.temperature)))
    if params.temperature > 0 and params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.temperature > 0 and params.top_p < 1:
        chain.append(TopP(params.top_p))
    return chain


def choose(
    logits: Float[Tensor, "N V"], noise: Float[Tensor, " N"] | None, chain: LogitsProcessorList
) -> tuple[Int[Tensor, " N"], Float64[Tensor, " N"]]:
    """Returns (token, log-probability) per row.

    The token is the first one whose cumulative weight exceeds noise · Σ_v w_v, with w = exp(s − max s) for the
    processed logits s: the inverse transform, without normalising w. Its log-probability is log w − log Σ_v w_v.

    Args:
        logits: logits in any precision; computations are in float64.
        noise: uniform numbers in [0, 1); None takes the argmax, the first one of ties.
        chain: processors from `warpers`.
    """
    rows = max(1, _AT_ONCE.get(logits.device.type, _MANY) // logits.shape[-1])
    noises = repeat(None) if noise is None else noise.split(rows)
    parts = [_choose(*some, chain) for some in zip(logits.split(rows), noises, strict=False)]
    token, log_prob = (torch.cat(column) for column in zip(*parts, strict=True))
    return token, log_prob


def _choose(
    logits: Float[Tensor, "M V"], noise: Float[Tensor, " M"] | None, chain: LogitsProcessorList
) -> tuple[Int[Tensor, " M"], Float64[Tensor, " M"]]:
    scores = chain(None, logits.double()) if len(chain) else logits
    weight = (scores - scores.amax(-1, keepdim=True).double()).exp_()
    if noise is None:
        token, total = logits.argmax(-1, keepdim=True), weight.sum(-1, keepdim=True)
    else:
        cumulative = weight.cumsum(-1)
        total = cumulative[:, -1:].contiguous()
        token = torch.searchsorted(cumulative, noise.to(total)[:, None] * total, right=True)
        token = token.clamp(max=logits.shape[-1] - 1)  # only NaN is beyond: noise · total is less than the total
    log_prob = weight.gather(-1, token).log() - total.log()
    return token[:, 0], log_prob[:, 0]
