"""DPO and KTO against TRL's own trainers: loss, metrics and every parameter's gradient, on the batches they make."""

import copy

import pytest
import torch
from datasets import Dataset

from doubles.models import tiny_llama
from stepcredit.episodes.alignment import at_states
from stepcredit.models.heads.action_statistics import action_statistics
from stepcredit.objectives.dpo import dpo_loss, dpo_metrics
from stepcredit.objectives.kto import kl_baseline, kto_loss, kto_metrics, mismatched_sums

trl = pytest.importorskip("trl", reason="the extra `trl` is not installed")

F = torch.float64
CLOSE = {"atol": 1e-6, "rtol": 1e-5, "check_dtype": False}  # TRL's head computes log-probabilities in float32
PROMPTS = ["1+1=", "What is 12-5?", "2*3", "a rather long question: 7+8="]
RIGHT = ["2", "It is 7", "six, that is 6", "15"]
WRONG = ["3 or so", "8", "5", "the answer must be 16"]


def models():
    """A policy and a reference that differ much, in float64."""
    return [tiny_llama(seed=seed, initializer_range=0.3).to(F) for seed in (0, 1)]


def arguments(config, tmp_path, **more):
    return config(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        use_cpu=True,
        bf16=False,
        report_to="none",
        activation_checkpointing=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **more,
    )


def theirs(trainer):
    """(batch, loss, metrics, gradients) of TRL."""
    (batch,) = trainer.get_train_dataloader()
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    metrics = {name: numbers[-1] for name, numbers in trainer._metrics["train"].items()}
    return batch, loss, metrics, {name: p.grad for name, p in trainer.model.named_parameters()}


def log_ratio_sum(policy, reference, batch, prefix=""):
    ids, action_mask = batch[f"{prefix}input_ids"], batch[f"{prefix}completion_mask"][:, 1:].bool()
    logits, ref_logits = (
        at_states(model(input_ids=ids, attention_mask=batch[f"{prefix}attention_mask"]).logits)
        for model in (policy, reference)
    )
    taken = action_statistics(logits, ref_logits, ids[:, 1:], action_mask)
    return (taken.log_prob - taken.ref_log_prob).sum(-1)


def assert_same(loss, metrics, policy, expected):
    loss.backward()
    _, expected_loss, expected_metrics, gradients = expected
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    for name, sums in metrics.items():
        assert sums.number() == pytest.approx(expected_metrics[name], rel=1e-5, abs=1e-5), name
    ours = {name: p.grad for name, p in policy.named_parameters()}
    assert ours.keys() == gradients.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, gradients[name], **CLOSE)
    assert max(gradient.abs().max() for gradient in ours.values()) > 1e-3


def test_dpo_loss_and_gradient_equal_trls(tmp_path, byte_tokenizer):
    policy, reference = models()
    trainer = trl.DPOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=arguments(trl.DPOConfig, tmp_path, beta=0.3),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "chosen": RIGHT, "rejected": WRONG}),
        processing_class=byte_tokenizer,
    )
    expected = theirs(trainer)
    chosen, rejected = log_ratio_sum(policy, reference, expected[0]).chunk(2)
    loss = dpo_loss(chosen=chosen, rejected=rejected, beta=0.3).mean()
    assert_same(loss, dpo_metrics(chosen=chosen, rejected=rejected, beta=0.3), policy, expected)


@pytest.mark.parametrize("swapped", [False, True], ids=["baseline above zero", "baseline cut off at zero"])
def test_kto_loss_and_gradient_equal_trls(tmp_path, byte_tokenizer, swapped):
    """Swapping policy and reference turns every log-ratio round, and with it the sign of the baseline."""
    policy, reference = reversed(models()) if swapped else models()
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.7}
    desirable = [True, False, True, False]
    trainer = trl.KTOTrainer(
        model=copy.deepcopy(policy),
        ref_model=copy.deepcopy(reference),
        args=arguments(trl.KTOConfig, tmp_path, beta=0.3, **weights),
        train_dataset=Dataset.from_dict(
            {
                "prompt": PROMPTS,
                "completion": [r if yes else w for r, w, yes in zip(RIGHT, WRONG, desirable)],
                "label": desirable,
            }
        ),
        processing_class=byte_tokenizer,
    )
    expected = theirs(trainer)
    batch = expected[0]
    said, other = (
        [row[mask.bool()].tolist() for row, mask in zip(batch[f"{kind}input_ids"], batch[f"{kind}completion_mask"])]
        for kind in ("", "KL_")
    )
    assert other == said[-1:] + said[:-1]  # mismatched: the responses moved on by one prompt
    mismatched = log_ratio_sum(policy, reference, batch, "KL_")
    assert (mismatched.mean().item() < 0) == swapped
    total = log_ratio_sum(policy, reference, batch)
    given = {
        "log_ratio_sum": total,
        "desirable": batch["label"],
        "baseline": kl_baseline(mismatched_sums(mismatched)),
        "beta": 0.3,
    }
    assert_same(kto_loss(**given, **weights).mean(), kto_metrics(**given), policy, expected)
