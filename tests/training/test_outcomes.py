"""Right and wrong are decided by the outcome, not by step rewards."""

from dataclasses import replace

import numpy as np
import pytest
from test_splits import sampled
from test_trainer import config, trainer

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import (
    DPOConfig,
    DQOConfig,
    Episode,
    InputError,
    KTOConfig,
    OREOConfig,
    RFTConfig,
    SFTConfig,
    StopReason,
    TOPRConfig,
    append_episodes,
)
from stepcredit.episodes.turns import split_into_turns
from stepcredit.logs.columns import ImportRules
from stepcredit.logs.importers import episode_from_row
from stepcredit.training.data import prepare
from stepcredit.training.methods import method_of


def penalised():
    """Two prompts, each with a right response of total 1 - 0.05 and a wrong one of total 0.95 by its steps."""
    return [
        Episode(
            prompt=f"q{p}",
            completion="a\nb",
            reward=reward,
            step_rewards=steps,
            prompt_id=f"q{p}",
            sample=k,
        )
        for p in range(2)
        for k, (reward, steps) in enumerate([(1.0, (-0.05, 0.0)), (0.0, (0.5, 0.45))])
    ]


def prepared(folder, kind, data, **given):
    args = config(folder, kind, **given)
    return prepare(data, byte_tokenizer(), args, method_of(args))


def test_rejection_sampling_keeps_right_responses_regardless_of_step_rewards(tmp_path):
    data = prepared(tmp_path, RFTConfig, penalised())
    assert [t.outcome for t in data.trajectories] == [1.0, 1.0]
    assert data.left_out == {"filtered": 2}
    assert [float(t.reward.sum()) for t in data.trajectories] == pytest.approx([0.95, 0.95])


def test_pairs_and_balances_are_of_outcomes(tmp_path):
    pairs = prepared(tmp_path, DPOConfig, penalised()).items
    assert [[t.outcome for t in pair] for pair in pairs] == [[1.0, 0.0]] * 2
    balanced = prepared(tmp_path, OREOConfig, [*penalised()[:2], penalised()[0]], max_per_outcome=2)
    assert sorted(t.outcome for t in balanced.trajectories) == [0.0, 1.0]


@pytest.mark.parametrize("threshold", [1.0, 0.7])
def test_labels_of_kto_and_topr_are_outcomes_also_in_double_precision(tmp_path, threshold):
    """An outcome that is the threshold is right, though 0.7 in single precision is less than 0.7."""
    data = [replace(sampled(f"q{k}", "a\nb", k), reward=threshold * (k % 2)) for k in range(4)]
    for kind in (KTOConfig, TOPRConfig):
        run = trainer(tmp_path, kind, model=tiny_llama().double(), data=data, reward_threshold=threshold)
        _, signals = run._terms(run.model, run.data_collator([run.train_dataset[k] for k in range(4)]))
        assert (signals.outcome >= threshold).tolist() == [False, True, False, True]
    terms, signals = run._terms(run.model, run.data_collator([run.train_dataset[k] for k in range(4)]))
    total = (signals.log_prob * signals.action_mask).sum(-1)
    assert terms.policy.tolist()[1::2] == pytest.approx((-total).tolist()[1::2])
    assert all(loss < 0 for loss in terms.policy.tolist()[::2])


def test_a_truncated_response_that_counts_as_lost_returns_nothing(tmp_path):
    cut = replace(penalised()[1], reward=None, stop_reason=StopReason.LENGTH)
    (lost,) = prepared(tmp_path, SFTConfig, [cut], truncated="zero").trajectories
    assert (lost.outcome, lost.reward.tolist()) == (0.0, [0.0] * len(lost))
    (going_on,) = prepared(tmp_path, OREOConfig, [cut], truncated="bootstrap").trajectories
    assert going_on.cut
    assert float(going_on.reward.sum()) == pytest.approx(0.95)  # earned before the cut; V stands for the rest
    assert going_on.outcome == 0.0


def test_a_truncated_conversation_that_is_split_returns_nothing(tmp_path):
    said = [{"role": r, "content": t} for r, t in (("assistant", "a"), ("user", "b"), ("assistant", "c"))]
    talk = Episode(prompt=[{"role": "user", "content": "q"}], completion=said, reward=None, prompt_id="p",
                   step_rewards=(0.5, 0.25), stop_reason=StopReason.LENGTH)  # fmt: skip
    turns = prepared(tmp_path, SFTConfig, [talk], truncated="zero", split_turns=True).trajectories
    assert [float(t.reward.sum()) for t in turns] == [0.0, 0.0]
    whole = replace(talk, reward=1.0, stop_reason=StopReason.STOP)
    assert [(t.reward, t.outcome) for t in split_into_turns(whole)] == [(1.75, 1.0), (1.25, 1.0)]
    turns = prepared(tmp_path, RFTConfig, [replace(whole, step_rewards=(-0.5, -0.25))], split_turns=True).trajectories
    assert [t.outcome for t in turns] == [1.0, 1.0]


def stepwise(**given):
    row = {"prompt": "q", "completions": ["a", "b"], "labels": [1, 1], **given}
    return episode_from_row(row, ImportRules())


@pytest.mark.parametrize("kind", [RFTConfig, DPOConfig, KTOConfig])
def test_labels_of_steps_are_no_outcome(tmp_path, kind):
    """Every step right says nothing of the end: methods of right and wrong ask for it."""
    with pytest.raises(InputError, match="no response has an outcome of 1 or more, so none is right"):
        prepared(tmp_path, kind, [stepwise()])
    with pytest.raises(InputError, match="outcomes in a column reward or label"):
        prepared(tmp_path, OREOConfig, [stepwise()], max_per_outcome=1)
    (row,) = prepared(tmp_path, OREOConfig, [stepwise()]).trajectories  # steps are what it learns from
    assert float(row.reward.sum()) == 2


def test_stepwise_logs_with_an_outcome_have_labels(tmp_path):
    rows = [stepwise(label=True), stepwise(label=False)]
    assert [t.outcome for t in prepared(tmp_path, RFTConfig, rows).trajectories] == [1.0]
    assert len(prepared(tmp_path, DPOConfig, rows)) == 1


def test_an_outcome_that_was_moved_is_what_labels_go_by_and_is_not_stored(tmp_path):
    moved = [replace(e, reward=0.0, outcome=e.reward) for e in penalised()]
    assert len(prepared(tmp_path, RFTConfig, moved)) == 2
    data = prepared(tmp_path, DQOConfig, moved, max_per_outcome=1)
    assert sorted(t.outcome for t in data.trajectories) == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(InputError, match="outcome: an episode with moved rewards cannot be stored"):
        append_episodes(tmp_path / "stored", moved)


def test_the_return_is_still_outcome_and_steps(tmp_path):
    (row, *_) = prepared(tmp_path, OREOConfig, penalised()).trajectories
    assert np.flatnonzero(row.reward).tolist() == [3, 5]
    assert row.reward[[3, 5]].tolist() == pytest.approx([-0.05, 1.0])
