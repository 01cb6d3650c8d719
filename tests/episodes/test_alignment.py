"""Exact ids, masks and value positions, with one id a byte."""

import numpy as np
import pytest
import torch

from doubles.tokenizers import byte_tokenizer
from stepcredit.episodes.alignment import action_runs, align, at_states, collate, segments
from stepcredit.episodes.encoding import decode, prompt_ids, tokenise
from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.verdict import Verdict

EOS, END = 257, 258
LINES = StepRule(("\n",))


def episode(prompt, completion, **given):
    return Episode(**{"prompt": prompt, "completion": completion, "reward": 1.0, "prompt_id": "p", **given})


def ids(text):
    return list(text.encode())


def test_text(byte_tokenizer):
    row = align(episode("2+2=", "4\nok\n"), byte_tokenizer, LINES)
    assert row.ids.tolist() == [*ids("2+2="), *ids("4\nok\n"), EOS]
    assert row.action_mask.tolist() == [False] * 4 + [True] * 6
    assert row.step_id.tolist() == [-1] * 4 + [0, 0, 1, 1, 1, 2]
    assert row.reward.tolist() == [0] * 9 + [1]
    assert row.retokenised


def test_a_truncated_response_has_no_end_token(byte_tokenizer):
    row = align(episode("q", "ab", stop_reason=StopReason.LENGTH), byte_tokenizer, LINES)
    assert row.ids.tolist() == ids("qab")
    assert row.step_id.tolist() == [-1, 0, 0]
    assert row.reward.tolist() == [0, 0, 1]


def test_an_empty_response_is_its_end_token(byte_tokenizer):
    row = align(episode("q", "", reward=0.5), byte_tokenizer, LINES)
    assert row.ids.tolist() == [ord("q"), EOS]
    assert row.step_id.tolist() == [-1, 0]
    assert row.reward.tolist() == [0, 0.5]
    with pytest.raises(InputError, match="no action tokens"):
        align(episode("q", "", stop_reason=StopReason.LENGTH), byte_tokenizer, LINES)


def test_a_prompt_that_would_merge_with_the_response_does_not():
    tokenizer = byte_tokenizer(merges=[("a", "b")])
    assert tokenizer("xab")["input_ids"] == [ord("x"), 259]
    row = align(episode("xa", "bab"), tokenizer, LINES)
    assert row.ids.tolist() == [*ids("xab"), 259, EOS]
    assert row.action_mask.tolist() == [False, False, True, True, True]


def test_sampled_ids_are_kept_though_the_text_would_tokenise_otherwise():
    tokenizer = byte_tokenizer(merges=[("a", "b")])
    tokens = Tokens(np.array([*ids("qab"), EOS], np.int32), np.array([False, True, True, True]))
    row = align(episode("q", "ab", tokens=tokens), tokenizer, LINES)
    assert row.ids.tolist() == [*ids("qab"), EOS]
    assert not row.retokenised


CHAT = [{"role": "user", "content": "hi"}]


def test_chat(byte_tokenizer):
    row = align(episode(CHAT, [{"role": "assistant", "content": "a\nb"}]), byte_tokenizer, LINES)
    before = [*ids("<user>hi"), END, *ids("\n<assistant>")]
    assert row.ids.tolist() == [*before, *ids("a\nb"), END]
    assert row.action_mask.tolist() == [False] * len(before) + [True] * 4
    assert row.step_id[len(before) :].tolist() == [0, 0, 1, 2]
    assert prompt_ids(CHAT, byte_tokenizer) == before


def test_turns_with_observations(byte_tokenizer):
    """An action's tokens and its end of turn carry a loss; what the environment said never does."""
    said = [
        {"role": "assistant", "content": "go"},
        {"role": "user", "content": "wall"},
        {"role": "assistant", "content": "left"},
    ]
    row = align(episode(CHAT, said, step_rewards=(0.25, 0.5)), byte_tokenizer, StepRule(()))
    before = [*ids("<user>hi"), END, *ids("\n<assistant>")]
    seen = [*ids("\n<user>wall"), END, *ids("\n<assistant>")]
    assert row.ids.tolist() == [*before, *ids("go"), END, *seen, *ids("left"), END]
    expected_steps = [-1] * len(before) + [0, 0, 1] + [-1] * len(seen) + [2, 2, 2, 2, 3]
    assert row.step_id.tolist() == expected_steps
    assert row.action_mask.tolist() == [s >= 0 for s in expected_steps]
    rewarded = {int(p): float(row.reward[p]) for p in np.flatnonzero(row.reward)}
    first = len(before) + 1
    last = len(row) - 1
    assert rewarded == {first: 0.25, last - 1: 0.5, last: 1.0}
    assert action_runs(row.action_mask) == [(len(before), len(before) + 3), (last - 4, last + 1)]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last or m.role == 'user' else '' }}<end>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    said = [{"role": r, "content": c} for r, c in [("assistant", "a"), ("user", "b"), ("assistant", "c")]]
    with pytest.raises(InputError, match="does not append"):
        align(episode(CHAT, said), byte_tokenizer(template), LINES)


