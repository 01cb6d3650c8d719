from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from doubles.models import tiny_llama
from stepcredit.estimates.recorder import Recorder
from stepcredit.models.bodies import recomputation
from stepcredit.models.bodies.passes import Sequences, hidden_states
from stepcredit.models.bodies.recomputation import recomputing


def sequences(rows=3, length=20):
    torch.manual_seed(0)
    lengths = torch.tensor([length, length - 3, length - 8, 1][:rows])
    mask = (torch.arange(length) < lengths[:, None]).long()
    prefix_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    ids = torch.randint(250, (rows, length)), torch.randint(250, (2, 4))
    return Sequences(ids[0], mask, ids[1], prefix_mask, torch.tensor([0, 1, 1, 0][:rows]))


def body(**more):
    return tiny_llama(hidden=32, layers=3, kv_heads=1, **more).model


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.count = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[str(func)] = self.count.get(str(func), 0) + 1
        return func(*args, **kwargs or {})


def passes(model, inputs, again):
    """Returns states, gradients, and the operations of the forward and of the backward pass."""
    model.zero_grad(set_to_none=True)
    with Counted() as forward, recomputing([model]) if again else nullcontext():
        states = hidden_states(model, inputs)
    with Counted() as backward:
        states[inputs.mask.bool()].sin().sum().backward()
    return states.detach(), [p.grad for p in model.parameters()], forward.count, backward.count


def of_attention(count):
    return sum(n for name, n in count.items() if name.startswith("aten._scaled_dot_product") and "backward" not in name)


def test_states_and_gradients_are_the_same_bits():
    model, inputs = body(), sequences()
    states, gradients, *_ = passes(model, inputs, again=False)
    found, found_gradients, *_ = passes(model, inputs, again=True)
    assert torch.equal(found, states)
    assert all(torch.equal(x, y) for x, y in zip(found_gradients, gradients, strict=True))


def test_no_attention_and_no_product_is_computed_again():
    model, inputs = body(), sequences()
    *_, forward, backward = passes(model, inputs, again=False)
    *_, forward_again, backward_again = passes(model, inputs, again=True)
    assert of_attention(forward) == of_attention(forward_again) == 3 * 2  # layers, prefixes and rows
    assert of_attention(backward) == of_attention(backward_again) == 0
    assert backward_again["aten.mm.default"] == backward["aten.mm.default"]
    assert backward_again["aten.silu.default"] == 3 * 2 - 1  # the last layer of the prefixes has no gradient


def kept_bytes(model, inputs, again):
    """Returns the bytes of all tensors that live after the forward pass, beside weights."""
    recorder = Recorder(model.parameters())
    with recorder, recomputing([model]) if again else nullcontext():
        states = hidden_states(model, inputs)
    kept = recorder.live.total()
    del states
    return kept


def test_less_is_kept():
    model, inputs = body(), sequences()
    assert kept_bytes(model, inputs, again=True) < 0.7 * kept_bytes(model, inputs, again=False)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(attention):
    model = body(attn_implementation=attention)
    before = {name: module.forward for name, module in model.named_modules()}
    with recomputing([model]):
        assert model.config._attn_implementation == {"sdpa": recomputation.ATTENTION, "eager": "eager"}[attention]
    assert {name: module.forward for name, module in model.named_modules()} == before
    assert model.config._attn_implementation == attention
