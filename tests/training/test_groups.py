"""The number of a prompt's responses: which of them count, and that no batch, order or restart changes it."""

from dataclasses import replace

import pytest
import torch
from test_methods import terms
from test_splits import ragged
from test_trainer import config, trainer

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import Episode, InputError, OAPLConfig, OREOConfig, StopReason
from stepcredit.objectives.oapl import group_value
from stepcredit.training.data import prepare
from stepcredit.training.methods import method_of


def one(prompt, text, reward, **given):
    return Episode(prompt=prompt, completion=text, reward=reward, prompt_id=prompt, **given)


def group(*rewards, prompt="p"):
    return [one(prompt, f"answer {k}", reward) for k, reward in enumerate(rewards)]


def numbers(folder, data, kind=OAPLConfig, **given):
    args = config(folder, kind, **given)
    return [t.group_number for t in prepare(data, byte_tokenizer(), args, method_of(args)).trajectories]


def value(*returns, beta=0.03):
    return group_value(list(returns), beta)


def test_all_graded_responses_to_the_prompt_count(tmp_path):
    data = [*group(1.0, 0.0, 0.0), *group(0.5, prompt="q")]
    assert numbers(tmp_path, data) == [value(1.0, 0.0, 0.0)] * 3 + [0.5]
    assert numbers(tmp_path, data[::-1]) == [0.5] + [value(1.0, 0.0, 0.0)] * 3
    assert numbers(tmp_path, data, beta=0.2) == [value(1.0, 0.0, 0.0, beta=0.2)] * 3 + [0.5]
    assert numbers(tmp_path, data, beta=0.2, value_beta=0.5) == [value(1.0, 0.0, 0.0, beta=0.5)] * 3 + [0.5]


def test_only_a_method_that_asks_has_one(tmp_path):
    assert numbers(tmp_path, group(1.0, 0.0), kind=OREOConfig) == [None, None]
    run = trainer(tmp_path, OREOConfig, data=group(1.0, 0.0))
    assert "group_number" not in run.data_collator([run.train_dataset[0]])


def test_returns_include_the_rewards_of_steps(tmp_path):
    data = [one("p", "a\nb", 1.0, step_rewards=(-0.25, 0.5)), one("p", "c", 0.0)]
    assert numbers(tmp_path, data) == [value(1.25, 0.0)] * 2


def test_responses_that_are_left_out_count_if_they_are_graded(tmp_path):
    long = one("p", "x" * 60, 1.0)
    assert numbers(tmp_path, [*group(0.0, 0.0), long], max_length=20) == [value(0.0, 0.0, 1.0)] * 2
    assert numbers(tmp_path, group(1.0, 1.0, 1.0, 0.0), max_per_outcome=1) == [value(1.0, 1.0, 1.0, 0.0)] * 2
    bad = one("p", "a\nb", 1.0, step_rewards=(0.0,))
    assert numbers(tmp_path, [*group(0.0), bad], skip_bad=True) == [value(0.0, 1.0)]


def test_undecided_responses_do_not_count_and_truncated_ones_as_the_config_says(tmp_path):
    undecided = one("p", "hm", None)
    cut = one("p", "and", 1.0, stop_reason=StopReason.LENGTH)
    data = [*group(1.0, 0.0), undecided, cut]
    assert numbers(tmp_path, data) == [value(1.0, 0.0)] * 2
    assert numbers(tmp_path, data, truncated="zero") == [value(1.0, 0.0, 0.0)] * 3


def test_turns_apart_are_refused(tmp_path):
    with pytest.raises(InputError, match="split_turns: a later turn is a prompt with a single response"):
        config(tmp_path, OAPLConfig, split_turns=True)


def test_a_batch_with_part_of_a_group_has_the_same_losses(tmp_path):
    data = ragged()
    given = {"beta": 0.2, "value_beta": 0.4}
    everything, signals = terms(tmp_path, OAPLConfig, data=data, **given)
    returns = {}
    for e in data:
        returns.setdefault(e.prompt_id, []).append(e.reward + sum(e.step_rewards))
    expected = torch.tensor([value(*returns[e.prompt_id], beta=0.4) for e in data])
    torch.testing.assert_close(signals.group_number.float(), expected)
    total = (signals.log_prob - signals.ref_log_prob).sum(-1)
    by_hand = (0.2 * total - signals.reward.sum(-1) + signals.group_number).square()
    torch.testing.assert_close(everything.policy, by_hand)
    from test_methods import moved

    run = moved(trainer(tmp_path, OAPLConfig, model=tiny_llama().double(), data=data, **given))
    for k in (0, 5, 10):
        single, _ = run._terms(run.model, run.data_collator([run.train_dataset[k]]))
        torch.testing.assert_close(single.policy, everything.policy[k : k + 1])


@pytest.mark.parametrize("given", [{}, {"share_prompts": True, "head": "fused"}, {"precompute_ref_log_probs": True}])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, given):
    def run(folder, **more):
        settings = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0, **given}
        return trainer(tmp_path / folder, OAPLConfig, data=ragged(), max_steps=3, **settings, **more)

    whole = run("whole")
    whole.train()
    first = run("parts")
    first.train()
    again = run("parts")
    again.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-1"))
    for (name, ours), theirs in zip(again.model.named_parameters(), whole.model.parameters()):
        assert torch.equal(ours, theirs), name
    assert "advantages/explained_variance" in whole.state.log_history[0]


def test_a_step_is_the_same_however_the_dataset_is_ordered(tmp_path):
    data = ragged()
    shuffled = [data[k] for k in torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()]
    assert sorted(numbers(tmp_path, data)) == sorted(numbers(tmp_path, shuffled))
    assert numbers(tmp_path, [replace(e, prompt_id="one") for e in data]) == [
        value(*(e.reward + sum(e.step_rewards) for e in data))
    ] * len(data)
