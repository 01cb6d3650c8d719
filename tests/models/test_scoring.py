"""V and log-ratios are read at the positions of training, independently of batch and order."""

import numpy as np
import pytest
import torch

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.episodes.alignment import align
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.models.loading import value_model_from
from stepcredit.models.scoring import log_ratios_of, step_starts, sum_over_steps, value_after_steps, values_of


def value_model():
    model = value_model_from(tiny_llama(seed=4).double())
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model


def rows():
    texts = ["a\nbb\nc", "", "xyz", "a\n" * 5]
    return [
        align(Episode(prompt="q" * (i + 1), completion=t, reward=1.0, prompt_id="p"), byte_tokenizer(), StepRule())
        for i, t in enumerate(texts)
    ]


def test_each_value_is_the_output_one_position_before_its_action():
    model, trajectories = value_model(), rows()
    for size in (1, 3):
        for trajectory, found in zip(trajectories, values_of(model, trajectories, batch_size=size)):
            with torch.no_grad():
                output = model(torch.from_numpy(trajectory.ids).long()[None]).logits[0, :, 0].numpy()
            for p in range(len(trajectory)):
                if trajectory.action_mask[p]:
                    np.testing.assert_allclose(found[p], output[p - 1], rtol=1e-5)
                else:
                    assert np.isnan(found[p])


def test_values_after_steps_by_hand():
    """q | a \\n | b b \\n | c | E: before the first step, after each of three; the last before the end token."""
    trajectory = rows()[0]
    value = np.arange(len(trajectory), dtype=np.float32)
    assert value_after_steps(trajectory, value).tolist() == [1, 3, 6, 7]
    assert trajectory.ids[7] == 257


def conversation():
    """<user>u<end>\\n<assistant> | a \\n | b | <end> | \\n<user>… | c | <end> of two turns."""
    said = [("assistant", "a\nb"), ("user", "v"), ("assistant", "c")]
    return align(
        Episode(
            prompt=[{"role": "user", "content": "u"}],
            completion=[{"role": role, "content": text} for role, text in said],
            reward=1.0,
            prompt_id="p",
        ),
        byte_tokenizer(),
        StepRule(),
    )


def test_each_log_ratio_is_that_of_the_action_at_its_position():
    policy, reference = tiny_llama(seed=1).double(), tiny_llama(seed=2).double()
    trajectories = [*rows(), conversation()]
    for size in (1, 3):
        for trajectory, found in zip(trajectories, log_ratios_of(policy, reference, trajectories, batch_size=size)):
            ids = torch.from_numpy(trajectory.ids).long()
            with torch.no_grad():
                log_pi, log_ref = (model(ids[None]).logits[0].log_softmax(-1) for model in (policy, reference))
            expected = np.full(len(ids), np.nan)
            for p in np.flatnonzero(trajectory.action_mask):
                expected[p] = log_pi[p - 1, ids[p]] - log_ref[p - 1, ids[p]]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_policy_that_has_not_moved_has_log_ratio_zero():
    policy = tiny_llama(seed=1)
    assert log_ratios_of(policy, policy, []) == []
    for trajectory, found in zip(rows(), log_ratios_of(policy, policy, rows())):
        assert (found[trajectory.action_mask] == 0).all()


def test_dropout_is_off_while_scoring_and_back_on_after():
    policy, reference = tiny_llama(seed=1, attention_dropout=0.5).train(), tiny_llama(seed=2).eval()
    first, second = log_ratios_of(policy, reference, rows()), log_ratios_of(policy, reference, rows())
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)
    assert (policy.training, reference.training) == (True, False)


def test_sums_over_steps_by_hand():
    """q | a \\n | b b \\n | c | E: the end token at 7 is in no sum."""
    trajectory = rows()[0]
    numbers = np.where(trajectory.action_mask, np.arange(len(trajectory)), np.nan)
    assert sum_over_steps(trajectory, numbers).tolist() == [1 + 2, 3 + 4 + 5, 6]
    assert sum_over_steps(rows()[1], np.zeros(3)).tolist() == []


def test_steps_of_a_conversation_by_hand():
    """The end of the first turn is a step, that of the last is none; the observation is nobody's."""
    trajectory = conversation()
    actions = [chr(i) if i < 256 else "E" for i in trajectory.ids[trajectory.action_mask]]
    assert "".join(actions) == "a\nbEcE"
    starts = step_starts(trajectory)
    assert [chr(i) if i < 256 else "E" for i in trajectory.ids[starts]] == ["a", "b", "E", "c", "E"]
    numbers = np.full(len(trajectory), np.nan)
    numbers[trajectory.action_mask] = [1, 2, 4, 8, 16, 32]
    assert sum_over_steps(trajectory, numbers).tolist() == [1 + 2, 4, 8, 16]


@pytest.mark.parametrize("k", range(5))
def test_sums_of_changes_are_the_change_over_the_step(k):
    """Numbers that are the change of V from each action's state to the next: the sums telescope."""
    trajectory = [*rows(), conversation()][k]
    value = np.random.default_rng(k).normal(size=len(trajectory)).astype(np.float32)
    actions = np.flatnonzero(trajectory.action_mask)
    change = np.full(len(trajectory), np.nan, dtype=np.float32)
    change[actions] = np.diff(value[actions], append=0)
    expected = np.diff(value_after_steps(trajectory, value))
    np.testing.assert_allclose(sum_over_steps(trajectory, change), expected, atol=1e-6)
