"""Adapters on policy and value model: each by its own config, the base as the reference, saved plain."""

import pytest
import torch
from test_trainer import episodes, trainer, weights
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from stepcredit.episodes.alignment import collate
from stepcredit.training.data import prepare
from stepcredit.training.methods import METHODS

peft = pytest.importorskip("peft", reason="the peft extra is not installed")


def lora(task, rank):
    return peft.LoraConfig(r=rank, lora_alpha=8, target_modules="all-linear", task_type=task, init_lora_weights=True)


@pytest.fixture
def run(tmp_path):
    from doubles.models import tiny_llama

    return trainer(
        tmp_path,
        model=tiny_llama(),
        peft_config=lora("CAUSAL_LM", 2),
        value_peft_config=lora("TOKEN_CLS", 3),
        learning_rate=0.02,
        save_strategy="steps",
        save_steps=3,
    )


def batch_of(run):
    from doubles.tokenizers import byte_tokenizer

    return collate(prepare(episodes(), byte_tokenizer(), run.args, METHODS["oreo"]).trajectories, 256)


def test_only_adapters_and_the_value_head_train_and_the_base_is_the_reference(run):
    assert run.model.reference is None
    before = weights(run.model)
    run.train()
    moved = {n for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all("lora_" in n or "score" in n for n in moved)
    assert any(n.startswith("value.") and "score" in n for n in moved)
    ranks = {m: p.shape[0] for m in ("policy", "value") for n, p in run.model.named_parameters()
             if n.startswith(m) and "lora_A" in n}  # fmt: skip
    assert ranks == {"policy": 2, "value": 3}
    batch = batch_of(run)
    with torch.no_grad():
        output = run.model.eval()(batch.input_ids, batch.attention_mask, needs_reference=True)
        from doubles.models import tiny_llama

        base = tiny_llama().eval()(batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(output.ref_logits, base)
    assert (output.logits - base).abs().max() > 1e-3


def test_saved_plain_with_the_adapter_beside_it(run, tmp_path):
    run.train()
    run.save_model()
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    value = AutoModelForTokenClassification.from_pretrained(tmp_path / "value")
    batch = batch_of(run)
    with torch.no_grad():
        output = run.model.eval()(batch.input_ids, batch.attention_mask, needs_reference=False)
        plain = policy(batch.input_ids, attention_mask=batch.attention_mask).logits
        plain_value = value(batch.input_ids, attention_mask=batch.attention_mask).logits[..., 0]
    torch.testing.assert_close(plain, output.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain_value, output.value, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "policy_adapter" / "adapter_model.safetensors").exists()
    assert (tmp_path / "value_adapter" / "adapter_model.safetensors").exists()


def test_a_checkpoint_holds_adapters_and_head_bit_for_bit(run, tmp_path):
    run.train()
    trained = weights(run.model)
    with torch.no_grad():
        for name, p in run.model.named_parameters():
            if "lora_" in name or "score" in name:
                p.zero_()
    run._load_from_checkpoint(str(tmp_path / "checkpoint-3"))
    for name, p in run.model.named_parameters():
        assert torch.equal(p, trained[name]), name
