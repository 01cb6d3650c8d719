"""The trainer against hand-written optimizer steps, and its normalisers, clipping, saving and resuming."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import Episode, InputError, OfflineTrainer, OREOConfig, RFTConfig, SFTConfig, StopReason
from stepcredit.episodes.alignment import add_bootstrap_value, at_states, collate
from stepcredit.logs.columns import ImportRules
from stepcredit.models.heads.action_statistics import action_statistics
from stepcredit.models.loading import value_model_from
from stepcredit.training.batching import LengthSortedSampler
from stepcredit.training.data import as_episodes, prepare
from stepcredit.training.methods import METHODS, method_of
from stepcredit.training.optimizer_step.optimizers import trainable


def episodes(count=12):
    texts = ["4", "no idea", "4\nbecause 2+2=4", "5\n", "is it 3?\nno: 4", ""]
    return [
        Episode(
            prompt=f"{i}+2=",
            completion=texts[i % 6] * (1 + i // 6),
            reward=float(i % 3 == 0),
            prompt_id=str(i),
        )
        for i in range(count)
    ]


def config(folder, kind=OREOConfig, **given):
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "use_cpu": True,
    }
    return kind(**{**defaults, **given})


def trainer(folder, kind=OREOConfig, model=None, data=None, **given):
    extra = {
        k: given.pop(k)
        for k in ("value_model", "ref_model", "peft_config", "value_peft_config", "eval_dataset")
        if k in given
    }
    return OfflineTrainer(
        model=model if model is not None else tiny_llama(),
        args=config(folder, kind, **given),
        train_dataset=data if data is not None else episodes(),
        processing_class=byte_tokenizer(),
        **extra,
    )


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_one_step_equals_a_hand_written_one(tmp_path):
    """Loss and update of an OREO step, from the equations, with transformers and torch alone."""
    data = episodes(4)
    run = trainer(
        tmp_path, data=data, max_steps=1, lr_scheduler_type="constant", warmup_steps=0, beta=0.3, kl_coef=0.05
    )
    policy, reference = tiny_llama().double(), tiny_llama().double()
    # An untrained policy equals its reference: move it, so that ratios, KL and values are not all zero.
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.02 * torch.sin(torch.arange(p.numel(), dtype=torch.float64)).view_as(p))
        value = value_model_from(policy)
        value.score.weight.add_(0.1)
    run.model.policy.load_state_dict(policy.state_dict())
    run.model.value.load_state_dict(value.state_dict())
    run.train()
    rows = prepare(data, byte_tokenizer(), run.args, run.method).trajectories
    optimizers = [torch.optim.AdamW(m.parameters(), 1e-3, (0.9, 0.95), weight_decay=0.0) for m in (policy, value)]
    policy_loss = value_loss = 0.0
    for row in rows:
        ids = torch.from_numpy(row.ids).long()[None]
        log_pi, log_ref = (m(ids).logits[0].log_softmax(-1) for m in (policy, reference))
        v = value(ids).logits[0, :, 0]
        actions = [p for p in range(len(row)) if row.action_mask[p]]
        rho = torch.stack([log_pi[p - 1, ids[0, p]] - log_ref[p - 1, ids[0, p]] for p in actions])
        reward = float(row.reward.sum())
        for k, p in enumerate(actions):
            later = 0.3 * rho[k + 1 :].sum().detach()
            kl = (log_pi[p - 1].exp() * (log_pi[p - 1] - log_ref[p - 1])).sum()
            policy_loss += ((v[p - 1].detach() - reward + 0.3 * rho[k] + later) ** 2 + 0.05 * kl) / len(actions) / 4
            value_loss += (v[p - 1] - reward + (0.3 * rho[k:].sum()).detach()) ** 2 / len(actions) / 4
    (policy_loss + value_loss).backward()
    norms = [float(torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)) for m in (policy, value)]
    for optimizer in optimizers:
        optimizer.step()
    log = run.state.log_history[0]
    assert log["loss/policy"] == pytest.approx(policy_loss.item(), rel=1e-4)
    assert log["loss/value"] == pytest.approx(value_loss.item(), rel=1e-4)
    assert log["loss"] == pytest.approx((policy_loss + value_loss).item(), rel=1e-4)
    assert [log["grad_norm/policy"], log["grad_norm/value"]] == pytest.approx(norms, rel=1e-3)
    for found, expected in ((run.model.policy, policy), (run.model.value, value)):
        for (name, a), b in zip(found.named_parameters(), expected.parameters()):
            torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", [OREOConfig, SFTConfig])
def test_any_split_into_micro_batches_gives_the_same_update(tmp_path, kind):
    """Ragged episodes, so a mean of micro-batch means would differ."""
    found = []
    for size, accumulation in ((8, 1), (3, 3), (1, 8)):
        run = trainer(
            tmp_path,
            kind,
            model=tiny_llama().double(),
            data=episodes(8),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=2,
            length_sorted=False,
        )
        run.train()
        found.append((weights(run.model), [log["loss"] for log in run.state.log_history if "loss" in log]))
    for other, losses in found[1:]:
        assert losses == pytest.approx(found[0][1], rel=1e-6)
        for name, p in other.items():
            torch.testing.assert_close(p, found[0][0][name], rtol=1e-6, atol=1e-9)


def test_length_sorting_leaves_the_update_as_it_was(tmp_path):
    found = []
    for is_sorted in (True, False):
        run = trainer(
            tmp_path,
            model=tiny_llama().double(),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=3,
            length_sorted=is_sorted,
        )
        run.train()
        found.append(weights(run.model))
    for name, p in found[0].items():
        torch.testing.assert_close(p, found[1][name], rtol=1e-6, atol=1e-9)


def test_scaling_the_value_loss_leaves_the_policys_update_unchanged(tmp_path):
    """Clipped together, a large value gradient would shrink the policy's."""
    found = []
    for coef in (1.0, 1000.0):
        run = trainer(tmp_path, value_coef=coef, max_steps=1, max_grad_norm=0.1)
        run.train()
        found.append((weights(run.model.policy), run.state.log_history[0]))
    assert found[1][1]["grad_norm/value"] == pytest.approx(1000 * found[0][1]["grad_norm/value"], rel=1e-4)
    for name, p in found[0][0].items():
        assert torch.equal(p, found[1][0][name])


