"""Estimates: parameters, weights and kept states exactly, every method and scheme, and times by hand."""

import itertools

import numpy as np
import pytest
from test_splits import ragged
from test_trainer import config
from transformers import LlamaConfig

from doubles.models import saved_policy, tiny_llama
from doubles.tokenizers import byte_tokenizer
from estimates.test_simulation import LORA, SCHEMES, split_given
from stepcredit import InputError, OfflineTrainer, OREOConfig, SFTConfig
from stepcredit.episodes.store import append_episodes
from stepcredit.estimates.devices import UTILISATION
from stepcredit.estimates.estimate import EstimateConfig, estimate
from stepcredit.estimates.estimate_tables import estimate_tables
from stepcredit.training.methods import METHODS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of which only the config is there."""
    folder = tmp_path_factory.mktemp("config")
    tiny_llama(hidden=32, layers=3).config.save_pretrained(folder)
    return folder


def of(folder, args, device="H100", **given):
    lengths = {"prompt_tokens": 12, "response_tokens": 20, "num_prompts": 4, "num_generations": 4}
    return estimate(EstimateConfig(**{"model": str(folder), "device": device, **lengths, **given}), args)


@pytest.mark.parametrize("name", SCHEMES)
def test_parameters_are_exact(name, folder, tmp_path):
    estimated, args = split_given(SCHEMES[name], OREOConfig, folder, tmp_path)
    own = {n: getattr(estimated, n) for n in ("use_peft", "lora_r", "value_use_peft")}
    found = of(folder, args, **own)
    peft = {}
    if own["use_peft"]:
        from stepcredit.training.train import adapter_configs

        peft = adapter_configs(estimated)
    run = OfflineTrainer(
        model=tiny_llama(hidden=32, layers=3),
        args=args,
        train_dataset=ragged(),
        processing_class=byte_tokenizer(),
        **peft,
    )
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    parts = [*run.model.parts().values(), run.model.reference]
    all_of = {id(p): p.numel() for part in parts if part is not None for p in part.parameters()}
    assert (found.trained, found.trained + found.frozen) == (trained, sum(all_of.values()))
    assert found.memory.parts.get("optimizer state", 0) in (0, 8 * trained)
    weights = sum(size for part, size in found.memory.parts.items() if part.startswith("weights"))
    head = (
        259 * 32 * 4 * (args.precomputes and args.train_layers is None)
    )  # of the reference, copied before it is trained
    buffers = 2 * 16 * 4  # of the rotation
    assert weights == pytest.approx(4 * sum(all_of.values()) + head, abs=4 * buffers)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [{}, {"share_prompts": True, "head": "fused"}, {"train_layers": 2, "bf16": True}])
def test_every_method(method, given, folder, tmp_path):
    found = of(folder, config(tmp_path, METHODS[method].config, max_steps=-1, **given))
    assert found.memory.peak == max(sum(parts.values()) for parts in found.memory.phases.values())
    assert all(size > 0 for parts in found.memory.phases.values() for size in parts.values())
    assert all(seconds > 0 for seconds in found.compute.seconds.values())
    assert (found.disk.kept > 0) is (found.compute.break_even is not None) is ("train_layers" in given)
    assert found.to_json()["memory_gb"]["at"] in found.memory.phases
    assert estimate_tables(found).renderables


def test_seconds_of_a_gpu_are_operations_over_a_share_of_its_peak(folder, tmp_path):
    found = of(folder, config(tmp_path, SFTConfig, max_steps=-1, num_train_epochs=3))
    compute = found.compute
    assert compute.seconds["policy"] == pytest.approx(compute.flops["policy"] / (UTILISATION * 67e12))
    assert compute.step == pytest.approx(sum(compute.seconds.values()))
    assert (compute.steps_per_epoch, compute.steps) == (4, 12)
    assert compute.run == pytest.approx(12 * compute.step)
    assert compute.tokens_per_second == pytest.approx(16 * 32 / (4 * compute.step))


def test_further_updates_of_v_take_its_passes_and_its_optimizer_again(folder, tmp_path):
    once, often = (of(folder, config(tmp_path, OREOConfig, value_updates_per_step=n)) for n in (1, 3))
    assert often.compute.flops["value model"] == 3 * once.compute.flops["value model"]
    assert often.compute.seconds["value model"] == pytest.approx(3 * once.compute.seconds["value model"])
    again = often.compute.seconds["optimizer"] / once.compute.seconds["optimizer"]
    assert again == pytest.approx(2, rel=0.01)  # policy and V are of about one size, and V is updated twice more
    assert often.compute.seconds["policy"] == once.compute.seconds["policy"]
    assert often.memory.peak == once.memory.peak


def test_operations_of_a_llama_by_hand(folder, tmp_path):
    """2 operations a parameter of the layers and a token, three passes; attention's two products, whole squares, twice
    more and half in the backward pass; of the head three products with the actions."""
    compute = of(folder, config(tmp_path, SFTConfig)).compute
    tokens, length, hidden, inner, layers = 4 * 32, 32, 32, 64, 3
    products = layers * (4 * hidden**2 + 3 * hidden * inner)
    attention = layers * 4 * 4 * length * length * hidden  # 2 products of 2 operations, 4 rows
    assert compute.flops["policy"] == pytest.approx(3 * 2 * products * tokens + 3.5 * attention)
    assert compute.flops["head and loss"] == 3 * 2 * 4 * 20 * 259 * hidden


@pytest.mark.long
def test_cheaper_schemes_take_less(folder, tmp_path):
    def total(**given):
        own = {name: given.pop(name) for name in [*given] if name in ("use_peft", "lora_r")}
        found = of(folder, config(tmp_path, OREOConfig, **given), **own)
        return found.compute.step, found.memory.peak, found

    plain = total()
    for given in ({"share_prompts": True}, {"precompute_ref_log_probs": True}, {"shared_trunk": True}):
        assert total(**given)[:2] < plain[:2]
    assert total(train_layers=1)[0] < total(train_layers=2)[0] < plain[0]
    assert total(**LORA)[1] < plain[1]
    recomputed = total(activation_checkpointing=True)
    assert recomputed[0] > plain[0]
    assert recomputed[1] < plain[1]
    assert "passes without gradient" in plain[2].compute.seconds
    assert "passes without gradient" not in total(precompute_ref_log_probs=True)[2].compute.seconds


def estimated_and_trained(folder, **given):
    """(the estimate of a run into `out`, the trainer after it)."""
    policy = saved_policy(folder / "policy", hidden=32, layers=3)
    append_episodes(folder / "episodes", ragged())
    args = config(folder / "out", OREOConfig, **given)
    found = of(policy, args, episodes=[str(folder / "episodes")])
    run = OfflineTrainer(model=str(policy), args=args, train_dataset=ragged(), processing_class=byte_tokenizer())
    run.train()
    return found, run


@pytest.mark.parametrize("given", [{"train_layers": 2}, {"precompute_ref_log_probs": True, "kl_estimator": "sampled"}])
def test_disk_is_that_of_the_run(given, tmp_path):
    found, run = estimated_and_trained(tmp_path, max_steps=1, **given)
    arrays = [a for t in run.train_dataset.trajectories for a in vars(t).values() if isinstance(a, np.ndarray)]
    names = [t.prompt_id for t in run.train_dataset.trajectories]
    assert found.disk.encoded == sum(a.nbytes for a in arrays) + sum(map(len, names))
    kept = sum(path.stat().st_size for path in (tmp_path / "out").rglob("rows.bin"))
    assert found.disk.kept == kept


@pytest.mark.parametrize(
    ("given", "checkpoints"),
    [
        ({"save_strategy": "steps", "save_steps": 2, "max_steps": 5}, 3),
        pytest.param({"save_strategy": "steps", "save_steps": 0.5, "max_steps": 4}, 2, marks=pytest.mark.long),
        pytest.param({"save_strategy": "epoch", "num_train_epochs": 2, "max_steps": -1}, 2, marks=pytest.mark.long),
        ({"save_strategy": "epoch", "num_train_epochs": 2, "max_steps": -1, "save_total_limit": 1}, 1),
        pytest.param({"save_strategy": "no", "max_steps": 2}, 0, marks=pytest.mark.long),
        ({"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "shared_trunk": True}, 1),
    ],
)
def test_checkpoints_and_models_take_what_is_said(given, checkpoints, tmp_path):
    found, run = estimated_and_trained(tmp_path, per_device_train_batch_size=8, **given)
    run.save_model()

    def size(folder):
        return sum(path.stat().st_size for name in ("model.safetensors", "optimizer.pt") for path in folder.rglob(name))

    folders = list((tmp_path / "out").glob("checkpoint-*"))
    assert found.disk.checkpoints == len(folders) == checkpoints
    assert all(size(folder) == pytest.approx(found.disk.checkpoint, rel=0.15) for folder in folders)
    models = size(tmp_path / "out") - sum(map(size, folders))
    assert models == pytest.approx(found.disk.models, rel=0.05)
    assert found.to_json()["disk_gb"]["checkpoints"] == checkpoints


def test_this_machine_is_measured(folder, tmp_path):
    ticks = itertools.count()
    config_of = EstimateConfig(
        model=str(folder), device="cpu", prompt_tokens=12, response_tokens=20, num_prompts=4, num_generations=4
    )
    args = config(tmp_path, OREOConfig, max_steps=-1)
    found = estimate(config_of, args, clock=lambda: float(next(ticks)))
    layers = 3 / 2  # of the run, of those measured, of which each pass takes a second
    seconds = found.compute.seconds
    assert seconds["policy"] == seconds["value model"] == pytest.approx(layers, rel=0.01)
    assert seconds["passes without gradient"] == pytest.approx(layers, rel=0.01)
    assert seconds["head and loss"] == 1  # all actions of a micro-batch
    assert found.device.name.startswith("this machine's CPU")
    assert found.memory.parts["process"] > 1e8


def test_what_does_not_fit_is_said_with_what_would_help(tmp_path):
    LlamaConfig(
        vocab_size=100_000, hidden_size=4096, intermediate_size=11_008, num_hidden_layers=3, num_attention_heads=32
    ).save_pretrained(tmp_path / "big")
    found = of(tmp_path / "big", config(tmp_path, OREOConfig), device="T4")
    (note,) = found.notes
    assert note.startswith(f"does not fit: needs {found.memory.peak / 1e9:.0f} GB, T4 has 16: try ")
    assert "--use_peft true" in note
    assert not of(tmp_path / "big", config(tmp_path, OREOConfig), device="H200").notes


@pytest.mark.parametrize(
    ("given", "own", "says"),
    [
        ({}, {"prompt_tokens": None}, "episodes: give --episodes DIR, or --prompt_tokens and --response_tokens"),
        ({}, {"response_tokens": 3000}, "3012 tokens, and training leaves out what is longer than --max_length 2048"),
        ({}, {"device": "H1000"}, "device: unknown device 'H1000'; did you mean H100?"),
        ({"bf16": True}, {"device": "T4"}, "device: a T4 has no bf16"),
        ({"train_layers": 9}, {}, "train_layers: 9: LlamaModel has 3 layers; choose from 1 to 2"),
        ({"optim": "galore_adamw"}, {}, "optim: the memory of 'galore_adamw' is not known"),
        ({"shared_trunk": True}, {"value_use_peft": True}, "value_use_peft: cannot be used with shared_trunk"),
        ({}, {"model": "no/such/folder"}, "no/such/folder: no such folder"),
        ({}, {"use_peft": True, "lora_target_modules": ["nowhere"]}, "has no module 'nowhere'"),
    ],
)
def test_bad_input(given, own, says, folder, tmp_path):
    with pytest.raises(InputError) as error:
        of(folder, config(tmp_path, OREOConfig, **given), **own)
    assert says in str(error.value)
