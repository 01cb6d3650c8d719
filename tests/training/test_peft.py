"""Adapters on policy and value model, with the base model as the reference, saved as plain models."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_trainer import episodes, trainer, weights
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from stepcredit import InputError
from stepcredit.episodes.alignment import at_states, collate
from stepcredit.models.adapters import load_adapter, merged, save_adapter, with_adapter
from stepcredit.models.heads.action_statistics import action_statistics
from stepcredit.models.loading import load_policy, load_tokenizer, load_value_model, value_model_from
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
        output = run.model.eval()(batch.to_dict(), needs_reference=True)
        from doubles.models import tiny_llama

        base = tiny_llama().eval()(batch.input_ids, attention_mask=batch.attention_mask).logits
    expected = action_statistics(at_states(base), None, batch.action, batch.action_mask).log_prob
    torch.testing.assert_close(output.statistics.ref_log_prob, expected)
    assert (output.statistics.log_prob - expected).abs().max() > 1e-3


def test_saved_plain_with_the_adapter_beside_it(run, tmp_path):
    run.train()
    run.save_model()
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    value = AutoModelForTokenClassification.from_pretrained(tmp_path / "value")
    batch = batch_of(run)
    with torch.no_grad():
        output = run.model.eval()(batch.to_dict())
        plain = policy(batch.input_ids, attention_mask=batch.attention_mask).logits
        plain_value = value(batch.input_ids, attention_mask=batch.attention_mask).logits[..., 0]
    expected = action_statistics(at_states(plain), None, batch.action, batch.action_mask).log_prob
    torch.testing.assert_close(output.statistics.log_prob, expected, atol=1e-5, rtol=1e-4)
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


# ---- embeddings that are the head too, and adapters that do not fit -------------------------------------

IDS = torch.tensor([[5, 6, 7, 8, 40]])
APART = "the model ties embedding and head"


def adapted(seed=1, tied=True, **settings):
    """A tiny Llama under an adapter that moves what it says far; (model, log-probs)."""
    from doubles.models import tiny_llama

    model = with_adapter(tiny_llama(tied=tied), peft.LoraConfig(r=2, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval(), log_probs(model.eval())


@torch.no_grad()
def log_probs(model):
    return model(IDS).logits.log_softmax(-1)


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True),
        ({"target_modules": ["embed_tokens", "lm_head"]}, True),
        ({"target_modules": ".*(q_proj|lm_head)"}, True),
        ({"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]}, None),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, None),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, None),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, False),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}, False),
        ({"target_modules": "all-linear"}, False),
        ({"target_modules": ["q_proj"]}, False),
    ],
)
def test_saved_models_are_merged_tied_or_not(settings, apart, tmp_path, caplog):
    from doubles.models import tiny_llama

    model, expected = adapted(**settings)
    assert (APART in caplog.text) == (apart is True)
    embedding = model.get_base_model().get_input_embeddings().weight
    before = embedding.clone()
    plain = merged(model)
    plain.save_pretrained(tmp_path / "policy")
    assert plain.config.tie_word_embeddings == (apart is False)
    torch.testing.assert_close(log_probs(load_policy(str(tmp_path / "policy"))), expected, atol=1e-4, rtol=0)
    assert torch.equal(embedding, before)  # of the model that goes on training
    torch.testing.assert_close(log_probs(model), expected, atol=0, rtol=0)
    tiny_llama().save_pretrained(tmp_path / "base")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    save_adapter(model, tmp_path / "adapter")
    torch.testing.assert_close(log_probs(load_policy(str(tmp_path / "adapter"))), expected, atol=1e-4, rtol=0)


def test_untied_embeddings_stay_untied_and_nothing_is_said(tmp_path, caplog):
    model, expected = adapted(tied=False, target_modules=["embed_tokens", "lm_head"])
    merged(model).save_pretrained(tmp_path)
    torch.testing.assert_close(log_probs(load_policy(str(tmp_path))), expected, atol=1e-4, rtol=0)
    assert not caplog.records


def test_a_run_on_the_head_of_a_tied_model_is_saved_as_it_was_trained(tmp_path):
    from doubles.models import tiny_llama

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    run = trainer(tmp_path, model=tiny_llama(), peft_config=config, learning_rate=0.05, save_strategy="steps",
                  save_steps=3)  # fmt: skip
    run.train()
    run.save_model()
    trained = log_probs(run.model.policy.eval())
    torch.testing.assert_close(log_probs(load_policy(str(tmp_path / "policy"))), trained, atol=1e-4, rtol=0)
    run._load_from_checkpoint(str(tmp_path / "checkpoint-3"))
    assert load_value_model(str(tmp_path / "value")).config.problem_type == "regression"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["nosuch"]}, "LlamaForCausalLM has no module 'nosuch'; choose from down_proj, embed_to"),
        ({"target_modules": ["q_proj", "nosuch"]}, "has no module 'nosuch'"),
        ({"target_modules": ["proj"]}, "has no module 'proj'"),
        ({"target_modules": ".*nosuch"}, "peft reports"),
        ({"target_modules": ["input_layernorm"]}, "peft reports: Target module LlamaRMSNorm"),
        ({"target_modules": ["q_proj", "lm_head"], "ensure_weight_tying": True}, "leave ensure_weight_tying out"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        adapted(**settings)
    assert "\n" not in str(caught.value)


def test_an_adapter_s_folder_is_a_policy_and_finds_its_tokenizer(tmp_path):
    from doubles.models import tiny_llama
    from doubles.tokenizers import byte_tokenizer

    base, folder = tmp_path / "base", tmp_path / "adapter"
    tiny_llama().save_pretrained(base)
    byte_tokenizer().save_pretrained(base)
    model = with_adapter(load_policy(str(base)), lora("CAUSAL_LM", 2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    model.save_pretrained(folder)
    assert load_tokenizer(str(folder)).eos_token == "<eos>"
    run = trainer(tmp_path / "run", model=str(folder), max_steps=1)
    torch.testing.assert_close(log_probs(run.model.policy.eval()), log_probs(model.eval()))
    run.save_model()
    assert (tmp_path / "run" / "policy" / "model.safetensors").exists()
    with pytest.raises(InputError, match="is only an adapter, not a value model"):
        load_value_model(str(folder))
    tiny_llama().save_pretrained(folder)  # now both lie there, and transformers would merge them
    with pytest.raises(InputError, match="has a model and an adapter"):
        load_policy(str(folder))


def test_a_damaged_checkpoint_of_adapters_is_refused(run, tmp_path):
    run.train()
    part = tmp_path / "checkpoint-3" / "value"
    weights = load_file(part / "adapter_model.safetensors")
    head = next(name for name in weights if "score" in name)
    save_file({n: w for n, w in weights.items() if n != head}, part / "adapter_model.safetensors")
    with pytest.raises(InputError, match=f"weights of the adapter are missing: {head}"):
        run._load_from_checkpoint(str(tmp_path / "checkpoint-3"))
    save_file({**weights, "more": torch.zeros(1)}, part / "adapter_model.safetensors")
    with pytest.raises(InputError, match="unexpected weights: more"):
        run._load_from_checkpoint(str(tmp_path / "checkpoint-3"))
    (part / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is empty"):
        load_adapter(run.model.value, part)


def test_a_half_precision_value_model_takes_an_adapter(tmp_path):
    from doubles.models import tiny_llama

    value = value_model_from(tiny_llama()).to(torch.bfloat16)
    run = trainer(tmp_path, model=tiny_llama(), value_model=value, value_peft_config=lora("TOKEN_CLS", 3), max_steps=1)
    run.train()
    assert {p.dtype for p in run.model.value.parameters()} == {torch.float32}
