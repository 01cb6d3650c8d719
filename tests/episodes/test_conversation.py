"""Conversations as exact ids, with one id a word."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.tokenizers import CHAT_TEMPLATE, byte_tokenizer
from doubles.words import ASSISTANT, BANG, END, EOS, GO, LEFT, LINE, RIGHT, USER, WALL, word_tokenizer
from stepcredit.episodes.conversation import Conversation
from stepcredit.episodes.encoding import response_text, tokenise
from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError

HI = [{"role": "user", "content": "go left"}]


def test_a_conversation_by_hand():
    talk = Conversation(HI, word_tokenizer())
    prompt = [USER, GO, LEFT, END, LINE, ASSISTANT]
    assert talk.ids == prompt
    assert (talk.turns, talk.completion) == (0, [])
    assert talk.reply([GO, RIGHT, END], [-1.0, -0.5, -0.25]) == "go right"
    seen = [LINE, USER, WALL, BANG, END, LINE, ASSISTANT]
    assert talk.observe("wall!") == seen
    assert talk.reply((END,), (-2.0,)) == ""
    assert talk.ids == [*prompt, GO, RIGHT, END, *seen, END]
    assert (talk.tokens().action_mask.sum(), talk.turns) == (4, 2)
    assert talk.completion == [
        {"role": "assistant", "content": "go right"},
        {"role": "user", "content": "wall!"},
        {"role": "assistant", "content": ""},
    ]
    assert talk.messages == HI + talk.completion
    assert talk.prompt == HI
    tokens = talk.tokens()
    assert tokens.ids.tolist() == talk.ids
    assert tokens.action_mask.tolist() == [False] * 6 + [True] * 3 + [False] * 7 + [True]
    assert tokens.behavior_log_prob.tolist() == [0] * 6 + [-1, -0.5, -0.25] + [0] * 7 + [-2]


@pytest.mark.parametrize(
    ("sampled", "text", "more"),
    [
        ([GO, END], "go", []),
        ([GO, EOS], "go", [END]),
        ([GO, BANG], "go!", [END]),
        ([END], "", []),
        ([EOS], "", [END]),
        ([GO, END, EOS], "go", [END]),
    ],
)
def test_the_templates_end_of_turn_stands_once_whatever_ended_the_reply(sampled, text, more):
    talk = Conversation(HI, word_tokenizer())
    before = list(talk.ids)
    assert talk.reply(sampled, [0.0] * len(sampled)) == text
    added = [*more, LINE, USER, WALL, END, LINE, ASSISTANT]
    assert talk.observation_ids("wall") == added
    assert talk.ids == [*before, *sampled]
    assert talk.observe("wall") == added
    assert talk.ids == [*before, *sampled, *added]


def test_a_template_whose_turns_have_no_end():
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    talk = Conversation(HI, word_tokenizer(template))
    assert talk.reply([GO, EOS], [0.0, 0.0]) == "go"
    assert talk.observe("wall") == [LINE, USER, WALL, LINE, ASSISTANT]


def test_a_template_that_trims_replies_leaves_the_sampled_ids_alone():
    template = CHAT_TEMPLATE.replace("m.content", "m.content | trim")
    talk = Conversation(HI, word_tokenizer(template))
    assert talk.reply([LINE, GO, LINE, LINE, END], [0.0] * 5) == "\ngo\n\n"
    assert talk.observe("wall") == [LINE, USER, WALL, END, LINE, ASSISTANT]
    assert talk.ids[6:11] == [LINE, GO, LINE, LINE, END]


def test_sampled_ids_are_kept_though_the_text_would_tokenise_otherwise():
    tokenizer = byte_tokenizer(merges=[("a", "b")])
    talk = Conversation(HI, tokenizer)
    start = len(talk.ids)
    sampled = [ord("a"), ord("b"), 0xC3, 258]  # not the merged token, and half a character
    assert talk.reply(sampled, [0.0] * 4) == "ab\ufffd"
    seen = talk.observe("ab")
    assert talk.ids[start : start + 4] == sampled
    assert seen == [*b"\n<user>", 259, 258, *b"\n<assistant>"]


def test_a_template_that_leaves_an_answered_reply_out_is_refused():
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last or m.role == 'user' else '' }}<end>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = Conversation(HI, byte_tokenizer(template))
    talk.reply([GO, END], [0.0, 0.0])
    before = list(talk.ids)
    with pytest.raises(InputError, match=r"^chat_template: .*changes earlier turns"):
        talk.observe("wall")
    assert talk.ids == before
    assert talk.turns == len(talk.completion) == 1


def test_what_a_template_does_to_earlier_turns_does_not_reach_the_ids_that_were_read():
    """One that drops the thoughts of earlier replies, as Qwen3's and R1's do: the policy goes on from what it wrote."""
    drops = CHAT_TEMPLATE.replace("m.content", "(m.content if loop.last else m.content.split('!')[-1])")
    kept, dropped = (Conversation(HI, word_tokenizer(template)) for template in (CHAT_TEMPLATE, drops))
    for talk in (kept, dropped):
        talk.reply([WALL, BANG, GO, END], [0.0] * 4)
        talk.observe("wall!")
        talk.reply([LEFT, END], [0.0] * 2)
        talk.observe("wall")
    assert dropped.ids == kept.ids


def test_no_reply_has_no_tokens_and_no_template_no_conversation():
    with pytest.raises(InputError, match="no action tokens"):
        Conversation(HI, word_tokenizer()).tokens()
    with pytest.raises(InputError, match="no chat template"):
        Conversation(HI, word_tokenizer(None))


def test_the_text_of_a_response_is_without_its_end():
    tokenizer = word_tokenizer()
    assert response_text([GO, LEFT, END], tokenizer) == "go left"
    assert response_text(np.array([GO, EOS, EOS]).tolist(), tokenizer) == "go"
    assert response_text([GO, LEFT], tokenizer) == "go left"
    assert response_text([], tokenizer) == ""


TEXT = st.text(alphabet="ab \nü€<", max_size=6)
MERGES = [("a", "b"), ("b", "a"), ("Ġ", "a")]


@given(TEXT.filter(str.strip), st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.booleans())
def test_the_ids_are_those_that_the_same_conversation_in_words_has(asked, turns, merged):
    tokenizer = byte_tokenizer(merges=MERGES if merged else ())
    talk = Conversation([{"role": "system", "content": "s"}, {"role": "user", "content": asked}], tokenizer)
    for k, (reply, answer) in enumerate(turns):
        ids = [*tokenizer(reply)["input_ids"], 258]
        assert talk.reply(ids, [-1.0] * len(ids)) == reply
        if k < len(turns) - 1:
            talk.observe(answer)
    tokens = talk.tokens()
    same = tokenise(Episode(prompt=talk.prompt, completion=talk.completion, reward=1.0, prompt_id="p"), tokenizer)
    assert same.ids.tolist() == tokens.ids.tolist()
    assert same.action_mask.tolist() == tokens.action_mask.tolist()
    assert np.array_equal(tokens.behavior_log_prob, np.where(tokens.action_mask, -1, 0))
