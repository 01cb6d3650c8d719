"""Small randomly initialised models, for embedded tasks and demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


@dataclass(frozen=True)
class ModelSize:
    """The size of a randomly initialised Llama."""

    hidden_size: int = 96
    intermediate_size: int = 256
    layers: int = 3
    heads: int = 4
    max_length: int = 256


def policy_from_scratch(tokenizer: Any, size: ModelSize, seed: int) -> Any:
    """Creates a Llama with seeded random weights and tied embeddings for a tokenizer's vocabulary.

    The weights have standard deviation 0.05: narrow models learn more slowly with transformers' default of 0.02.
    """
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=size.max_length,
            tie_word_embeddings=True,
            initializer_range=0.05,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
