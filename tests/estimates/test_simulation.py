"""A micro-batch on tensors without data takes the memory and operations of the same micro-batch on real ones."""

import pytest
import torch
from test_splits import ragged
from test_trainer import config

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit import DPOConfig, OREOConfig, SFTConfig
from stepcredit.estimates.empty_models import build_empty, pretend
from stepcredit.estimates.estimate import EstimateConfig
from stepcredit.estimates.simulation import Simulation, with_precomputed
from stepcredit.training.batching import Collator
from stepcredit.training.build_models import build_actor_critic
from stepcredit.training.data import prepare
from stepcredit.training.methods import method_of
from stepcredit.training.train import adapter_configs

LORA = {"use_peft": True, "lora_r": 4}
SCHEMES = {
    "plain": {},
    "prompts shared": {"share_prompts": True},
    "fused head": {"head": "fused"},
    "reference computed once": {"precompute_ref_log_probs": True, "share_prompts": True},
    "last layers": {"train_layers": 2},
    "last layers, prompts shared": {"train_layers": 2, "share_prompts": True, "head": "fused"},
    "one adapter": {**LORA, "share_prompts": True},
    "two adapters": {**LORA, "value_use_peft": True},
    "two adapters in the last layers": {**LORA, "value_use_peft": True, "train_layers": 1},
    "an adapter on a shared trunk": {**LORA, "shared_trunk": True},
    "a shared trunk": {"shared_trunk": True},
    "activations recomputed": {"activation_checkpointing": True},
    "norms computed again": {"recompute_activations": True},
    "bf16": {"bf16": True},
    "gradients accumulated": {"gradient_accumulation_steps": 2},
    "sampled KL": {"kl_estimator": "sampled", "precompute_ref_log_probs": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_llama(hidden=32, layers=3).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def split_given(given, kind, folder, tmp_path):
    """The two configs of a run."""
    names = ("use_peft", "lora_r", "value_use_peft")
    own = {name: given[name] for name in names if name in given}
    rest = {name: value for name, value in given.items() if name not in names}
    return EstimateConfig(model=str(folder), **own), config(tmp_path, kind, **rest)


def recorded(models, args, method, rows):
    models.train()
    models.fused = args.head == "fused"
    if args.activation_checkpointing:
        models.activation_checkpointing_enable()
    needs = {"needs_reference": method.needs_reference, "needs_kl": method.needs_kl(args)}
    batch = Collator(256, args.share_prompts)([{"trajectories": (t,)} for t in rows])
    if args.precomputes:
        if method.needs_reference:
            models.release_reference()
        fake = with_precomputed(models, batch, needs) if hasattr(next(models.parameters()), "fake_mode") else None
        batch = real_states(batch, models, needs) if fake is None else fake
    simulation = Simulation(models, needs, torch.bfloat16 if args.bf16 else None, on_gpu=False)
    one_pass = method.batch_layout.rows_per_item == 1
    return simulation.micro_batch(batch, one_pass, args.gradient_accumulation_steps > 1)


def real_states(batch, models, needs):
    rows, length = batch["input_ids"].shape
    width = models.config.hidden_size
    more = {"ref_states": torch.zeros(rows, length - 1, width)} if needs["needs_kl"] else {}
    more |= {} if needs["needs_kl"] else {"ref_log_prob": torch.zeros(rows, length - 1)}
    if models.train_layers is not None:
        more["states"] = torch.zeros(rows, length, width)
        if "prefix" in batch:
            batch["prefix"]["states"] = torch.zeros(*batch["prefix"]["input_ids"].shape, width)
    return {**batch, **more}


@pytest.mark.parametrize("name", SCHEMES)
def test_memory_and_operations_are_those_of_real_tensors(name, folder, tmp_path):
    compare(SCHEMES[name], OREOConfig, folder, tmp_path)


@pytest.mark.parametrize("kind", [SFTConfig, DPOConfig])
@pytest.mark.parametrize("head", ["naive", "fused"])
def test_of_other_methods(kind, head, folder, tmp_path):
    compare({"head": head}, kind, folder, tmp_path)


def compare(given, kind, folder, tmp_path):
    estimated, args = split_given(given, kind, folder, tmp_path)
    method = method_of(args)
    rows = prepare(ragged(), byte_tokenizer(), args, method).trajectories
    real = build_actor_critic(str(folder), None, None, args, byte_tokenizer(), **adapter_configs(estimated))
    expected = recorded(real, args, method, rows)
    empty = build_empty(estimated, args)
    assert all(p.is_meta for p in empty.parameters())
    pretend(empty)
    found = recorded(empty, args, method, rows)
    assert found.flops == expected.flops
    assert found.memory.keys() == expected.memory.keys()
    for part, size in expected.memory.items():
        assert found.memory[part] == pytest.approx(size, rel=0.01, abs=5000), part
    assert not any(p.grad is not None for p in empty.parameters())


def test_a_fused_head_on_a_gpu_has_larger_tiles(folder, tmp_path):
    estimated, args = split_given({"head": "fused"}, OREOConfig, folder, tmp_path)
    method = method_of(args)
    rows = list(prepare(ragged(), byte_tokenizer(), args, method).trajectories) * 60
    heads = []
    for on_gpu in (False, True):
        models = build_empty(estimated, args)
        pretend(models)
        models.fused = True
        batch = Collator(256)([{"trajectories": (t,)} for t in rows])
        simulation = Simulation(models, {"needs_reference": True, "needs_kl": True}, None, on_gpu)
        heads.append(simulation.micro_batch(batch, one_pass=True).memory["head"])
    assert heads[1] > 2 * heads[0]