def test_gradients_are_clipped_apart(tmp_path):
    run = trainer(tmp_path)
    for parameters in trainable(run.model.parts()).values():
        for p in parameters:
            p.grad = torch.ones_like(p)
    total = run._clip_grad_norm(run.model)
    sizes = [sum(p.numel() for p in ps) for ps in trainable(run.model.parts()).values()]
    assert float(total) == pytest.approx(math.sqrt(sum(sizes)), rel=1e-5)
    for parameters in trainable(run.model.parts()).values():
        assert float(torch.stack([p.grad.norm() for p in parameters]).norm()) == pytest.approx(1.0, rel=1e-4)


def test_learning_rates_and_warm_up_of_the_value_model(tmp_path):
    run = trainer(
        tmp_path,
        value_learning_rate=0.02,
        value_warmup_steps=2,
        max_steps=3,
        lr_scheduler_type="constant",
        warmup_steps=0,
    )
    before = weights(run.model)
    rates = []
    step = run.create_optimizer_and_scheduler
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            rates.append([g["lr"] for g in run.optimizer.param_groups])
            if len(rates) == 2:
                assert all(
                    torch.equal(p, before[n]) for n, p in run.model.named_parameters() if n.startswith("policy.")
                )
                assert not torch.equal(run.model.value.score.weight, before["value.score.weight"])

    run.add_callback(Watch())
    run.train()
    assert step is not None
    assert rates == [[0, 0.02], [0, 0.02], [1e-3, 0.02]]
    assert [g["name"] for g in run.optimizer.param_groups] == ["policy", "value"]


