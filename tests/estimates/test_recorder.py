"""Memory and operations by part: by hand, and against what autograd really keeps."""

import weakref

import pytest
import torch
from torch import nn

from doubles.models import tiny_llama
from stepcredit.estimates.recorder import BACKWARD, Recorder
from stepcredit.models.bodies.passes import Sequences, hidden_states


def test_memory_is_counted_by_storage_and_part_until_it_is_freed():
    weight = torch.zeros(10, 10)
    recorder = Recorder([weight])
    with recorder.running("a"):
        x = torch.zeros(5, 10)
        views = [x.t(), x[1:], weight.t()]
        y = x @ weight
    assert recorder.live == {"a": 2 * 5 * 10 * 4}
    del x, views
    with recorder.running("b"):
        z = torch.zeros(100)
    assert +recorder.live == {"a": 200, "b": 400}
    recorder.belongs_to(z, "c")
    assert +recorder.live == {"a": 200, "c": 400}
    del y, z
    assert recorder.live.total() == 0
    assert recorder.peak == 600
    assert +recorder.at_peak == {"a": 200, "b": 400}


def test_operations_of_products_and_attention():
    recorder = Recorder()
    with recorder.running("a"):
        torch.zeros(3, 5) @ torch.zeros(5, 7)
        nn.functional.linear(torch.zeros(2, 3, 5), torch.zeros(7, 5), torch.zeros(7))
    with recorder.running("b"):
        q = torch.zeros(2, 4, 6, 8, requires_grad=True)
        nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
        torch.ops.mkldnn._linear_pointwise(torch.zeros(3, 5), torch.zeros(7, 5), None, "none", [], "")
    assert recorder.flops == {"a": 2 * 3 * 5 * 7 + 2 * 6 * 5 * 7, "b": (4 + 10) * 2 * 4 * 6 * 6 * 8 + 2 * 3 * 5 * 7}


class Saved:
    """The memory of a tensor that a node of the graph keeps, for as long as the node is there."""

    def __init__(self, tensor):
        self.storage = tensor.untyped_storage()  # not the tensor, which may be the node's own output


def kept_by_autograd(body, run):
    """Bytes of the tensors that a forward pass keeps for the backward pass, without parameters."""
    saved = weakref.WeakSet()

    def pack(x):
        saved.add(kept := Saved(x))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: None):
        out = run()
    storages = {x.storage.data_ptr(): x.storage.nbytes() for x in saved}
    assert out.requires_grad
    parameters = {p.untyped_storage().data_ptr() for p in body.parameters()}
    return sum(size for address, size in storages.items() if address not in parameters)


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("prefix", [0, 40])
@pytest.mark.parametrize("padded", [False, True])
def test_activations_of_a_llama_are_what_autograd_keeps(kv_heads, prefix, padded):
    body = tiny_llama(hidden=64, layers=4, kv_heads=kv_heads).model
    mask = torch.ones(3, 60, dtype=torch.long)
    mask[0, 40:] = 1 - padded
    inputs = Sequences(torch.zeros_like(mask), mask)
    if prefix:
        ones = torch.ones(1, prefix, dtype=torch.long)
        inputs = inputs._replace(prefix=ones, prefix_mask=ones, prefix_row=torch.zeros(3, dtype=torch.long))
    expected = kept_by_autograd(body, lambda: hidden_states(body, inputs))
    recorder = Recorder([*body.parameters(), *body.buffers()])
    with recorder.running("policy"):
        out = hidden_states(body, inputs)
    assert recorder.live["policy"] == pytest.approx(expected + out.nbytes, rel=0.03)
    recorder.backward = True
    with recorder.running("policy"):
        out.backward(torch.ones_like(out))
    del out
    gradients = sum(p.numel() * 4 for p in body.parameters())
    assert recorder.live[BACKWARD] == gradients
    assert recorder.live["policy"] == 0


def test_activations_of_a_llama_by_hand():
    """What a layer keeps for its backward pass, in numbers a token: two norms (input, its float32 square root, the
    normed input twice), q, k and v before and after the rotation, attention's output, the gate, its SiLU, the
    product, and the up-projection."""
    hidden, layers, rows, length, head = 64, 6, 2, 50, 32
    model = tiny_llama(hidden=hidden, layers=layers).model
    taken = []
    for count in (layers - 3, layers):
        part = type(model)(type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": count}))
        recorder = Recorder([*part.parameters(), *part.buffers()])
        with recorder.running("a"):
            out = part(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False).last_hidden_state
        taken.append(recorder.live["a"])
        del out
    inner = 2 * hidden
    norms = 2 * (3 * hidden + 1)
    attention = 3 * hidden + hidden + 2  # q and k rotated, v; the output; one log-sum a head
    mlp = 4 * inner
    assert head * 2 == hidden
    assert (taken[1] - taken[0]) / 3 == pytest.approx(4 * rows * length * (norms + attention + mlp), rel=0.03)
