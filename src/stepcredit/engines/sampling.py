"""From logits and one uniform number to a token: temperature, filters, inverse of the cumulative sum."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from stepcredit.engines.engine import SamplingParams


def warpers(params: SamplingParams) -> LogitsProcessorList:
    """Temperature, top-k and top-p as transformers applies them, in that order; empty when greedy."""
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
    """(token, log-probability of it) for each row.

    Args:
        logits: in any precision; probabilities are summed in float64.
        noise: uniform numbers in [0, 1); None takes the most likely token, the first of equals.
        chain: from `warpers`.
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