@pytest.mark.parametrize("tied", [True, False])
def test_saved_models_are_plain_and_give_the_same_numbers(tmp_path, tied):
    run = trainer(tmp_path, model=tiny_llama(tied=tied))
    run.train()
    run.save_model()
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    value = AutoModelForTokenClassification.from_pretrained(tmp_path / "value")
    assert value.config.num_labels == 1
    assert not list(tmp_path.rglob("*.bin"))
    assert (tmp_path / "policy" / "tokenizer.json").exists()
    batch = collate(prepare(episodes(), byte_tokenizer(), run.args, run.method).trajectories, 256)
    with torch.no_grad():
        output = run.model.eval()(batch.to_dict())
        logits = policy(batch.input_ids, attention_mask=batch.attention_mask).logits
        expected = action_statistics(at_states(logits), None, batch.action, batch.action_mask).log_prob
        torch.testing.assert_close(output.statistics.log_prob, expected)
        assert torch.equal(value(batch.input_ids, attention_mask=batch.attention_mask).logits[..., 0], output.value)
    assert output.value.abs().max() > 0


def test_a_value_model_starts_at_zero_with_the_policys_trunk():
    policy = tiny_llama().to(torch.bfloat16)
    value = value_model_from(policy)
    assert value.dtype == torch.float32
    assert value.score.bias is None
    ids = torch.arange(5)[None]
    assert value(ids).logits.abs().max() == 0
    hidden = value.model(ids).last_hidden_state
    torch.testing.assert_close(hidden, policy.float().model(ids).last_hidden_state)
    assert not {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in value.parameters()}


def test_values_stay_float32_under_autocast(tmp_path):
    model = trainer(tmp_path).model
    ids = torch.arange(8)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "action": ids[:, 1:]}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model({**batch, "action_mask": torch.ones(1, 7, dtype=torch.bool)}, needs_reference=True)
    assert output.value.dtype == torch.float32
    assert output.statistics.log_prob.dtype == torch.float32


def test_metrics(tmp_path):
    run = trainer(tmp_path, eval_dataset=episodes(6))
    run.train()
    log = run.state.log_history[0]
    expected = {"loss", "loss/policy", "loss/value", "kl", "entropy", "logps", "reward", "reward_std", "num_tokens",
                "values/mean", "values/initial", "values/explained_variance", "advantages/mean", "grad_norm/policy",
                "grad_norm/value", "learning_rate", "epoch"}  # fmt: skip
    assert expected <= set(log)
    assert log["kl"] == pytest.approx(0, abs=1e-6)
    assert log["entropy"] == pytest.approx(math.log(259), rel=0.01)
    found = run.evaluate()
    assert found["eval_loss"] > 0
    logged = run.state.log_history[-1]
    assert logged["eval_reward"] == pytest.approx(2 / 6)
    assert logged["eval_loss/policy"] > 0


def test_rft_trains_only_on_right_responses(tmp_path):
    data = prepare(episodes(), byte_tokenizer(), config(tmp_path, RFTConfig), METHODS["rft"])
    assert len(data) == 4
    assert data.left_out == {"filtered": 8}


def test_what_is_left_out_is_counted(tmp_path):
    more = [
        Episode(prompt="q", completion="cut", reward=None, prompt_id="t", stop_reason=StopReason.LENGTH),
        Episode(prompt="q", completion="?", reward=None, prompt_id="u"),
        Episode(prompt="q", completion="x" * 99, reward=1.0, prompt_id="l"),
    ]
    args = config(tmp_path, max_length=60)
    data = prepare([*episodes(2), *more], byte_tokenizer(), args, METHODS["oreo"])
    assert data.left_out == {"truncated": 1, "undecided": 1, "too_long": 1}
    assert data.summary()["episodes"] == 2
    assert data.summary()["left_out/truncated"] == 1
    kept = prepare(more[:1], byte_tokenizer(), config(tmp_path, truncated="zero"), METHODS["oreo"])
    assert kept.trajectories[0].reward.sum() == 0
    with pytest.raises(InputError, match="no episode is left to train on"):
        prepare(more[:1], byte_tokenizer(), args, METHODS["oreo"])


