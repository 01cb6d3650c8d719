"""Every head of the benchmark computes the same loss and the same gradients."""

import pytest
import torch

from benchmarks.head import Shape, measured
from benchmarks.head_schemes import EPISODE, HEADS, head_case, run
from benchmarks.measure import Failed


def found(name, kl, dtype=torch.float32):
    case = head_case(300, 8, 4 * EPISODE, dtype=dtype)
    try:
        loss = run(name, case, kl)
    except Failed as reason:
        pytest.skip(str(reason))
    return loss, case.hidden.grad, case.weight.grad


@pytest.mark.parametrize(
    ("name", "kl"), [(name, kl) for name, head in HEADS.items() for kl in (True, False) if head.has_kl or not kl]
)
def test_a_head_has_the_loss_and_the_gradients_of_the_naive_one_in_double_precision(name, kl):
    loss, *gradients = found(name, kl)
    expected, *exact = found("naive", kl, torch.float64)
    assert loss == pytest.approx(expected, rel=1e-5)
    for gradient, other in zip(gradients, exact):
        assert torch.linalg.norm(gradient - other) < 1e-5 * torch.linalg.norm(other)


def test_workspace_is_what_a_call_holds_beyond_inputs_and_the_gradient_of_the_weight():
    vocab, tokens = 20_000, 2 * EPISODE
    logits = vocab * tokens * 4
    workspace = measured(["naive"], Shape(vocab, 8, tokens), kl=False, repeats=0, device="cpu")["workspace"]
    assert 2 * logits < workspace < 8 * logits


def test_times_are_one_a_repeat_and_head():
    seconds = measured(["naive", "trl"], Shape(64, 8, EPISODE), kl=True, repeats=2, device="cpu")["seconds"]
    assert {name: len(all_seconds) for name, all_seconds in seconds.items()} == {"naive": 2, "trl": 2}