@pytest.mark.parametrize("body", ["", "{% if m.role == 'user' %}{{ m.content }}{% endif %}"])
def test_a_template_that_yields_no_action_tokens_is_refused(body):
    template = "{% for m in messages %}" + body + "{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    with pytest.raises(InputError, match=r"chat_template: .*(no action tokens|does not append)"):
        align(episode(CHAT, [{"role": "assistant", "content": "a"}]), byte_tokenizer(template), LINES)


def test_no_template_is_refused():
    with pytest.raises(InputError, match="no chat template"):
        align(episode(CHAT, [{"role": "assistant", "content": "a"}]), byte_tokenizer(None), LINES)


def test_text_the_tokenizer_cannot_give_back_is_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"q": 0, "[UNK]": 1, "<eos>": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="[UNK]")
    with pytest.raises(InputError, match="completion: the tokenizer does not give this text back"):
        tokenise(episode("q", "é"), tokenizer)


def test_step_rewards_stand_on_the_last_token_of_their_step(byte_tokenizer):
    given = {"steps": ("ab\n", "c\n", "d"), "step_rewards": (1.0, 0.0, 0.5), "reward": 0.25}
    row = align(episode("q", "ab\nc\nd", **given), byte_tokenizer, StepRule(()))
    assert row.step_id.tolist() == [-1, 0, 0, 0, 1, 1, 2, 3]
    assert row.reward.tolist() == [0, 0, 0, 1, 0, 0, 0.5, 0.25]


def test_too_few_step_rewards_are_refused(byte_tokenizer):
    with pytest.raises(InputError, match="step_rewards: 1 step rewards for 2 steps"):
        align(episode("q", "a\nb", step_rewards=(1.0,)), byte_tokenizer, LINES)


def test_an_undecided_episode_is_refused(byte_tokenizer):
    undecided = episode("q", "a", reward=None, verdict=Verdict.UNDECIDED)
    with pytest.raises(InputError, match="undecided"):
        align(undecided, byte_tokenizer, LINES)


def test_values_are_read_one_position_before_their_action(byte_tokenizer):
    """A fake model whose output at position p is p: the action at p must read p - 1."""
    rows = [align(episode(p, c), byte_tokenizer, LINES) for p, c in [("qq", "ab\n"), ("q", "")]]
    batch = collate(rows, pad_token_id=256)
    assert batch.input_ids.tolist() == [[*ids("qqab\n"), EOS], [ord("q"), EOS, 256, 256, 256, 256]]
    assert batch.attention_mask.tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0]]
    output = torch.arange(6).expand(2, 6)
    read = torch.where(batch.action_mask, at_states(output), -1)
    assert read.tolist() == [[-1, 1, 2, 3, 4], [0, -1, -1, -1, -1]]
    assert batch.action[batch.action_mask].tolist() == [*ids("ab\n"), EOS, EOS]
    assert batch.reward.tolist() == [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]
    assert batch.step_id.tolist() == [[-1, 0, 0, 0, 1], [0, -1, -1, -1, -1]]


def test_levels_are_segments(byte_tokenizer):
    batch = collate([align(episode("q", "a\nb"), byte_tokenizer, LINES)], 256)
    found = {
        level: segments(level, batch.action_mask, batch.step_id)[0].tolist() for level in ("token", "step", "response")
    }
    assert found == {"token": [0, 1, 2, 3], "step": [0, 0, 1, 2], "response": [0, 0, 0, 0]}
    with pytest.raises(InputError, match="no level"):
        segments.__wrapped__("word", batch.action_mask, batch.step_id)


def test_a_tokenizer_that_puts_a_space_before_every_text():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "▁q", "▁a", "a", "\n", "▁", "q", "▁b", "▁\n"]
    core = Tokenizer(
        models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[("▁", "q"), ("▁", "a"), ("▁", "\n")])
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=False)
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    tokens = tokenise(episode("q", "aa\na"), tokenizer)
    assert decode(tokens.ids.tolist(), tokenizer) == "qaa\na<eos>"
    assert [words[i] for i in tokens.ids[tokens.action_mask]] == ["a", "a", "\n", "a", "<eos>"]