def test_a_cut_episode_is_bootstrapped_from_the_value_after_its_last_token(tmp_path):
    """Its target is V at the cut, read after the last token, and no gradient flows through that."""
    cut = Episode(prompt="q", completion="cut", reward=None, prompt_id="t", stop_reason=StopReason.LENGTH)
    whole = Episode(prompt="qq", completion="ab", reward=1.0, prompt_id="w")
    run = trainer(tmp_path, data=[cut, whole], truncated="bootstrap", per_device_train_batch_size=2)
    with torch.no_grad():
        run.model.value.score.weight.normal_()
    batch = collate(run.train_dataset.trajectories, 256)
    assert batch.cut.tolist() == [True, False]
    value = run.model(batch.to_dict()).value
    reward = add_bootstrap_value(batch.reward, value, batch.action_mask, batch.cut)
    assert not reward.requires_grad
    assert reward[0].tolist() == [0, 0, value[0, 3].item(), 0]
    assert reward[1].tolist() == batch.reward[1].tolist() == [0, 0, 0, 1]
    terms, _ = run._terms(run.model, batch.to_dict())
    by_hand = ((value[0, :3] - value[0, 3].detach()) ** 2).mean()
    assert terms.value[0].item() == pytest.approx(by_hand.item(), rel=1e-4)
    with pytest.raises(InputError, match="sft has no V to stand for the reward"):
        trainer(tmp_path, SFTConfig, data=[cut], truncated="bootstrap")


def test_rows_of_a_dataset_train_as_episodes_do(tmp_path):
    from datasets import Dataset

    rows = [{"prompt": e.prompt, "completion": e.completion, "reward": e.reward} for e in episodes()]
    found = []
    for data in (episodes(), Dataset.from_list(rows)):
        run = trainer(tmp_path, data=data)
        run.train()
        found.append(weights(run.model))
    assert all(torch.equal(p, found[1][n]) for n, p in found[0].items())
    with pytest.raises(InputError, match="train_dataset row 1"):
        trainer(tmp_path, data=[rows[0], {"prompt": "q", "completion": "a"}])


def test_rewards_of_rows_lie_in_the_range_that_is_given(tmp_path):
    from datasets import Dataset

    rows = [{"prompt": f"q{k}", "completion": "a", "reward": reward} for k, reward in enumerate([1.0, -2.0, 0.5])]
    for data in (rows, Dataset.from_list(rows)):
        with pytest.raises(InputError, match=r"train_dataset row 1: reward: -2 lies outside .*--reward_range -2 1"):
            trainer(tmp_path, data=data)
        run = trainer(tmp_path, data=data, reward_range=[-2, 1])
        assert [t.outcome for t in run.train_dataset.trajectories] == [1.0, -2.0, 0.5]
    wide = [Episode(prompt="q", completion="a", reward=3.0, prompt_id="p")]
    assert trainer(tmp_path, data=wide).train_dataset.trajectories[0].outcome == 3.0  # of a folder: it was held once
    with pytest.raises(InputError, match=r"episode 0 \(prompt p\): reward: 3 lies outside \[0, 2\]; widen it with"):
        trainer(tmp_path, data=wide, reward_range=[0, 2])
    steps = [Episode(prompt="q", completion="a", reward=1.0, step_rewards=(9.0,), prompt_id="p")]
    with pytest.raises(InputError, match=r"episode 0 .*step_rewards\[0\]: 9 lies outside"):
        trainer(tmp_path, data=steps, reward_range=[0, 2])
    for bad in ([1.0], [1.0, 0.0], [0.0, 1.0, 2.0]):
        with pytest.raises(InputError, match="reward_range: give the lowest and then the highest"):
            trainer(tmp_path, data=rows, reward_range=bad)


