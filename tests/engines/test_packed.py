"""Packed linear layers against those of PyTorch."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from doubles.models import tiny_llama
from doubles.tokenizers import byte_tokenizer
from stepcredit.engines import packed as packing
from stepcredit.engines.engine import Request, SamplingParams, load_engine
from stepcredit.engines.packed import PackedLinear, packed
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.models.loading import value_model_from

IDS = torch.arange(40).reshape(2, 20)


def linears(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_equals_the_float64_product(dtype, tolerance, rows, bias):
    torch.manual_seed(rows)
    layer = torch.nn.Linear(48, 70, bias=bias).to(dtype)
    inputs = torch.randn(2, rows, 48, dtype=dtype)
    with torch.no_grad():
        expected, outputs = layer.double()(inputs.double()), PackedLinear(layer.to(dtype))(inputs)
    assert outputs.dtype == dtype
    torch.testing.assert_close(outputs.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [tiny_llama, lambda: value_model_from(tiny_llama())])
@torch.no_grad()
def test_a_packed_model_gives_the_same_logits_and_keeps_no_other_weights(make):
    model = make().train()
    expected = model(IDS).logits
    layers = len(linears(model))
    assert packed(model) is model
    assert model.training
    assert layers > 0
    assert not linears(model)
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) == layers
    torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-5, atol=1e-6)


def test_a_policy_from_a_folder_is_packed_and_one_in_memory_is_not(tmp_path):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert not linears(load_engine(str(tmp_path)).model)
    assert linears(load_engine(model, tokenizer=tokenizer).model)


def test_a_packed_policy_draws_the_same(tmp_path):
    requests, params = [Request((65, 66 + k), f"p{k}", s) for k in range(3) for s in range(4)], SamplingParams(12)
    drawn = [
        list(TransformersEngine(model, byte_tokenizer()).generate(requests, params))
        for model in (tiny_llama(), packed(tiny_llama()))
    ]
    for plain, fast in zip(*drawn, strict=True):
        assert plain.ids.tolist() == fast.ids.tolist()
        np.testing.assert_allclose(fast.log_prob, plain.log_prob, atol=1e-5)


def test_a_model_that_reads_a_weight_itself_stays_as_it_is():
    model = tiny_llama()
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda inputs: inputs * mlp.down_proj.weight.mean()
    before = linears(model)
    assert linears(packed(model)) == before


def test_a_model_whose_logits_would_change_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(packing, "_TOLERANCE", -1.0)
    model = tiny_llama()
    before = linears(model)
    assert linears(packed(model)) == before


def test_layers_of_other_kinds_and_precisions_stay():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    assert [type(module).__name__ for module in packed(gpt2).modules() if "Conv1D" in type(module).__name__]
    assert isinstance(gpt2.lm_head, PackedLinear)
    assert linears(packed(tiny_llama().double()))
