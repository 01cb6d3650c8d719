"""Encoding of conversations: templates that write no end of turn, tools, and conversations of many turns."""

from dataclasses import replace

import pytest

from doubles.tokenizers import byte_tokenizer
from stepcredit.episodes import encoding
from stepcredit.episodes.conversation import Conversation
from stepcredit.episodes.encoding import tokenise
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.turns import split_into_turns
from stepcredit.errors import InputError

MINICPM = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<u>' + message['content'] + '<a>' }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)
EOS = 257
PROMPT = [{"role": "user", "content": "hi"}]
COMPLETION = [
    {"role": "assistant", "content": "go"},
    {"role": "user", "content": "wall"},
    {"role": "assistant", "content": "left"},
]
RUNS = [([*b"<u>hi<a>"], False), ([*b"go", EOS], True), ([*b"<u>wall<a>"], False), ([*b"left", EOS], True)]


@pytest.mark.parametrize("truncated", [False, True])
def test_a_template_without_an_end_of_turn_ends_turns_with_the_end_of_sequence(truncated):
    tokenizer = byte_tokenizer(MINICPM)
    reason, reward = (StopReason.LENGTH, None) if truncated else (StopReason.STOP, 1.0)
    episode = Episode(prompt=PROMPT, completion=COMPLETION, reward=reward, stop_reason=reason, prompt_id="p")
    ids = [i for run, _ in RUNS for i in run][: -1 if truncated else None]
    is_action = [action for run, action in RUNS for _ in run][: len(ids)]
    tokens = tokenise(episode, tokenizer)
    assert tokens.ids.tolist() == ids
    assert tokens.action_mask.tolist() == is_action

    talk = Conversation(PROMPT, tokenizer)
    assert talk.ids == [*b"<u>hi<a>"]
    assert talk.reply([*b"go", EOS], [-1.0] * 3) == "go"
    assert talk.observe("wall") == [*b"<u>wall<a>"]
    last = [*b"left", *([] if truncated else [EOS])]
    assert talk.reply(last, [-1.0] * len(last)) == "left"
    assert talk.completion == COMPLETION
    assert talk.tokens().ids.tolist() == ids
    assert talk.tokens().action_mask.tolist() == is_action


# ---- many turns --------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """Numbers of ids in each call of `decode`; with `only_whole` set, text without its beginning is not decoded."""
    calls, whole = [], encoding.decode

    def decode(ids, tokenizer):
        calls.append(len(ids))
        text = whole(ids, tokenizer)
        return text if not decode.only_whole or not ids or text.startswith("<u>") else "lost"

    decode.only_whole = False
    monkeypatch.setattr(encoding, "decode", decode)
    return calls


def many_turns(count):
    pairs = [
        [{"role": "assistant", "content": f"go to {k} – 😀"}, {"role": "user", "content": "wall"}] for k in range(count)
    ]
    said = [message for pair in pairs for message in pair][:-1]
    return Episode(prompt=PROMPT, completion=said, reward=1.0, stop_reason=StopReason.STOP, prompt_id="p")


def test_a_conversation_is_not_decoded_from_its_beginning_for_each_turn(decoded):
    tokens = tokenise(many_turns(100), byte_tokenizer(MINICPM))
    assert sum(decoded) < 10 * len(tokens.ids)


def test_a_tokenizer_that_needs_the_beginning_gives_the_same_ids(decoded):
    wanted = tokenise(many_turns(20), byte_tokenizer(MINICPM))
    encoding.decode.only_whole = True
    decoded.clear()
    found = tokenise(many_turns(20), byte_tokenizer(MINICPM))
    assert sum(n > 4 * encoding._CONTEXT for n in decoded) > 20
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.action_mask.tolist() == wanted.action_mask.tolist()


def test_ids_that_do_not_give_the_whole_text_back_are_looked_for_once_more(monkeypatch):
    """A tokenizer whose decoder writes "go" otherwise where many ids are before it."""
    whole = encoding.decode
    monkeypatch.setattr(encoding, "decode", lambda ids, t: whole(ids, t).replace("go", "GO" if len(ids) > 60 else "go"))
    with pytest.raises(InputError, match="does not give this text back"):
        tokenise(many_turns(20), byte_tokenizer(MINICPM))


# ---- tools -------------------------------------------------------------------------------------------

WITH_TOOLS = (
    "{% if tools %}{{ '<t>' }}{% for t in tools %}{{ t.name + ';' }}{% endfor %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<a>' + m.content + '<z>' }}"
    "{% else %}{{ '<u>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)
TOOLS = ({"name": "f"}, {"name": "g"})


def test_the_prompt_is_rendered_with_the_tools_that_the_policy_had():
    tokenizer = byte_tokenizer(WITH_TOOLS.replace("<z>", "<end>"))
    episode = Episode(prompt=PROMPT, completion=COMPLETION, reward=1.0, prompt_id="p", tools=TOOLS)
    bare = tokenise(replace(episode, tools=None), tokenizer)
    tokens = tokenise(episode, tokenizer)
    state = [*b"<t>f;g;"]
    assert tokens.ids.tolist() == [*state, *bare.ids]
    assert tokens.action_mask.tolist() == [False] * len(state) + bare.action_mask.tolist()
    for turn in split_into_turns(episode):
        assert tokenise(turn, tokenizer).ids.tolist()[: len(state)] == state


def test_a_template_that_leaves_tools_out_is_refused():
    episode = Episode(prompt=PROMPT, completion=COMPLETION, reward=1.0, prompt_id="p", tools=({"name": "f"},))
    with pytest.raises(InputError, match="leaves out the tool 'f' of the prompt; --chat_template FILE"):
        tokenise(episode, byte_tokenizer(MINICPM))


def test_tools_stand_beside_chat_alone():
    for prompt, completion, tools in ((PROMPT, COMPLETION, ()), ("q", "a", TOOLS)):
        with pytest.raises(InputError, match="tools: must be a list of tool descriptions, with chat messages, or None"):
            Episode(prompt=prompt, completion=completion, reward=1.0, prompt_id="p", tools=tools)
