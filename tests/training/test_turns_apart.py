"""Conversations whose turns are trained as separate episodes."""

import pytest

from doubles.tokenizers import byte_tokenizer
from stepcredit import Episode, InputError, OREOConfig, StopReason
from stepcredit.episodes.encoding import decode
from stepcredit.episodes.turns import split_into_turns
from stepcredit.training.data import prepare
from stepcredit.training.methods import method_of

REWRITES = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last or m.role == 'user' else '-' }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SAID = [("assistant", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e")]


def conversation(**given):
    completion = [{"role": role, "content": text} for role, text in SAID]
    prompt = [{"role": "user", "content": "q"}]
    return Episode(**{"prompt": prompt, "completion": completion, "reward": 1.0, "prompt_id": "p", **given})


def prepared(tmp_path, *episodes, **given):
    config = OREOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **given)
    return prepare(episodes, byte_tokenizer(REWRITES), config, method_of(config))


def test_each_turn_is_in_the_state_that_the_policy_saw(tmp_path):
    with pytest.raises(InputError, match="--split_turns true"):
        prepared(tmp_path, conversation())
    data = prepared(tmp_path, conversation(), split_turns=True)
    tokenizer = byte_tokenizer(REWRITES)
    read = []
    for row in data.trajectories:
        start = int(row.action_mask.argmax())
        read.append((decode(row.ids[:start].tolist(), tokenizer), decode(row.ids[start:].tolist(), tokenizer)))
    assert read == [
        ("<user>q<end><assistant>", "a<end>"),
        ("<user>q<end><assistant>-<end><user>b<end><assistant>", "c<end>"),
        ("<user>q<end><assistant>-<end><user>b<end><assistant>-<end><user>d<end><assistant>", "e<end>"),
    ]
    assert [float(row.reward.sum()) for row in data.trajectories] == [1.0, 1.0, 1.0]


def test_a_turn_has_its_own_reward_and_the_later_ones():
    turns = list(split_into_turns(conversation(reward=0.5, step_rewards=(1.0, 2.0, 4.0), sample=3)))
    assert [t.reward for t in turns] == [7.5, 6.5, 4.5]
    assert [t.prompt_id for t in turns] == ["p", "p/turn1/3", "p/turn2/3"]
    assert [len(t.prompt) for t in turns] == [1, 3, 5]
    with pytest.raises(InputError, match="2 rewards for 3 turns"):
        list(split_into_turns(conversation(step_rewards=(1.0, 2.0))))


def test_only_the_last_turn_of_a_cut_conversation_is_cut(tmp_path):
    cut = conversation(reward=None, stop_reason=StopReason.LENGTH)
    assert [t.stop_reason for t in split_into_turns(cut)] == [StopReason.STOP, StopReason.STOP, StopReason.LENGTH]
    dropped = prepared(tmp_path, cut, conversation(), split_turns=True)
    assert (len(dropped), dropped.left_out["truncated"]) == (3, 1)
    lost = prepared(tmp_path, cut, split_turns=True, truncated="zero")
    assert [float(row.reward.sum()) for row in lost.trajectories] == [0.0, 0.0, 0.0]
    assert [int(row.ids[-1]) == 258 for row in lost.trajectories] == [True, True, False]
    with pytest.raises(InputError, match=r"^truncated: .*drop or zero"):
        prepared(tmp_path, cut, split_turns=True, truncated="bootstrap")


def test_a_conversation_with_its_own_ids_stays_whole(tmp_path):
    from stepcredit.episodes.conversation import Conversation

    tokenizer = byte_tokenizer()
    talk = Conversation([{"role": "user", "content": "q"}], tokenizer)
    talk.reply([*b"a", 258], [0.0, 0.0])
    talk.observe("b")
    talk.reply([*b"c", 258], [0.0, 0.0])
    sampled = Episode(
        prompt=talk.prompt, completion=talk.completion, reward=1.0, prompt_id="p", tokens=talk.tokens()
    )  # fmt: skip
    assert len(prepared(tmp_path, sampled, split_turns=True)) == 1
