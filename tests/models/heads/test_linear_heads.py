"""The head of real architectures of a few thousand parameters, against their own logits."""

import contextlib

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    HyperCLOVAXConfig,
    HyperCLOVAXForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from doubles.models import tiny_llama
from doubles.real import smollm2_folder
from stepcredit.models.heads.linear_heads import LinearHead, check_linear_head, linear_head

SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def gemma2(**more):
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=4, final_logit_softcapping=2.0, **more))


MODELS = {
    "llama, tied": lambda: tiny_llama(tied=True),
    "llama, untied": lambda: tiny_llama(tied=False),
    "gemma 2": gemma2,
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.3)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=7.0)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SIZES, partial_rotary_factor=0.5)),
}


def made(model, dtype=torch.float64):
    """The model in eval mode with random weights, so that no bias and no adapter is zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.to(dtype).eval()


def states(model):
    """Last hidden states [N, H] and logits [N, V] of a few rows."""
    ids = torch.arange(12).view(2, 6) % 7 + 1
    output = model(input_ids=ids, output_hidden_states=True)
    return output.hidden_states[-1].flatten(0, 1), output.logits.flatten(0, 1)


def with_lora(**config):
    given = {"r": 3, "target_modules": ["lm_head", "q_proj"], "lora_alpha": 5, **config}
    return made(get_peft_model(tiny_llama(tied=False), LoraConfig(**given)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_architecture(name, dtype):
    model = made(MODELS[name](), dtype)
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert inputs[0] is hidden
    assert head.weights[0] is model.get_output_embeddings().weight
    assert check_linear_head(head, inputs, logits)
    if dtype == torch.float64:
        torch.testing.assert_close(head.logits(inputs), logits)
    wrong = LinearHead(head.weights, head.scale * 1.1, head.softcap)
    assert not check_linear_head(wrong, inputs, logits)


def test_what_each_architecture_adds():
    found = {name: linear_head(model := made(make()), states(model)[0])[0] for name, make in MODELS.items()}
    assert {name: (len(head.weights), head.scale, head.softcap) for name, head in found.items()} == {
        "llama, tied": (1, 1.0, None),
        "llama, untied": (1, 1.0, None),
        "gemma 2": (1, 1.0, 2.0),
        "cohere": (1, 0.3, None),
        "granite": (1, 1 / 7, None),
        "phi": (2, 1.0, None),
    }


def test_gemma_without_a_cap():
    model = made(gemma2())
    model.config.final_logit_softcapping = None
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert head.softcap is None
    assert check_linear_head(head, inputs, logits)


def gradients(model, logits):
    model.zero_grad()
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "config",
    [{}, {"use_rslora": True}, {"target_modules": ["q_proj"]}, {"target_modules": ["embed_tokens"]}],
)
def test_lora_active_and_disabled(config):
    model = with_lora(**config)
    for context in (contextlib.nullcontext, model.disable_adapter):
        with context():
            hidden, logits = states(model)
            head, inputs = linear_head(model, hidden)
            adapted = "target_modules" not in config and context is contextlib.nullcontext
            assert len(head.weights) == 1 + adapted
            torch.testing.assert_close(head.logits(inputs), logits)
            assert check_linear_head(head, inputs, logits)
            if logits.requires_grad:
                expected = gradients(model, states(model)[1])
                torch.testing.assert_close(gradients(model, head.logits(inputs)), expected)


def test_lora_on_a_head_with_a_bias_and_a_bias_of_its_own():
    phi = get_peft_model(MODELS["phi"](), LoraConfig(r=3, lora_alpha=5, target_modules=["lm_head"], lora_bias=True))
    model = made(phi)
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert [tuple(weight.shape) for weight in head.weights] == [(40, 8), (40, 1), (40, 3), (40, 1)]
    torch.testing.assert_close(head.logits(inputs), logits)


def test_several_active_adapters():
    model = with_lora()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["lm_head"]))
    made(model)
    model.base_model.set_adapter(["default", "second"])
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert len(head.weights) == 3
    torch.testing.assert_close(head.logits(inputs), logits)
    model.base_model.set_adapter("second")
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert len(head.weights) == 2
    torch.testing.assert_close(head.logits(inputs), logits)


def test_dropout_is_drawn_once_for_the_adapter():
    model = with_lora(lora_dropout=0.5)
    hidden = states(model)[0].detach()
    model.train()
    torch.manual_seed(3)
    expected = model.get_base_model().lm_head(hidden)
    torch.manual_seed(3)
    head, inputs = linear_head(model, hidden)
    torch.testing.assert_close(head.logits(inputs), expected)


def test_low_precision_base_with_an_adapter_in_single():
    model = made(get_peft_model(tiny_llama(tied=False), LoraConfig(r=3, target_modules=["lm_head"])), torch.bfloat16)
    layer = model.get_base_model().lm_head
    layer.lora_A.float()
    layer.lora_B.float()
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert [weight.dtype for weight in head.weights] == [torch.bfloat16, torch.float32]
    assert check_linear_head(head, inputs, logits)


def merged_lora():
    model = with_lora()
    model.merge_adapter()
    return model


def hooked():
    model = made(tiny_llama(tied=False))
    model.lm_head.register_forward_hook(lambda layer, args, output: 2 * output)
    return model


def with_forward_replaced():
    model = made(tiny_llama(tied=False))
    plain = model.lm_head.forward
    model.lm_head.forward = lambda x: 2 * plain(x)
    return model


def with_layer(layer):
    model = made(tiny_llama(tied=False))
    model.lm_head = layer
    return model


def with_integer_weight():
    layer = nn.Linear(16, 259, bias=False)
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    return with_layer(layer)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def with_bias_of(number):
    model = made(MODELS["phi"]())
    with torch.no_grad():
        model.lm_head.bias[3] = number
    return model


UNKNOWN = {
    "DoRA": lambda: with_lora(use_dora=True),
    "merged": merged_lora,
    "a copy of the head that peft trains": lambda: with_lora(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "another layer": lambda: with_layer(Doubled(16, 259, bias=False, dtype=torch.float64)),
    "several layers": lambda: with_layer(nn.Sequential(nn.Linear(16, 259, dtype=torch.float64))),
    "quantised": with_integer_weight,
    "hooked": hooked,
    "forward replaced": with_forward_replaced,
    "bias of minus infinity": lambda: with_bias_of(float("-inf")),
    "bias that is no number": lambda: with_bias_of(float("nan")),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_head_is_refused(name):
    assert linear_head(UNKNOWN[name](), torch.zeros(2, 8 if "bias" in name else 16, dtype=torch.float64)) is None


def test_a_head_of_other_width_is_refused():
    assert linear_head(made(tiny_llama()), torch.zeros(2, 15, dtype=torch.float64)) is None


def test_an_architecture_that_scales_in_another_way_fails_the_check():
    """HyperCLOVA X multiplies by `logits_scaling`, where Granite divides."""
    model = made(HyperCLOVAXForCausalLM(HyperCLOVAXConfig(**SIZES, logits_scaling=7.0)))
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert not check_linear_head(head, inputs, logits)


def test_logits_of_another_shape_or_that_are_no_numbers_fail_the_check():
    model = made(tiny_llama())
    hidden, logits = states(model)
    head, inputs = linear_head(model, hidden)
    assert not check_linear_head(head, inputs, logits[:, :-1])
    assert not check_linear_head(head, inputs, logits * float("nan"))


def test_a_real_head_under_autocast():
    """Rounding of its largest hidden states alone would fail a check of 1%."""
    folder = smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "Question: Tom has 3 apples and buys 4 more. How many are there?\nAnswer: 3 + 4 = 7 apples.\n#### 7"
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids).last_hidden_state[0]
        logits = model.lm_head(hidden)
        head, inputs = linear_head(model, hidden)
        assert check_linear_head(head, inputs, logits)
        assert not check_linear_head(head._replace(scale=1.02), inputs, logits)
