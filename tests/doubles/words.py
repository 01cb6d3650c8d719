"""A tokenizer whose tokens are words."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from doubles.tokenizers import CHAT_TEMPLATE

WORDS = ("<pad>", "<eos>", "<end>", "<user>", "<assistant>", "\n", "go", " left", " right", "wall", " door", "!")
PAD, EOS, END, USER, ASSISTANT, LINE, GO, LEFT, RIGHT, WALL, DOOR, BANG = range(12)


def word_tokenizer(chat_template=CHAT_TEMPLATE):
    """One id a word, the space before it included; <pad>, <eos> and <end> are special."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="!"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\w+>|\n|!| ?[a-z]+"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", additional_special_tokens=["<end>"]
    )
    tokenizer.chat_template = chat_template
    return tokenizer
