"""KTO against an optimum worked by hand, REINFORCE at the reference, its limits, and gradients written out."""

from math import exp, isnan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_oreo import ragged

from stepcredit.objectives.kto import kl_baseline, kto_loss, kto_metrics, mismatched_sums

F = torch.float64
nats = st.floats(-30, 30)


def loss_of(log_ratio_sum, desirable, z=0.0, beta=1.0, weights=(1.0, 1.0)):
    return kto_loss(
        log_ratio_sum=log_ratio_sum,
        desirable=desirable,
        baseline=torch.as_tensor(z, dtype=F),
        beta=beta,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_equal_the_written_out_ones_on_ragged_episodes(seed):
    log_ratio, _, _, step_id = ragged(seed)
    mask, z, beta, weights = step_id >= 0, torch.tensor(0.4, dtype=F, requires_grad=True), 0.7, (1.3, 0.6)
    desirable = torch.tensor([True, False, False])
    log_ratio.requires_grad_()
    loss = loss_of(torch.where(mask, log_ratio, 0.0).sum(-1), desirable, z, beta, weights)
    apart = torch.tensor([1.0, 10.0, 100.0], dtype=F)
    found, to_baseline = torch.autograd.grad((loss * apart).sum(), [log_ratio, z], allow_unused=True)
    assert to_baseline is None
    for row in range(3):
        gain = beta * (sum(log_ratio[row, t].item() for t in range(mask.shape[1]) if mask[row, t]) - 0.4)
        sign, weight = (1, weights[0]) if desirable[row] else (-1, weights[1])
        sigmoid = 1 / (1 + exp(-sign * gain))
        assert loss[row].item() == pytest.approx(weight * (1 - sigmoid), rel=1e-12)
        slope = -sign * beta * weight * sigmoid * (1 - sigmoid)
        torch.testing.assert_close(found[row], torch.where(mask[row], apart[row] * slope, 0.0), rtol=1e-12, atol=1e-14)


def test_an_optimum_worked_by_hand():
    """Two responses, π_ref = 1/2 each, z = 0, β = 1, π(first) = p; so e^ρ = 2p and 2(1 - p).

    A response of net weight c gains c σ(ρ), and σ'(log u) = u / (1+u)². The gradient in the logit is
    2p(1-p) [c_1/(1+2p)² - c_2/(3-2p)²]: zero where (1+2p)/(3-2p) = √(c_1/c_2), at p = 3/4 for 25 to 9. With
    λ_D = 2 and λ_U = 3, 14 desirable and one undesirable make 25, six and one make 9.
    """
    desirable = torch.tensor([True] * 14 + [False] + [True] * 6 + [False])
    second = torch.tensor([0] * 15 + [1] * 7)

    def total(logit):
        log_pi = torch.stack([torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)])
        return loss_of((log_pi + torch.tensor(2.0, dtype=F).log())[second], desirable, weights=(2.0, 3.0)).sum()

    best = torch.tensor(3.0, dtype=F).log().requires_grad_()  # p = 3/4
    total(best).backward()
    assert abs(best.grad.item()) < 1e-14
    grid = torch.linspace(0.01, 0.99, 99, dtype=F)
    losses = [total(torch.logit(p)).item() for p in grid]
    assert grid[losses.index(min(losses))].item() == pytest.approx(0.75)


def test_at_the_reference_it_is_reinforce():
    """σ'(0) = 1/4: ∇L = -β/4 Σ_b (λ_D or -λ_U) ∇log π. Where all is desirable and drawn from π_ref, it is zero."""
    log_ref = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F).log()
    logits = log_ref.clone().requires_grad_()
    desirable, beta, weights = torch.tensor([True, False, False, True]), 0.3, (1.5, 0.5)
    log_ratio = logits.log_softmax(-1) - log_ref
    z = kl_baseline(mismatched_sums(log_ratio))
    assert z.item() == pytest.approx(0, abs=1e-15)
    (found,) = torch.autograd.grad(loss_of(log_ratio, desirable, z, beta, weights).sum(), logits)
    reward = torch.where(desirable, weights[0], -weights[1]).to(F)
    reinforce = -beta / 4 * (reward - reward.sum() * log_ref.exp())
    torch.testing.assert_close(found, reinforce, atol=1e-15, rtol=1e-12)

    everything = torch.ones(4, dtype=torch.bool)
    loss = (log_ref.exp() * loss_of(logits.log_softmax(-1) - log_ref, everything, beta=beta)).sum()
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-15


