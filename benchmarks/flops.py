"""Floating-point operations that a step needs, and the share of a GPU's peak that it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.step_schemes import Scheme

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2_250e12}
"""Dense bf16 operations a second, from the vendor's data sheets (SXM)."""


def body_parameters(config: Any) -> int:
    """Returns the parameters of a Llama's or Qwen2's layers, without embedding, head and biases."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    width = getattr(config, "head_dim", None) or hidden // heads
    attention = 2 * hidden * width * (heads + config.num_key_value_heads)
    return int(config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size))


def step_flops(config: Any, scheme: Scheme, tokens: Mapping[str, int]) -> float:
    """Returns the operations of the scheme's matrix products on real tokens: bodies on all (on each prompt once where
    it is shared), heads on responses; attention scores, recomputation and padding do not count."""
    read = tokens["tokens_shared"] if scheme.shares_prompts else tokens["tokens"]
    body = 2 * body_parameters(config) * scheme.bodies * read
    head = 2 * config.vocab_size * config.hidden_size * scheme.heads * tokens["response_tokens"]
    return float(body + head)


def utilisation(flops: float, seconds: float | None, device: str) -> float | None:
    """Returns the share of the GPU's peak; None on a CPU and on a GPU whose peak is not in the table."""
    if device != "cuda" or seconds is None:
        return None
    name = torch.cuda.get_device_name()
    peak = next((flop for model, flop in PEAK.items() if model in name), None)
    return None if peak is None else flops / seconds / peak
