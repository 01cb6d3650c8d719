"""Policies from `.gguf` files: dequantised with a warning, plain afterwards; damaged and missing files are errors."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from doubles.gguf import write_tiny_gguf
from doubles.real import smollm2_folder, smollm2_gguf
from stepcredit import Episode, InputError, OfflineTrainer, OREOConfig
from stepcredit.cli import main
from stepcredit.episodes.store import load_episodes
from stepcredit.models import gguf as reading
from stepcredit.models.loading import (
    load_policy,
    load_reward_model,
    load_tokenizer,
    load_value_model,
    value_model_from,
)
from stepcredit.tasks.arithmetic import Arithmetic

pytestmark = pytest.mark.usefixtures("each_says_it_anew")


@pytest.fixture
def each_says_it_anew(monkeypatch):
    monkeypatch.setattr(reading, "_reported", set())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A `.gguf` file in Q4_1."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf"
    write_tiny_gguf(file)
    return str(file)


def rounded(weight, kind):
    """A weight as it comes back from a file of this kind; norms are kept whole."""
    if weight.ndim < 2:
        return weight
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))


@pytest.mark.parametrize(("kind", "bits"), [(Kind.Q4_1, "Q4_1 (5 bits)"), (Kind.Q8_0, "Q8_0 (8.5 bits)")])
def test_the_weights_are_the_rounded_ones_and_it_is_said_once(kind, bits, tmp_path, caplog):
    file = tmp_path / "tiny.gguf"
    model, tokenizer = write_tiny_gguf(file, kind)
    policy = load_policy(str(file))
    load_policy(str(file))
    assert policy.dtype == torch.float32
    expected = {name: rounded(weight, kind) for name, weight in model.state_dict().items()}
    torch.testing.assert_close(dict(policy.state_dict()), expected, rtol=0, atol=1e-7)
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: dequantised from {bits} to float32; the rounding is part of the model"
    ]
    read = load_tokenizer(str(file))
    assert (read.eos_token, read.pad_token, read.chat_template) == ("<eos>", "<pad>", tokenizer.chat_template)
    assert read("héllo ab<end>").input_ids == tokenizer("héllo ab<end>").input_ids


def test_floats_are_read_as_they_are_and_nothing_is_said(tmp_path, caplog):
    file = tmp_path / "tiny.gguf"
    model, _ = write_tiny_gguf(file, Kind.F32)
    torch.testing.assert_close(dict(load_policy(str(file)).state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert not caplog.records
    assert load_policy(str(file), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_model_is_plain_and_its_value_model_too(tiny, tmp_path):
    policy = load_policy(tiny)
    value = value_model_from(policy)
    policy.save_pretrained(tmp_path / "policy")
    load_tokenizer(tiny).save_pretrained(tmp_path / "policy")
    value.save_pretrained(tmp_path / "value")
    for folder in ("policy", "value"):
        config = (tmp_path / folder / "config.json").read_text()
        assert "quantization" not in config
        assert ".gguf" not in config
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "policy")("2+2=4").input_ids])
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
        torch.testing.assert_close(again(ids).logits, policy(ids).logits, rtol=0, atol=0)
        read = AutoModelForTokenClassification.from_pretrained(tmp_path / "value").eval()
        assert read(ids).logits.abs().max() == 0
        torch.testing.assert_close(read.base_model(ids)[0], policy.base_model(ids)[0], rtol=0, atol=0)


def test_it_trains_by_name_or_as_a_model_and_is_saved_as_plain_folders(tiny, tmp_path):
    episodes = [Episode(prompt=f"{i}+2=", completion="4", reward=float(i == 2), prompt_id=str(i)) for i in range(4)]
    for name, model in (("name", tiny), ("model", load_policy(tiny))):  # each finds its tokenizer
        args = OREOConfig(
            output_dir=str(tmp_path / name), max_steps=2, learning_rate=1e-2, save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        trainer = OfflineTrainer(model=model, args=args, train_dataset=episodes)
        trainer.train()
        trainer.save_model()
    before = load_policy(tiny).state_dict()
    after = load_policy(str(tmp_path / "name" / "policy"))
    assert not torch.equal(after.state_dict()["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    for key, weight in load_policy(str(tmp_path / "model" / "policy")).state_dict().items():
        torch.testing.assert_close(weight, after.state_dict()[key], rtol=0, atol=0)
    assert load_value_model(str(tmp_path / "name" / "value")).config.num_labels == 1
    assert load_tokenizer(str(tmp_path / "name" / "policy")).eos_token == "<eos>"


def test_a_command_takes_it_as_the_policy(tiny, tmp_path):
    flags = ["--limit", "2", "--num_generations", "2", "--max_new_tokens", "4"]
    assert (
        main(["collect", "--task", Arithmetic.name, "--model", tiny, "--output_dir", str(tmp_path / "e"), *flags]) == 0
    )
    assert len(load_episodes(tmp_path / "e")) == 4


def test_without_the_package_it_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for load in (load_policy, load_tokenizer):
        with pytest.raises(InputError, match=r"tiny.Q4_1.gguf: .*pip install 'stepcredit\[gguf\]'"):
            load(tiny)


@pytest.mark.parametrize("load", [load_policy, load_tokenizer])
def test_a_file_that_is_not_there(load, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(str(tmp_path / "none.gguf"))


@pytest.mark.parametrize("keep", [0, 3, 30, 500, 0.5, -1])
@pytest.mark.parametrize("load", [load_policy, load_tokenizer])
def test_a_cut_file_is_refused_in_one_line(load, keep, tiny, tmp_path):
    whole = Path(tiny).read_bytes()
    refused(load, whole[: int(keep * len(whole)) if isinstance(keep, float) else keep], tmp_path)


@pytest.mark.parametrize("load", [load_policy, load_tokenizer])
@pytest.mark.parametrize("content", [b"<html>\nnot found\n</html>", b"version https://git-lfs\noid sha256:0\nsize 9\n"])
def test_another_file_under_that_name_is_refused(load, content, tmp_path):
    refused(load, content, tmp_path)


def refused(load, content, tmp_path):
    file = tmp_path / "damaged.gguf"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(str(file))
    assert str(caught.value).startswith(f"{file}: cannot read this .gguf file")
    assert "\n" not in str(caught.value)


def test_missing_weights_and_nan_are_refused(tmp_path, monkeypatch):
    file, add = tmp_path / "tiny.gguf", gguf.GGUFWriter.add_tensor
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_tensor", lambda self, name, *a, **k: "ffn_up" in name or add(self, name, *a, **k)
    )
    write_tiny_gguf(file)
    with pytest.raises(InputError, match=r"weights are missing: model.layers.0.mlp.up_proj.weight, "):
        load_policy(str(file))
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_tensor",
        lambda self, name, values, **k: add(self, name, values * np.float32("nan") if values.ndim < 2 else values, **k),
    )  # fmt: skip
    write_tiny_gguf(file)
    with pytest.raises(InputError, match=r"weights are NaN or infinite: model\.layers\.0"):
        load_policy(str(file))


@pytest.mark.parametrize("load", [load_value_model, load_reward_model])
def test_it_holds_no_value_model(load, tiny):
    with pytest.raises(InputError, match="only be a policy"):
        load(tiny)


@pytest.mark.long
def test_a_published_file_is_the_folder_that_is_made_from_it(caplog):
    folder, file = smollm2_folder(), str(smollm2_gguf())
    policy, plain = load_policy(file), load_policy(str(folder))
    assert "dequantised from Q4_1 (5 bits), Q8_0 (8.5 bits) to float32" in caplog.text
    assert policy.dtype == plain.dtype == torch.float32
    for (name, weight), (_, kept) in zip(policy.named_parameters(), plain.named_parameters()):
        assert torch.equal(weight, kept), name
    tokenizer, kept = load_tokenizer(file), load_tokenizer(str(folder))
    turns = [{"role": "user", "content": "What is 2 + 4?"}]
    assert tokenizer.eos_token == "<|im_end|>"
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert kept.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == ids
    written = policy.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert "2 + 4 = 6" in tokenizer.decode(written)
    value = value_model_from(policy)
    assert sum(p.numel() for p in value.parameters()) == sum(p.numel() for p in policy.parameters()) + 576
