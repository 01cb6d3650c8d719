"""Token sampling from logits: temperature, top-k, top-p, and inverse transform of a uniform number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from stepcredit.engines.engine import SamplingParams


def warpers(params: SamplingParams) -> LogitsProcessorList:
    """Returns the logits processors for temperature, top-k and top-p, in that order; none for greedy decoding."""
    chain = LogitsProcessorList()
    if params.temperature not in (0.0, 1.0):
        chain.append(TemperatureLogitsWarper(float(params.temperature)))
    if params.temperature > 0 and params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.temperature > 0 and params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    return chain


def choose(
    logits: Float[Tensor, "N V"], noise: Float[Tensor, " N"] | None, chain: LogitsProcessorList
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"]]:
    """Returns (token, log-probability) per row.

    Args:
        logits: logits in any precision; computations are in float64.
        noise: uniform numbers in [0, 1); None takes the argmax, the first one of ties.
        chain: processors from `warpers`.
    """
    scores = chain(None, logits.double()) if len(chain) else logits.double()
    log_prob = scores.log_softmax(-1)
    if noise is None:
        token = logits.argmax(-1)
    else:
        cumulative = log_prob.exp().cumsum(-1)
        threshold = noise.to(cumulative)[:, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return token, log_prob.gather(-1, token[:, None])[:, 0]