def test_rows_of_a_table_have_no_empty_keys():
    from datasets import Dataset

    def call(**arguments):
        return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "f", "arguments": arguments}}]}], "reward": 1.0}  # fmt: skip

    for found in as_episodes(Dataset.from_list([call(x="1"), call(y="2")]), ImportRules()):
        assert len(found.completion[0]["tool_calls"][0]["function"]["arguments"]) == 1


def test_the_sampler_is_a_shuffle_keyed_by_epoch_sorted_within_steps():
    lengths = [7, 3, 9, 1, 5, 2, 8, 4, 6, 0]
    sampler = LengthSortedSampler(lengths, per_step=4, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(10))
    for start in range(0, 10, 4):
        part = [lengths[i] for i in first[start : start + 4]]
        assert part == sorted(part)
    plain = list(LengthSortedSampler(lengths, 4, seed=1, sort=False))
    assert [set(plain[i : i + 4]) for i in (0, 4, 8)] == [set(first[i : i + 4]) for i in (0, 4, 8)]
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(LengthSortedSampler(lengths, 4, seed=2)) != first


def test_the_order_of_an_epoch_by_hand():
    """torch draws [2, 0, 1] of three; a step is sorted by the longest item of each group, then by length."""
    assert torch.randperm(3, generator=torch.Generator().manual_seed(6)).tolist() == [2, 0, 1]
    lengths, groups = [4, 9, 3, 7, 8], [0, 1, 2, 0, 2]
    assert list(LengthSortedSampler(lengths, 9, seed=6, sort=False, groups=groups)) == [2, 4, 0, 3, 1]
    assert list(LengthSortedSampler(lengths, 9, seed=6, groups=groups)) == [0, 3, 2, 4, 1]
    assert list(LengthSortedSampler([5, 5, 5, 5, 5], 9, seed=6, groups=groups)) == [2, 4, 0, 3, 1]
    assert list(LengthSortedSampler([9, 5, 3, 1, 8], 9, seed=6, groups=groups)) == [1, 2, 4, 3, 0]
    assert list(LengthSortedSampler(lengths, 4, seed=6, groups=groups)) == [0, 3, 2, 4, 1]


def test_the_items_of_a_prompt_stay_together_in_a_step():
    prompts = [name for name in "abcd" for _ in range(3)]
    lengths = [5, 9, 4, 1, 2, 3, 7, 7, 8, 6, 6, 2]
    sampler = LengthSortedSampler(lengths, per_step=6, seed=3, groups=[ord(name) - ord("a") for name in prompts])
    order = list(sampler)
    assert sorted(order) == list(range(12))
    for start in range(0, 12, 3):
        assert len({prompts[k] for k in order[start : start + 3]}) == 1
    for start in (0, 6):  # prompts by their longest item, the items of each by length
        longest = [max(lengths[k] for k in order[s : s + 3]) for s in (start, start + 3)]
        assert longest == sorted(longest)
        assert [lengths[k] for k in order[start : start + 3]] == sorted(lengths[k] for k in order[start : start + 3])
    sampler.set_epoch(1)
    assert list(sampler) != order


def test_a_config_without_a_method_is_refused(tmp_path):
    from stepcredit import OfflineConfig

    with pytest.raises(InputError, match="has no method"):
        method_of(OfflineConfig(output_dir=str(tmp_path)))
    with pytest.raises(InputError, match="args: a config is needed"):
        OfflineTrainer(model=tiny_llama())
    with pytest.raises(InputError, match="beta"):
        config(tmp_path, beta=0.0)
    with pytest.raises(InputError, match="level"):
        config(tmp_path, level="word")


