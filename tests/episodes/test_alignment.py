"""Exact ids, masks and value positions, with one id a byte."""

from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

from doubles.tokenizers import byte_tokenizer
from stepcredit.episodes.alignment import (
    TokenTexts,
    Trajectory,
    action_runs,
    add_bootstrap_value,
    align,
    at_states,
    collate,
    segments,
    splice,
)
from stepcredit.episodes.encoding import decode, prompt_ids, tokenise
from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import turn_ends
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
    assert row.behavior_log_prob is None


def test_recorded_log_probs_stay_with_their_tokens(byte_tokenizer):
    log_prob = np.array([0, -1, -2, -3], np.float32)
    mask = np.array([False, True, True, True])
    tokens = Tokens(np.array([*ids("qab"), EOS], np.int32), mask, log_prob)
    known = align(episode("q", "ab", tokens=tokens), byte_tokenizer, LINES)
    unknown = align(episode("q", "ab"), byte_tokenizer, LINES)
    assert known.behavior_log_prob.tolist() == [0, -1, -2, -3]
    batch = collate([known, unknown], 256)
    assert batch.behavior_log_prob[0].tolist() == [-1, -2, -3]
    assert batch.behavior_log_prob[1].isnan().all()


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


def test_step_rewards_go_on_counting_from_turn_to_turn(byte_tokenizer):
    said = [{"role": r, "content": c} for r, c in [("assistant", "a"), ("user", "x")] * 2 + [("assistant", "b\nc")]]
    row = align(episode(CHAT, said, step_rewards=(1.0, 2.0, 3.0, 4.0), reward=0.0), byte_tokenizer, LINES)
    starts = [start for start, _ in action_runs(row.action_mask)]
    assert np.flatnonzero(row.reward).tolist() == [starts[0], starts[1], starts[2] + 1, starts[2] + 2]
    assert row.reward[row.reward > 0].tolist() == [1, 2, 3, 4]


def test_a_template_that_rewrites_earlier_turns_is_refused():
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content if loop.last or m.role == 'user' else '' }}<end>"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    said = [{"role": r, "content": c} for r, c in [("assistant", "a"), ("user", "b"), ("assistant", "c")]]
    with pytest.raises(InputError, match="changes earlier turns"):
        align(episode(CHAT, said), byte_tokenizer(template), LINES)


@pytest.mark.parametrize("body", ["", "{% if m.role == 'user' %}{{ m.content }}{% endif %}"])
def test_a_template_that_leaves_the_reply_out_is_refused(body):
    template = "{% for m in messages %}" + body + "{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    with pytest.raises(InputError, match="leaves the assistant's message out"):
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


def test_rewards_that_meet_on_one_token_add_up():
    """Two steps in one token, the third on the last token of all, where the outcome is."""
    given = {"steps": ("a", "b", "c"), "step_rewards": (1.0, 0.5, 0.25), "stop_reason": StopReason.LENGTH}
    row = align(episode("q", "abc", **given), byte_tokenizer(merges=[("a", "b")]), LINES)
    assert row.step_id.tolist() == [-1, 0, 1]
    assert row.reward.tolist() == [0, 1.5, 1.25]


def test_a_step_before_the_first_token_can_have_no_reward(byte_tokenizer):
    given = {"steps": ("", "a"), "step_rewards": (0.0, 0.5)}
    assert align(episode("q", "a", **given), byte_tokenizer, LINES).reward.tolist() == [0, 0.5, 1]
    with pytest.raises(InputError, match=r"^step_rewards: step 0 has a reward but no token$"):
        align(episode("q", "a", **{**given, "step_rewards": (0.5, 0.0)}), byte_tokenizer, LINES)


def test_too_few_step_rewards_are_refused(byte_tokenizer):
    assert align(episode("q", "a", step_rewards=(0.5,)), byte_tokenizer, LINES).reward.tolist() == [0, 0.5, 1]
    message = "step_rewards: 1 step rewards for 2 steps; give one per step, or check the step delimiters"
    with pytest.raises(InputError, match=f"^{message}$"):
        align(episode("q", "a\nb", step_rewards=(1.0,)), byte_tokenizer, LINES)


def test_an_undecided_episode_is_refused(byte_tokenizer):
    undecided = episode("q", "a", reward=None, verdict=Verdict.UNDECIDED)
    with pytest.raises(InputError, match=r"^reward: the episode is undecided: it has no reward$"):
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


