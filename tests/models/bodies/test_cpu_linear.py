"""Linear layers through oneDNN: the numbers of PyTorch's own, for large layers alone."""

import copy

import pytest
import torch
from torch import nn

from doubles.models import tiny_llama
from stepcredit.estimates.recorder import Recorder
from stepcredit.models.bodies import cpu_linear
from stepcredit.models.bodies.cpu_linear import onednn_linears, onednn_speed
from stepcredit.models.bodies.recomputation import recomputing

pytestmark = pytest.mark.skipif(onednn_speed(64, 256, 512) is None, reason="oneDNN has no linear layer here")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 256), (2, 5, 256)])
def test_outputs_and_gradients_are_those_of_the_layer(bias, shape):
    torch.manual_seed(0)
    layer = nn.Linear(256, 512, bias=bias)
    x = torch.randn(shape, requires_grad=True)
    exact, y = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    exact(y).sin().sum().backward()
    with onednn_linears([layer]):
        assert layer.forward.func is cpu_linear._forward
        output = layer(x)
    output.sin().sum().backward()
    assert output.grad_fn.name() == "_LinearBackward"
    torch.testing.assert_close(output.double(), exact(y), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(layer.parameters(), exact.parameters()):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_frozen_weights_get_no_gradient_and_small_or_double_layers_are_left_alone():
    frozen, small, wide = nn.Linear(256, 512).requires_grad_(False), nn.Linear(16, 16), nn.Linear(256, 512).double()
    x = torch.randn(3, 256, requires_grad=True)
    with onednn_linears([frozen, small, wide]):
        assert [("forward" in vars(layer)) for layer in (frozen, small, wide)] == [True, False, False]
        frozen(x).sum().backward()
    assert x.grad is not None
    assert frozen.weight.grad is None
    assert "forward" not in vars(frozen)


def test_only_products_that_narrow_are_computed_again(monkeypatch):
    monkeypatch.setattr(cpu_linear, "_SIZE", 1)
    body, ids, counts = tiny_llama().model, torch.arange(40).view(2, 20), []
    for again in (False, True):
        recorder = Recorder(body.parameters())
        with onednn_linears([body]):
            with recomputing([body] if again else []):
                states = body(ids).last_hidden_state
            with recorder:
                states.sin().sum().backward()
        counts.append(recorder.flops.total())
        body.zero_grad()
    assert counts[1] - counts[0] == 2 * 2 * 40 * 32 * 16  # of each layer one: 40 tokens from 32 to 16 numbers


def test_with_recomputed_activations_in_a_body(monkeypatch):
    monkeypatch.setattr(cpu_linear, "_SIZE", 1)
    body, ids = tiny_llama().model, torch.arange(40).view(2, 20)
    body(ids).last_hidden_state.sin().sum().backward()
    expected = {name: p.grad.clone() for name, p in body.named_parameters()}
    body.zero_grad()
    with onednn_linears([body]):
        with recomputing([body]):
            states = body(ids).last_hidden_state
        states.sin().sum().backward()
    for name, p in body.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-5)
