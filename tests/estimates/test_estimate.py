"""Estimates against the runs that they are of: parameters to the number, memory by part, and one line for bad input."""

import itertools
import json

import pytest
import torch

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import OfflineTrainer, OREOConfig, SFTConfig
from stepcredit.cli import main
from stepcredit.errors import InputError
from stepcredit.estimates.estimate import EstimateConfig, estimate
from stepcredit.models.adapters import lora_config

LENGTHS = {"prompt_tokens": 20, "response_tokens": 12, "num_prompts": 4, "num_generations": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(layers=4).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def estimated(model, kind=OREOConfig, run=None, **settings):
    ticks = itertools.count()
    config = EstimateConfig(model=model, device="cpu", **LENGTHS, **(run or {}))
    return estimate(
        config, kind(output_dir="out", use_cpu=True, report_to="none", **settings), lambda: float(next(ticks))
    )


@pytest.mark.parametrize(
    ("kind", "run", "settings"),
    [
        (SFTConfig, {}, {}),
        (OREOConfig, {}, {}),
        (OREOConfig, {}, {"train_layers": 2}),
        (OREOConfig, {}, {"shared_trunk": True, "precompute_ref_log_probs": True}),
        (OREOConfig, {"use_peft": True, "value_use_peft": True, "lora_r": 4}, {"share_prompts": True}),
    ],
)
def test_trained_parameters_are_those_of_the_trainer(model, tmp_path, kind, run, settings):
    peft = {}
    if run:
        peft = {name: lora_config(4, 64, ["all-linear"], task) for name, task in
                (("peft_config", "CAUSAL_LM"), ("value_peft_config", "TOKEN_CLS"))}  # fmt: skip
    args = kind(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)
    rows = [{"prompt": "1+1=", "completion": "2", "reward": 1.0}]
    trainer = OfflineTrainer(model=model, args=args, train_dataset=rows, **peft)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    assert estimated(model, kind, run, **settings).trained == trained


def test_memory_by_part_against_counts_by_hand(model):
    found = estimated(model, head="naive")
    step = found.memory.phases["forward and backward pass"]
    one = 4 * sum(p.numel() for p in tiny_llama(layers=4).parameters())
    assert step["weights: reference"] == pytest.approx(one, rel=0.02)  # buffers
    assert step["optimizer state"] == 8 * found.trained
    assert found.steps_per_epoch if hasattr(found, "steps_per_epoch") else found.compute.steps_per_epoch == 1
    once = estimated(model, head="naive", precompute_ref_log_probs=True)
    assert once.memory.phases["forward and backward pass"].get("weights: reference", 0) < one
    assert once.disk > 0


def test_what_makes_a_step_cheaper_is_estimated_cheaper(model):
    activations = {}
    for name, settings in {
        "plain": {},
        "shared": {"share_prompts": True},
        "last": {"train_layers": 1, "share_prompts": True},
        "again": {"recompute_activations": True},
    }.items():
        step = estimated(model, head="fused", **settings).memory.phases["forward and backward pass"]
        activations[name] = step["activations: policy"]
    assert activations["shared"] < 0.9 * activations["plain"]
    assert activations["last"] < 0.5 * activations["shared"]
    assert activations["again"] < 0.9 * activations["plain"]


def test_activations_are_what_autograd_keeps(model):
    """The tensors that a forward pass of the policy keeps, weights apart, on the micro-batch of the estimate."""
    step = estimated(model, head="fused").memory.phases["forward and backward pass"]
    body, held = tiny_llama(layers=4).model, {}
    weights = {p.data_ptr() for p in body.parameters()}
    ids = torch.zeros(8, 32, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: held.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x
    ):
        states = body(ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    kept = sum(x.untyped_storage().nbytes() for place, x in held.items() if place not in weights)
    assert states.requires_grad
    assert step["activations: policy"] == pytest.approx(kept, rel=0.15)


def test_the_command_writes_its_numbers_and_a_named_gpu_is_no_measurement(model, tmp_path, capsys):
    flags = [f"--{name}={number}" for name, number in LENGTHS.items()]
    out = tmp_path / "estimate.json"
    command = ["estimate", "--method", "oreo", "--model", model, "--device", "H100", "--bf16", "true", *flags]
    assert main([*command, "--output", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["device"]["name"].startswith("H100")
    assert found["memory_gb"]["peak"] == pytest.approx(sum(found["memory_gb"]["parts"].values()), rel=1e-3)
    assert found["seconds"]["epoch"] > 0
    assert "H100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "abacus"}, "abacus"),
        ({"prompt_tokens": None}, "give --episodes DIR, or --prompt_tokens"),
        ({"prompt_tokens": 5000}, "--max_length"),
        ({"model": "nowhere/at/all"}, "no such folder"),
    ],
)
def test_bad_input_is_told(model, given, message):
    settings = {"model": model, "device": "cpu", **LENGTHS, **given}
    with pytest.raises(InputError, match=message):
        estimate(EstimateConfig(**settings), OREOConfig(output_dir="out", use_cpu=True, report_to="none"))
