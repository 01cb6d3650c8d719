"""Word-level tokenizer of the embedded tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def word_tokenizer(words: Sequence[str]) -> Any:
    """Returns a tokenizer with exactly these words (with their spaces) as its vocabulary, one id each.

    Text is split into words, longest first; everything else becomes `<unk>`. No special tokens are added.
    """
    vocabulary = {word: i for i, word in enumerate([*words, PAD, EOS, UNKNOWN])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    longest_first = sorted(words, key=len, reverse=True)
    escaped = ("".join("\\" + c if c in r"\.^$|?*+()[]{}" else c for c in word) for word in longest_first)
    core.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(escaped)), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
