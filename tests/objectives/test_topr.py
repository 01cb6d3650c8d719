"""TOPR against SFT, REINFORCE, an equilibrium worked by hand, a tree, and gradients written out."""

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_oreo import ragged

from oracles.tree import every_path, log_reference, random_tree
from stepcredit.objectives.likelihood import negative_log_likelihood
from stepcredit.objectives.topr import topr_loss

F = torch.float64


@pytest.mark.parametrize("right", [[True, False, False], [False, True, False], [False, False, True]])
def test_loss_and_gradient_equal_the_written_out_ones_on_ragged_episodes(right):
    """Log-probabilities are garbage outside actions; there are ratios on both sides of 1."""
    mask = ragged(0)[3] >= 0
    generator = torch.Generator().manual_seed(1)
    log_prob, behavior = -torch.rand(2, *mask.shape, generator=generator, dtype=F)
    behavior += torch.where(mask, 0.0, torch.inf)
    log_prob[0] -= 0.5
    log_prob.requires_grad_()
    behavior.requires_grad_()
    loss = topr_loss(log_prob=log_prob, behavior_log_prob=behavior, action_mask=mask, right=torch.tensor(right))
    apart = torch.tensor([1.0, 10.0, 100.0], dtype=F)
    found, to_behavior = torch.autograd.grad((loss * apart).sum(), [log_prob, behavior], allow_unused=True)
    assert to_behavior is None
    ratios = []
    for row in range(3):
        here = [t for t in range(mask.shape[1]) if mask[row, t]]
        total = sum(log_prob[row, t].item() for t in here)
        ratios.append(exp(total - sum(behavior[row, t].item() for t in here)))
        weight = -1.0 if right[row] else min(ratios[-1], 1.0)
        assert loss[row].item() == pytest.approx(weight * total, rel=1e-12)
        torch.testing.assert_close(found[row], torch.where(mask[row], apart[row] * weight, 0.0), rtol=1e-12, atol=0)
    assert min(ratios) < 0.9
    assert max(ratios) > 1.1


def test_only_right_ones_is_sft():
    log_prob, behavior, _, step_id = ragged(2)
    found = topr_loss(
        log_prob=log_prob, behavior_log_prob=behavior, action_mask=step_id >= 0, right=torch.ones(3, dtype=torch.bool)
    )
    assert torch.equal(found, negative_log_likelihood(log_prob, step_id >= 0))


def test_on_policy_its_gradient_is_that_of_reinforce():
    """On every path of a tree, weighted by π = μ: -∇ Σ_y π(y) R(y) with R = 1 or -1, differentiated exactly."""
    generator = torch.Generator().manual_seed(0)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    right = torch.rand(len(batch.node), generator=generator) < 0.5
    logits = log_reference(tree).clamp(min=-1e9).requires_grad_()
    log_prob = torch.where(batch.mask, logits.log_softmax(-1)[batch.node, batch.action], 0.0)
    chance = log_prob.sum(-1).exp()
    loss = topr_loss(log_prob=log_prob, behavior_log_prob=log_prob, action_mask=batch.mask, right=right)
    (found,) = torch.autograd.grad((chance.detach() * loss).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(chance * torch.where(right, 1.0, -1.0)).sum(), logits)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=1e-12)
    assert expected.abs().max() > 0.01


def test_an_equilibrium_worked_by_hand():
    """Two prompts that one coin answers, heads with p = 1/4; μ tossed a fair one. Heads is right for the first
    prompt (5 heads, 5 tails seen) and wrong for the second (8 and 8).

    ∂log p = 3/4 and ∂log(1-p) = -1/4 in the logit; the ratios are 1/2 for heads and 3/2, cut to 1, for tails:
    -5·3/4 + 5·1·(-1/4) - 8·(-1/4) + 8·1/2·3/4 = -15/4 - 5/4 + 2 + 3 = 0.
    """
    logit = torch.tensor(-log(3), dtype=F, requires_grad=True)
    heads, tails = torch.nn.functional.logsigmoid(logit), torch.nn.functional.logsigmoid(-logit)
    log_prob = torch.stack([heads] * 5 + [tails] * 5 + [tails] * 8 + [heads] * 8)[:, None]
    right = torch.tensor([True] * 5 + [False] * 5 + [True] * 8 + [False] * 8)
    behavior, mask = torch.full_like(log_prob, log(0.5)), torch.ones(26, 1, dtype=torch.bool)
    topr_loss(log_prob=log_prob, behavior_log_prob=behavior, action_mask=mask, right=right).sum().backward()
    assert abs(logit.grad.item()) < 1e-14


def test_descent_ends_at_the_right_responses_in_the_proportions_seen():
    """One prompt, two right responses and a wrong one: π(wrong) → 0 and π(right) ∝ μ, with the gradient gone."""
    log_mu = torch.tensor([0.3, 0.1, 0.6], dtype=F).log()
    right, mask = torch.tensor([True, True, False]), torch.ones(3, 1, dtype=torch.bool)

    def gradient(logits):
        logits = logits.detach().requires_grad_()
        loss = topr_loss(
            log_prob=logits.log_softmax(-1)[:, None], behavior_log_prob=log_mu[:, None], action_mask=mask, right=right
        )
        return torch.autograd.grad((log_mu.exp() * loss).sum(), logits)[0]

    logits = log_mu.clone()
    for _ in range(1000):
        logits = logits - 3 * gradient(logits)
    assert (logits.softmax(-1) - torch.tensor([0.75, 0.25, 0.0], dtype=F)).abs().max() < 1e-3
    assert gradient(torch.tensor([log(0.75), log(0.25), -800.0], dtype=F)).abs().max() < 1e-15


def test_ratios_far_from_one_stay_finite():
    """In float32 e^1000 overflows and e^-1000 vanishes: the weights are 1 and 0."""
    log_prob = torch.tensor([[-1.0], [-1001.0]], requires_grad=True)
    behavior = torch.tensor([[-1001.0], [-1.0]])
    mask, wrong = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    loss = topr_loss(log_prob=log_prob, behavior_log_prob=behavior, action_mask=mask, right=wrong)
    loss.sum().backward()
    assert loss.tolist() == [-1, 0]
    assert log_prob.grad.tolist() == [[1], [0]]


@given(st.lists(st.floats(-5, 0), min_size=2, max_size=6), st.floats(-5, 0), st.booleans())
def test_how_the_log_probability_is_spread_over_tokens_does_not_matter(tokens, mu, right):
    """The ratio is of responses: one token with the sum is the same as the tokens."""
    spread = torch.tensor([tokens], dtype=F)
    behavior = torch.nn.functional.pad(torch.tensor([[mu]], dtype=F), (0, len(tokens) - 1))
    verdict = torch.tensor([right])
    whole = topr_loss(
        log_prob=spread.sum(-1, keepdim=True),
        behavior_log_prob=behavior.sum(-1, keepdim=True),
        action_mask=torch.ones(1, 1, dtype=torch.bool),
        right=verdict,
    )
    found = topr_loss(
        log_prob=spread,
        behavior_log_prob=behavior,
        action_mask=torch.ones_like(spread, dtype=torch.bool),
        right=verdict,
    )
    torch.testing.assert_close(found, whole)
