"""DPO against Bradley–Terry preferences on enumerated trees, and gradients written out."""

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_oreo import ragged

from oracles.tree import every_path, log_reference, random_tree, solve
from stepcredit.objectives.dpo import dpo_loss, dpo_metrics

F = torch.float64
nats = st.floats(-30, 30)


def expected_loss(tree, batch, log_pi, beta, asked):
    """The mean over all pairs (i, j) of responses, asked for with frequency `asked`, preferred as σ(R_i - R_j)."""
    log_ratio = log_pi[batch.node, batch.action] - log_reference(tree)[batch.node, batch.action]
    total = torch.where(batch.mask, log_ratio, 0.0).sum(-1)
    preferred = torch.sigmoid(batch.reward.sum(-1)[:, None] - batch.reward.sum(-1))
    i, j = torch.triu_indices(len(total), len(total), offset=1)
    first, second = (dpo_loss(chosen=total[a], rejected=total[b], beta=beta) for a, b in ((i, j), (j, i)))
    return (asked[i, j] * (preferred[i, j] * first + preferred[j, i] * second)).sum()


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize(("seed", "depth", "actions"), [(0, 2, 4), (1, 4, 2), (2, 3, 3)])
def test_closed_form_zeroes_the_gradient_of_the_expected_loss(beta, seed, depth, actions):
    """π* ∝ π_ref exp(R/β), whichever pairs are asked for; elsewhere there is a gradient, and more loss."""
    generator = torch.Generator().manual_seed(seed)
    tree = random_tree(generator, depth, actions)
    batch = every_path(tree, generator)
    asked = torch.rand(len(batch.node), len(batch.node), generator=generator, dtype=F)
    best = solve(tree, beta)[0].requires_grad_()
    at_best = expected_loss(tree, batch, best, beta, asked)
    at_best.backward()
    assert best.grad.abs().max() < 1e-12
    other = solve(tree, 2 * beta)[0].requires_grad_()
    elsewhere = expected_loss(tree, batch, other, beta, asked)
    elsewhere.backward()
    assert other.grad.abs().max() > 1e-3
    assert elsewhere > at_best


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_equal_the_written_out_ones_on_ragged_episodes(seed):
    """Rows 0 and 1 are the chosen ones, each against row 2; ∂L/∂ρ_t = ∓β σ(-margin) on actions, zero elsewhere."""
    log_ratio, _, _, step_id = ragged(seed)
    mask, beta = step_id >= 0, 0.7
    log_ratio.requires_grad_()
    total = torch.where(mask, log_ratio, 0.0).sum(-1)
    loss = dpo_loss(chosen=total[:2], rejected=total[2].expand(2), beta=beta)
    weight = torch.tensor([1.0, 10.0], dtype=F)
    (found,) = torch.autograd.grad((loss * weight).sum(), log_ratio)
    expected = torch.zeros_like(found)
    for row in range(2):
        sums = [sum(log_ratio[r, t].item() for t in range(mask.shape[1]) if mask[r, t]) for r in (row, 2)]
        margin = beta * (sums[0] - sums[1])
        assert loss[row].item() == pytest.approx(log(1 + exp(-margin)), rel=1e-12)
        slope = beta / (1 + exp(margin)) * weight[row]
        expected[row] -= torch.where(mask[row], slope, 0.0)
        expected[2] += torch.where(mask[2], slope, 0.0)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-12)


@given(nats, nats, nats, st.floats(0.01, 3))
def test_only_the_difference_counts_and_swapping_the_pair_costs_the_margin(chosen, rejected, shift, beta):
    a, b = torch.tensor([[chosen], [rejected]], dtype=F)
    loss = dpo_loss(chosen=a, rejected=b, beta=beta)
    torch.testing.assert_close(dpo_loss(chosen=a + shift, rejected=b + shift, beta=beta), loss)
    torch.testing.assert_close(dpo_loss(chosen=b, rejected=a, beta=beta) - loss, beta * (a - b), atol=1e-9, rtol=1e-9)


def test_at_the_reference_it_is_log_two_and_far_away_it_stays_finite():
    zero = torch.zeros(1)
    assert dpo_loss(chosen=zero, rejected=zero, beta=0.1).item() == pytest.approx(log(2))
    far = torch.tensor([1e4], requires_grad=True)
    loss = dpo_loss(chosen=-far, rejected=zero, beta=1.0)
    loss.sum().backward()
    assert loss.item() == 1e4
    assert far.grad.item() == 1


def test_metrics_by_hand():
    chosen = torch.tensor([1.0, 2.0, -3.0, 0.0], requires_grad=True)
    rejected = torch.tensor([0.0, 4.0, -5.0, 0.0], requires_grad=True)
    found = dpo_metrics(chosen=chosen, rejected=rejected, beta=0.5)
    assert {name: sums.number() for name, sums in found.items()} == {
        "rewards/chosen": 0.0,
        "rewards/rejected": -0.125,
        "rewards/accuracies": 0.5,
        "rewards/margins": 0.125,
    }
    assert not any(part.requires_grad for sums in found.values() for part in sums.parts)
