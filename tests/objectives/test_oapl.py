"""OAPL against the closed form on a bandit, hand-written gradients, and the response residual of OREO."""

import itertools
import math

import pytest
import torch

from stepcredit.objectives.oapl import group_value, oapl_loss, oapl_metrics
from stepcredit.objectives.oreo import oreo_policy_loss

F = torch.float64


def test_group_values_by_hand():
    assert group_value([0.5], 0.1) == 0.5
    assert group_value([1.0, 0.0], 1.0) == pytest.approx(math.log((math.e + 1) / 2))
    assert group_value([1.0, 0.0, 0.0, 0.0], 0.5) == pytest.approx(0.5 * math.log((math.exp(2) + 3) / 4))
    assert group_value([1.0, 0.0], 1e9) == pytest.approx(0.5)
    assert group_value([1.0, 0.0], 1e-3) == pytest.approx(1.0, abs=1e-3)
    assert group_value([1e4, 0.0], 1e-2) == pytest.approx(1e4 - 1e-2 * math.log(2))


def test_group_values_do_not_depend_on_the_order():
    returns = [0.1, 0.7, -0.3, 1.0, 0.2]
    assert len({group_value(list(order), 0.3) for order in itertools.permutations(returns)}) == 1


@pytest.mark.parametrize("beta", [0.03, 0.2, 1.0])
def test_the_closed_form_of_a_bandit_is_the_fixed_point(beta):
    """Responses in the shares that the reference gives them: 4, 3, 2 and 1 of 10, so that V̂ = V*."""
    counts, rewards = [4, 3, 2, 1], [0.0, 1.0, -0.5, 1.0]
    reference = torch.tensor(counts, dtype=F) / 10
    reward = torch.tensor(rewards, dtype=F)
    closed = torch.softmax(reference.log() + reward / beta, 0)
    drawn = [k for k, count in enumerate(counts) for _ in range(count)]
    value = torch.full((10,), group_value([rewards[k] for k in drawn], beta), dtype=F)
    logits = closed.log().requires_grad_()
    log_ratio = (logits.log_softmax(0) - reference.log())[drawn]
    losses = oapl_loss(log_ratio_sum=log_ratio, total_reward=reward[drawn], group_value=value, beta=beta)
    assert losses.max() < 1e-24
    losses.sum().backward()
    assert logits.grad.abs().max() < 1e-12


def test_descent_from_the_reference_reaches_the_closed_form():
    beta, rewards = 0.3, [0.0, 1.0, -0.5]
    reference = torch.tensor([0.5, 0.25, 0.25], dtype=F)
    drawn, reward = [0, 0, 1, 2], torch.tensor(rewards, dtype=F)
    value = torch.full((4,), group_value([rewards[k] for k in drawn], beta), dtype=F)
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(800):
        optimizer.zero_grad()
        ratio = (logits.log_softmax(0) - reference.log())[drawn]
        oapl_loss(log_ratio_sum=ratio, total_reward=reward[drawn], group_value=value, beta=beta).mean().backward()
        optimizer.step()
    closed = torch.softmax(reference.log() + reward / beta, 0)
    torch.testing.assert_close(logits.detach().softmax(0), closed, atol=1e-4, rtol=1e-4)


def inputs():
    return {
        "log_ratio_sum": torch.tensor([0.5, -2.0, 3.0], dtype=F),
        "total_reward": torch.tensor([1.0, 0.0, 1.0], dtype=F),
        "group_value": torch.tensor([0.7, 0.7, 0.2], dtype=F),
    }


def test_loss_and_gradient_by_hand():
    """Residuals 0.2·0.5 - 0.3, 0.2·-2 + 0.7 and 0.2·3 - 0.8; gradients 2 β residual."""
    given = inputs()
    given["log_ratio_sum"].requires_grad_()
    losses = oapl_loss(**given, beta=0.2)
    torch.testing.assert_close(losses, torch.tensor([0.04, 0.09, 0.04], dtype=F))
    losses.sum().backward()
    expected = torch.tensor([0.4 * -0.2, 0.4 * 0.3, 0.4 * -0.2], dtype=F)
    torch.testing.assert_close(given["log_ratio_sum"].grad, expected)


def test_it_is_the_response_residual_of_oreo_with_the_group_value_as_v():
    log_ratio = torch.tensor([[0.3, -0.2, 0.9], [1.0, 0.4, 0.0]], dtype=F)
    reward = torch.tensor([[0.1, 0.0, 1.0], [0.0, -0.5, 0.0]], dtype=F)
    segment_id = torch.tensor([[0, 0, 0], [0, 0, -1]])
    group = torch.tensor([0.6, 0.1], dtype=F)
    value = group[:, None].expand(2, 3).clone()
    oreo = oreo_policy_loss(value=value, log_ratio=log_ratio, reward=reward, segment_id=segment_id, beta=0.2)
    ours = oapl_loss(log_ratio_sum=log_ratio.sum(-1), total_reward=reward.sum(-1), group_value=group, beta=0.2)
    torch.testing.assert_close(ours, oreo)


def test_metrics_by_hand():
    """Advantages 0.3, -0.7 and 0.8; what β Σρ leaves of them 0.2, -0.3 and 0.2."""
    metrics = {name: sums.number() for name, sums in oapl_metrics(**inputs(), beta=0.2).items()}
    assert metrics["values/initial"] == pytest.approx(1.6 / 3)
    assert metrics["advantages/mean"] == pytest.approx(0.4 / 3)
    spread = (0.09 + 0.49 + 0.64) / 3 - (0.4 / 3) ** 2
    assert metrics["advantages/std"] == pytest.approx(math.sqrt(spread))
    left = (0.04 + 0.09 + 0.04) / 3 - (0.1 / 3) ** 2
    assert metrics["advantages/explained_variance"] == pytest.approx(1 - left / spread)
