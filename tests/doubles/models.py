"""Real transformers models of a few thousand parameters, seeded."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from doubles.tokenizers import byte_tokenizer


def saved_policy(folder, **given):
    """A folder with a tiny policy and the byte tokenizer."""
    tiny_llama(**given).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def tiny_llama(vocab_size=259, seed=0, tied=True, hidden=16, layers=2, kv_heads=2, **more):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=257,
        pad_token_id=256,
        **more,
    )
    return LlamaForCausalLM(config)