def test_an_architecture_without_token_classification_is_refused_by_name():
    from transformers import CohereConfig, CohereForCausalLM

    small = CohereConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                         num_key_value_heads=1)  # fmt: skip
    with pytest.raises(InputError, match="no token-classification model for 'cohere'"):
        value_model_from(CohereForCausalLM(small))


def test_tensors_over_actions_are_what_the_models_read(tmp_path):
    """The trainer's log-probabilities are those of transformers' own loss on the same labels."""
    run = trainer(tmp_path, SFTConfig, max_steps=1)
    batch = collate(prepare(episodes(4), byte_tokenizer(), run.args, run.method).trajectories, 256)
    _, statistics = run._terms(run.model, batch.to_dict())
    labels = torch.full_like(batch.input_ids, -100)
    labels[:, 1:] = torch.where(batch.action_mask, batch.action, -100)
    loss = run.model.policy(batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
    assert (-statistics.log_prob.sum() / batch.action_mask.sum()).item() == pytest.approx(loss.item(), rel=1e-5)
    assert at_states(batch.input_ids).shape == batch.action.shape


def train_three_epochs(out, resume=None):
    run = trainer(out, data=episodes(26), max_steps=-1, num_train_epochs=3, per_device_train_batch_size=2,
                  gradient_accumulation_steps=2, save_strategy="steps", save_steps=2, save_total_limit=2)  # fmt: skip
    run.train(resume_from_checkpoint=resume)
    run.save_model()


RESUME = """
import sys, torch
sys.path.insert(0, {tests!r})
sys.path.insert(0, {here!r})
torch.set_num_threads(1)
from test_trainer import train_three_epochs
train_three_epochs(sys.argv[2], sys.argv[1] == "resume" or None)
"""


@pytest.mark.long
def test_killed_in_mid_epoch_and_resumed_is_bit_equal(tmp_path):
    """Tied embeddings, accumulation, length-sorted batches: 7 steps an epoch, killed after step 9."""
    script = tmp_path / "train.py"
    here = Path(__file__)
    script.write_text(RESUME.format(tests=str(here.parents[1]), here=str(here.parent)))

    def start(mode, out):
        return subprocess.Popen([sys.executable, str(script), mode, str(out)], stdout=subprocess.DEVNULL)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_three_epochs(whole)  # in this process: it has one thread, too
    process = start("fresh", broken)
    while not (broken / "checkpoint-10" / "trainer_state.json").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken / "policy").exists()
    (broken / "checkpoint-99").mkdir()  # as if killed while writing it
    assert start("resume", broken).wait(200) == 0
    for part in ("policy", "value"):
        a, b = (load_file(folder / part / "model.safetensors") for folder in (whole, broken))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [
        json.loads((f / "checkpoint-21" / "trainer_state.json").read_text())["log_history"] for f in (whole, broken)
    ]
    assert [row["loss"] for row in logs[0] if "loss" in row] == [row["loss"] for row in logs[1] if "loss" in row]


def test_models_given_by_name_train_in_float32_unless_asked_otherwise(tmp_path):
    tiny_llama().to(torch.bfloat16).save_pretrained(tmp_path / "bf16")
    byte_tokenizer().save_pretrained(tmp_path / "bf16")
    name = str(tmp_path / "bf16")
    run = OfflineTrainer(model=name, args=config(tmp_path), train_dataset=episodes())
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert run.model.reference.dtype == torch.float32
    asked = config(tmp_path, model_init_kwargs='{"dtype": "bfloat16"}')
    run = OfflineTrainer(model=name, args=asked, train_dataset=episodes())
    assert run.model.policy.dtype == torch.bfloat16
    assert run.model.value.dtype == torch.float32
    with pytest.raises(InputError, match="model_init_kwargs: not JSON"):
        OfflineTrainer(model=name, args=config(tmp_path, model_init_kwargs="dtype=bf16"), train_dataset=episodes())
