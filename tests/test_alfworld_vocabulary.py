"""A tokenizer from nothing: it gives every text back, keeps things and their numbers together, and writes turns."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from scripts import loaded
from stepcredit.episodes.encoding import decode, plain_ids, tokenise
from stepcredit.episodes.episode import Episode, StopReason

with loaded("alfworld/vocabulary.py") as vocabulary:
    ASSISTANT, END, PAD, USER = vocabulary.ASSISTANT, vocabulary.END, vocabulary.PAD, vocabulary.USER
    WORDS, trained_tokenizer = vocabulary.WORDS, vocabulary.trained_tokenizer

ROOM = "You are in a room. You see a mug 1, a mug 2, a desk 12 and a safe 1.\n\nYour task is to: put a mug in safe."
SAID = "Thought: find a mug\nAction: take mug 1 from desk 12"
TEXTS = [ROOM, SAID, "You open the safe 1. In it, you see a mug 2.", "go to desk 12"] * 5
TOKENIZER = trained_tokenizer(TEXTS, 420)
CHAT = Episode(
    prompt=[{"role": "user", "content": "the rules"}, {"role": "assistant", "content": "OK"},
            {"role": "user", "content": ROOM}],
    completion=[{"role": "assistant", "content": SAID}, {"role": "user", "content": "You open the safe 1."},
                {"role": "assistant", "content": "go to desk 12"}],
    reward=1.0,
    prompt_id="p",
)  # fmt: skip


def token(text):
    """The id of a text that is one token."""
    (found,) = plain_ids(text, TOKENIZER)
    return found


@given(st.text() | st.text(alphabet="ab 12.\n\té<|>🙂\u200d\u0301"))
@example("mug  1 \n\n mug1 Mug 1,")
@example("<|end|><|user|> <|pad|>")
@example("\x00\r\n\ufeff\u2028 naïve 名前 1")
def test_every_text_comes_back(text):
    ids = TOKENIZER(text)["input_ids"]
    assert decode(ids, TOKENIZER) == text
    assert ids == plain_ids(text, TOKENIZER)  # nothing before, nothing after


def test_things_with_their_numbers_are_one_token():
    for thing in (" mug 1", " mug 2", " desk 12", " safe 1", " the", "Action"):
        assert len(plain_ids(thing, TOKENIZER)) == 1, thing
    ids = plain_ids("Action: take mug 1 from desk 12", TOKENIZER)
    assert [decode([i], TOKENIZER) for i in ids] == ["Action", ":", " take", " mug 1", " from", " desk 12"]


@given(st.text(alphabet="ab1 2.\nmugdesk,:é", max_size=40) | st.sampled_from([ROOM, SAID]))
def test_no_token_crosses_a_match(text):
    bounds = sorted({at for match in re.finditer(WORDS, text) for at in match.span()})
    found = TOKENIZER(text, return_offsets_mapping=True)
    for start, stop in found["offset_mapping"]:
        assert not [at for at in bounds if start < at < stop]


def test_another_pattern_and_size():
    letters = trained_tokenizer(TEXTS, 1024, pattern=r".|\n")
    assert len(plain_ids("mug 1", letters)) == 5
    assert len(letters) == 4 + 256
    assert len(trained_tokenizer(TEXTS, 300)) == 300 < len(TOKENIZER) < 420
    assert decode(plain_ids("\u00ff\x00", letters), letters) == "\u00ff\x00"


def test_its_special_tokens():
    assert (TOKENIZER.pad_token, TOKENIZER.eos_token, TOKENIZER.bos_token) == (PAD, END, None)
    assert [TOKENIZER.convert_tokens_to_ids(t) for t in (PAD, END, USER, ASSISTANT)] == [0, 1, 2, 3]
    assert set(TOKENIZER.all_special_tokens) == {PAD, END, USER, ASSISTANT}


def test_an_episode_in_its_chat_template_by_hand():
    """Replies and their ends are actions; all else is not."""

    def words(text):
        return plain_ids(text, TOKENIZER)

    end, user, assistant = token(END), token(USER), token(ASSISTANT)
    runs = [
        ([user, *words("the rules"), end, assistant, *words("OK"), end, user, *words(ROOM), end, assistant], False),
        ([*words(SAID), end], True),
        ([user, *words("You open the safe 1."), end, assistant], False),
        ([*words("go to desk 12"), end], True),
    ]
    tokens = tokenise(CHAT, TOKENIZER)
    assert tokens.ids.tolist() == [i for ids, _ in runs for i in ids]
    assert tokens.action_mask.tolist() == [action for ids, action in runs for _ in ids]
    rendered = TOKENIZER.apply_chat_template([*CHAT.prompt, *CHAT.completion], tokenize=False)
    assert decode(tokens.ids.tolist(), TOKENIZER) == rendered
    assert rendered == "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in [*CHAT.prompt, *CHAT.completion])


def test_a_truncated_reply_has_no_end():
    cut = Episode(**{**vars(CHAT), "reward": None, "stop_reason": StopReason.LENGTH})
    whole, tokens = tokenise(CHAT, TOKENIZER), tokenise(cut, TOKENIZER)
    assert whole.ids.tolist() == [*tokens.ids.tolist(), token(END)]
    assert whole.action_mask.tolist() == [*tokens.action_mask.tolist(), True]


def test_saved_and_loaded_it_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded.chat_template == TOKENIZER.chat_template
    assert set(loaded.all_special_tokens) == set(TOKENIZER.all_special_tokens)
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)
    for text in (ROOM, SAID, " a  b", "<|end|>é 🙂 mug 1", "don 't , you ."):
        assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
        assert loaded.decode(loaded(text)["input_ids"]) == text
    assert tokenise(CHAT, loaded).ids.tolist() == tokenise(CHAT, TOKENIZER).ids.tolist()


@pytest.mark.parametrize("texts", [[], ["", "one"]])
def test_the_same_texts_make_the_same_tokenizer(texts):
    one, other = (trained_tokenizer(iter(texts), 300).backend_tokenizer.to_str() for _ in range(2))
    assert json.loads(one) == json.loads(other)
    assert decode(plain_ids("anything 7", trained_tokenizer(texts)), trained_tokenizer(texts)) == "anything 7"
