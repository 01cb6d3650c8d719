"""Real tokenizers and the small pretrained model that `make assets` fetches; where one is absent, the test skips."""

from functools import cache

import pytest
from transformers import AutoTokenizer

from assets import fetch

TOKENIZERS = ("qwen3", "gemma3", "llama3", "llama3_1", "deepseek_v3", "smollm2")


@cache
def real_tokenizer(name):
    """The tokenizer of a published model, with its chat template, one for all tests: change a copy only."""
    return AutoTokenizer.from_pretrained(_folder(name))


def smollm2_folder():
    """SmolLM2-135M-Instruct with its tokenizer, dequantised from 4 bits to float32, as a plain folder."""
    return _folder(fetch.MODEL)


def smollm2_gguf():
    """The `.gguf` file from which that folder is made."""
    return _folder(fetch.SOURCE) / fetch.GGUF


def _folder(name):
    if not fetch.present(name):
        pytest.skip(f"{name} is not in {fetch.cache()}; `make assets` fetches it")
    return fetch.cache() / name