def test_a_batch_by_name_and_kind(byte_tokenizer):
    row = align(episode("q", "a"), byte_tokenizer, LINES)
    assert (row.prompt_id, row.outcome) == ("p", 1.0)
    assert align(episode("q", "a", reward=0.0, outcome=0.5), byte_tokenizer, LINES).outcome == 0.5
    batch = collate([row, replace(row, prompt_id="r", outcome=0.7)], 256)
    tensors = {name: field for name, field in batch.to_dict().items() if isinstance(field, torch.Tensor)}
    assert all(field.is_contiguous() for field in tensors.values())
    kinds = {name: field.dtype for name, field in tensors.items()}
    assert all(field is getattr(batch, name) for name, field in batch.to_dict().items())
    assert batch.to_dict()["prompt_id"] == ("p", "r")
    assert (batch.outcome >= 0.7).tolist() == [True, True]
    assert kinds == {
        **dict.fromkeys(("input_ids", "attention_mask", "action", "step_id"), torch.int64),
        **dict.fromkeys(("action_mask", "cut"), torch.bool),
        **dict.fromkeys(("reward", "behavior_log_prob", "outcome"), torch.float32),
    }


def test_the_prompt_of_one_with_the_response_of_another():
    one = Trajectory(
        np.array([1, 2, 3, 4], np.int32),
        np.array([False, False, True, True]),
        np.array([-1, -1, 0, 1]),
        np.array([0, 0, 0, 1], np.float32),
        np.array([0, 0, -1, -1], np.float32),
        retokenised=False,
        cut=True,
        prompt_id="one",
        outcome=1.0,
    )
    other = Trajectory(
        np.array([5, 6, 7, 8], np.int32),
        np.array([False, True, False, True]),
        np.array([-1, 0, -1, 0]),
        np.array([0, 2, 0, 3], np.float32),
        np.array([0, -2, 0, -2], np.float32),
        retokenised=True,
        prompt_id="other",
        outcome=1.0,
    )
    found, back = splice(one, other), splice(other, one)
    assert found.ids.tolist() == [1, 2, 6, 7, 8]
    assert found.action_mask.tolist() == [False, False, True, False, True]
    assert found.step_id.tolist() == [-1, -1, 0, -1, 0]
    assert found.reward.tolist() == [0] * 5
    assert found.reward.dtype == np.float32
    assert found.behavior_log_prob is None
    assert found.retokenised
    assert (found.prompt_id, found.outcome, back.prompt_id) == ("one", 0.0, "other")
    assert back.ids.tolist() == [5, 3, 4]
    assert back.step_id.tolist() == [-1, 0, 1]
    assert not back.retokenised
    assert not back.cut


def test_levels_are_segments(byte_tokenizer):
    batch = collate([align(episode("q", "a\nb"), byte_tokenizer, LINES)], 256)
    found = {
        level: segments(level, batch.action_mask, batch.step_id)[0].tolist() for level in ("token", "step", "response")
    }
    assert found == {"token": [0, 1, 2, 3], "step": [0, 0, 1, 2], "response": [0, 0, 0, 0]}


@pytest.mark.parametrize(("level", "expected"), [("token", [-1, 0, -1, 1]), ("response", [-1, 0, -1, 0])])
def test_segments_are_minus_one_outside_actions(level, expected):
    mask, unused = torch.tensor([[False, True, False, True]]), torch.full((1, 4), -1)
    assert segments(level, mask, unused).tolist() == [expected]