def test_far_on_the_right_side_it_costs_nothing_and_on_the_wrong_side_its_weight():
    far = torch.tensor([1e4, -1e4, -1e4, 1e4], dtype=F, requires_grad=True)
    loss = loss_of(far, torch.tensor([True, False, True, False]), weights=(2.0, 3.0))
    assert loss.tolist() == [0, 0, 2, 3]
    loss.sum().backward()
    assert far.grad.tolist() == [0, 0, 0, 0]


@given(nats, nats, nats, st.floats(0.01, 3))
def test_shift_and_symmetry(log_ratio_sum, z, shift, beta):
    """Only Σρ - z counts; with equal weights the two kinds are each other's mirror image and add up to λ."""
    x, yes, no = torch.tensor([log_ratio_sum], dtype=F), torch.tensor([True]), torch.tensor([False])
    loss = loss_of(x, yes, z, beta)
    torch.testing.assert_close(loss_of(x + shift, yes, z + shift, beta), loss)
    torch.testing.assert_close(loss_of(-x, no, -z, beta), loss)
    torch.testing.assert_close(loss + loss_of(x, no, z, beta), torch.ones(1, dtype=F))


def test_what_is_as_often_desirable_as_not_teaches_nothing():
    x = torch.tensor([0.3, 0.3, 0.3, -2.0, -2.0, -2.0], dtype=F, requires_grad=True)
    desirable = torch.tensor([True, True, False] * 2)
    loss = loss_of(x, desirable, 0.1, 0.5, weights=(1.0, 2.0))
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.reshape(2, 3).sum(-1).abs().max() < 1e-15
    assert gradient.abs().min() > 0.01


def test_baseline_is_the_mean_never_below_zero_and_constant():
    x = torch.tensor([1.0, -0.5, 1.0], requires_grad=True)
    sums = mismatched_sums(x)
    assert sums.tolist() == [3, 1.5]
    assert not sums.requires_grad
    assert kl_baseline(sums).item() == 0.5
    assert kl_baseline(mismatched_sums(-x)).item() == 0
    assert not kl_baseline(sums.requires_grad_()).requires_grad


def test_the_baseline_of_a_step_is_that_of_its_sums_and_not_the_mean_of_its_parts():
    """Two micro-batches of mean -1 and 1: zero together, 1/2 if each were cut off at zero by itself."""
    parts = [mismatched_sums(torch.tensor([-1.0, -1.0])), mismatched_sums(torch.tensor([1.0, 1.0]))]
    assert kl_baseline(sum(parts)).item() == 0
    assert sum(kl_baseline(part).item() for part in parts) / 2 == 0.5


def test_metrics_by_hand():
    x = torch.tensor([1.0, 2.0, -4.0], requires_grad=True)
    given_ = {"log_ratio_sum": x, "baseline": torch.tensor(0.25, requires_grad=True), "beta": 0.5}
    found = kto_metrics(desirable=torch.tensor([True, True, False]), **given_)
    assert {name: sums.number() for name, sums in found.items()} == {
        "kl": 0.25,
        "rewards/chosen": 0.75,
        "rewards/rejected": -2.0,
        "rewards/margins": 2.75,
    }
    assert not any(part.requires_grad for sums in found.values() for part in sums.parts)
    one_kind = kto_metrics(desirable=torch.tensor([False] * 3), **given_)
    assert isnan(one_kind["rewards/chosen"].number())
    assert isnan(one_kind["rewards/margins"].number())
    assert one_kind["rewards/rejected"].number() == pytest.approx(-1 / 6)