def test_a_cut_episode_is_rewarded_with_the_value_after_its_last_action():
    """Rows: cut after two actions and an observation, cut after its only action, ended, and without any action."""
    mask = torch.tensor(
        [[True, False, True, False], [True, False, False, False], [True, True, True, True], [False] * 4]
    )
    value = torch.arange(20, dtype=torch.float64).reshape(4, 5).requires_grad_()
    reward = torch.tensor([[0.0, 0, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    found = add_bootstrap_value(reward, value, mask, torch.tensor([True, True, False, False]))
    assert found.tolist() == [[0, 0, 3.5, 0], [6, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert found.dtype == reward.dtype
    assert not found.requires_grad


def test_bootstrapping_stays_on_its_device():
    at = {"device": "meta"}
    cut, mask = torch.ones(2, dtype=torch.bool, **at), torch.ones(2, 3, dtype=torch.bool, **at)
    assert add_bootstrap_value(torch.ones(2, 3, **at), torch.ones(2, 4, **at), mask, cut).device.type == "meta"


def test_an_unknown_level_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # types refuse it first
    with pytest.raises(InputError, match=r"^level: unknown level 'word'; choose from token, step, response$"):
        segments("word", torch.tensor([[True]]), torch.tensor([[0]]))


class SpacedWords:
    """Decodes like sentencepiece: no space before the first word; and tidies spaces up unless told not to."""

    def decode(self, ids, clean_up_tokenization_spaces=None):
        text = "".join(["▁two", "▁a", "b", "▁."][i] for i in ids).replace("▁", " ").removeprefix(" ")
        return text if clean_up_tokenization_spaces is False else text.replace(" .", ".")


def test_pieces_read_as_they_do_in_context():
    reader = TokenTexts(SpacedWords())
    assert reader([0, 1, 2, 3]) == ["two", " a", "b", " ."]
    assert reader([1, 0]) == ["a", " two"]


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


def conversation(*turns, **given):
    """Sampled ids: a prompt of two, replies as they are, observations of three ids between them."""
    row, mask = [ord("q"), ord("?")], [False, False]
    for k, turn in enumerate(turns):
        seen = [ord("#"), END, ord(">")] if k else []
        row, mask = row + seen + list(turn), mask + [False] * len(seen) + [True] * len(turn)
    log_prob = np.where(mask, -1.0 - np.arange(len(row)), 0).astype(np.float32)
    said = [{"role": role, "content": "x"} for _ in turns for role in ("user", "assistant")][1:]
    tokens = Tokens(np.array(row, np.int32), np.array(mask), log_prob)
    return episode(CHAT, said, **{"tokens": tokens, **given})


TURNS = StepRule(())
CUT = {"stop_reason": StopReason.LENGTH}


def test_a_turn_is_a_step_and_its_end_another(byte_tokenizer):
    turns = [*ids("go"), END], [*ids("a\nb"), END], [*ids("x"), EOS]
    row = align(conversation(*turns, step_rewards=(0.25, 0.5, 0.0)), byte_tokenizer, TURNS)
    seen = [-1, -1, -1]
    assert row.step_id.tolist() == [-1, -1, 0, 0, 1, *seen, 2, 2, 2, 3, *seen, 4, 5]
    assert row.reward.tolist() == [0, 0, 0, 0.25, 0, *[0] * 5, 0.5, 0, *[0] * 3, 0, 1]
    assert row.action_mask.tolist() == [s >= 0 for s in row.step_id.tolist()]
    assert not row.cut


def test_a_last_turn_that_was_cut_is_no_action(byte_tokenizer):
    """Two and three turns: the outcome comes to stand on the end token of the turn before."""
    two = align(conversation([*ids("go"), END], ids("lef"), reward=0.5, **CUT), byte_tokenizer, TURNS)
    assert two.ids.tolist() == [*ids("q?go"), END, ord("#"), END, ord(">"), *ids("lef")]
    assert two.action_mask.tolist() == [False] * 2 + [True] * 3 + [False] * 6
    assert two.step_id.tolist() == [-1, -1, 0, 0, 1, *[-1] * 6]
    assert two.reward.tolist() == [0, 0, 0, 0, 0.5, *[0] * 6]
    assert two.behavior_log_prob.tolist() == [0, 0, -3, -4, -5, *[0] * 6]
    assert two.behavior_log_prob.dtype == np.float32
    turns = [*ids("a"), EOS], [END], ids("b")
    three = align(conversation(*turns, step_rewards=(0.25, 0.5, 0.0), **CUT), byte_tokenizer, TURNS)
    assert three.step_id.tolist() == [-1, -1, 0, 1, *[-1] * 3, 2, *[-1] * 4]
    assert three.reward.tolist() == [0, 0, 0.25, 0, *[0] * 3, 1.5, *[0] * 4]


def test_a_cut_turn_without_recorded_log_probs_is_no_action_either(byte_tokenizer):
    said = [{"role": r, "content": c} for r, c in [("assistant", "a"), ("user", "x"), ("assistant", "bc")]]
    row = align(episode(CHAT, said, **CUT), byte_tokenizer, TURNS)
    assert row.ids[row.action_mask].tolist() == [ord("a"), END]
    assert row.ids[-2:].tolist() == ids("bc")
    assert row.behavior_log_prob is None
    assert row.retokenised


def test_the_episode_keeps_its_own_tokens_when_a_cut_turn_is_left_out(byte_tokenizer):
    cut = conversation([*ids("a"), END], ids("b"), **CUT)
    align(cut, byte_tokenizer, TURNS)
    assert cut.tokens.action_mask.sum() == 3
    assert cut.tokens.behavior_log_prob[-1] != 0


@pytest.mark.parametrize(
    ("turns", "given", "actions"),
    [
        (([*ids("a"), END], [*ids("b"), END]), CUT, 4),  # a limit on turns
        (([*ids("a"), END], [*ids("b"), EOS]), CUT, 4),
        ((ids("abc"),), CUT, 3),  # a single turn
        (([*ids("a"), END], ids("b")), {}, 3),  # ended by a stop string
        (([*ids("a"), END], ids("b")), {"stop_reason": StopReason.STOP}, 3),
        ((ids("ab"), [*ids("b"), END]), CUT, 4),
    ],
)
def test_other_turns_are_actions_as_they_were(byte_tokenizer, turns, given, actions):
    one = conversation(*turns, **given)
    row = align(one, byte_tokenizer, TURNS)
    assert row.action_mask.tolist() == one.tokens.action_mask.tolist()
    assert row.behavior_log_prob.tolist() == one.tokens.behavior_log_prob.tolist()
    assert row.action_mask.sum() == actions
    assert row.reward[np.flatnonzero(row.action_mask)[-1]] == 1


def test_an_empty_turn_has_its_reward_on_its_end_token(byte_tokenizer):
    """One reward a turn: those that follow stay with their own turns."""
    turns = [END], [*ids("b"), END], [END], [*ids("c"), END]
    row = align(conversation(*turns, step_rewards=(0.5, 2.0, 4.0, 8.0)), byte_tokenizer, TURNS)
    seen = [0] * 3
    assert row.reward.tolist() == [0, 0, 0.5, *seen, 2, 0, *seen, 4, *seen, 8, 1]
    assert row.step_id[row.action_mask].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="3 step rewards for 4 steps"):
        align(conversation(*turns, step_rewards=(0.5, 2.0, 4.0)), byte_tokenizer, TURNS)


def test_a_step_ends_after_so_many_tokens_too(byte_tokenizer):
    row = align(episode("q", "abc\nd"), byte_tokenizer, StepRule(("\n",), 2))
    assert row.step_id.tolist() == [-1, 0, 0, 1, 1, 2, 3]
    own = episode("q", "abc\nd", steps=("abc\n", "d"))
    assert align(own, byte_tokenizer, StepRule(("\n",), 2)).step_id.tolist() == [-1, 0, 0, 0, 0, 1, 2]


def test_any_end_token_of_a_response_is_a_separate_step(byte_tokenizer):
    """A stop string ended it: the state before its last token is trained, as that before an end of turn is."""
    row = align(sampled("q", [*b"a\nbQ:"], stop_reason=StopReason.STOP), byte_tokenizer, LINES)
    assert row.step_id.tolist() == [-1, 0, 0, 1, 1, 2]
    cut = align(sampled("q", [*b"a\nbQ:"], stop_reason=StopReason.LENGTH), byte_tokenizer, LINES)
    assert cut.step_id.tolist() == [-1, 0, 0, 1, 1, 1]
    ended = align(sampled("q", [*b"ab", EOS], stop_reason=StopReason.LENGTH), byte_tokenizer, LINES)
    assert ended.step_id.tolist() == [-1, 0, 0, 1]


def sampled(prompt, written, **given):
    tokens = Tokens(
        np.array([*ids(prompt), *written], np.int32), np.array([False] * len(prompt) + [True] * len(written), np.bool_)
    )
    return episode(prompt, "whatever", tokens=tokens, **given)


def test_end_of_turn_tokens_can_be_passed(byte_tokenizer):
    ends = turn_ends(byte_tokenizer)._replace(of_text=END)
    assert align(episode("q", "a"), byte_tokenizer, LINES, ends=ends).ids.tolist() == [*ids("qa"), END]


def test_a_turn_as_it_was_written():
    drops = byte_tokenizer(
        "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    said = episode(CHAT, [{"role": "assistant", "content": "<think>a</think>b"}])
    with pytest.raises(InputError, match="drops the reasoning"):
        align(said, drops, LINES)
    row = align(said, drops, LINES, as_written=True)
    assert row.ids[row.action_mask].tolist() == [*ids("<think>a</think>b"), END]
