import pytest
import torch
from test_oreo import ragged

from oracles.tree import every_path, log_reference, random_tree, solve
from stepcredit.objectives.dro import dro_losses

F = torch.float64


def test_loss_and_gradient_by_hand_on_ragged_episodes():
    log_ratio, value, reward, step_id = ragged(3)
    mask, tau = step_id >= 0, 0.4
    log_ratio.requires_grad_()
    value.requires_grad_()
    policy, critic = dro_losses(value=value, log_ratio=log_ratio, reward=reward, action_mask=mask, tau=tau)
    d_policy = torch.autograd.grad(policy.sum(), [log_ratio, value], allow_unused=True)
    d_critic = torch.autograd.grad(critic.sum(), [value, log_ratio], allow_unused=True)
    assert d_policy[1] is None
    assert d_critic[1] is None
    for row in range(3):
        first = int(mask[row].nonzero()[0, 0])
        gap = (reward[row].sum() - value[row, first] - tau * log_ratio[row].sum()).item()
        assert critic[row].item() == pytest.approx(0.5 * gap**2)
        assert policy[row].item() == pytest.approx(0.5 * gap**2 / tau)
        expected = torch.where(mask[row], torch.tensor(-gap, dtype=F), 0.0)  # ∂/∂ρ of ½ gap²/τ = -gap
        torch.testing.assert_close(d_policy[0][row], expected)
        assert d_critic[0][row, first].item() == pytest.approx(-gap)
        assert d_critic[0][row].count_nonzero() == 1


@pytest.mark.parametrize("tau", [0.03, 1.0])
def test_closed_form_is_a_fixed_point(tau):
    generator = torch.Generator().manual_seed(2)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    log_pi, value = solve(tree, tau)
    log_ratio = log_pi[batch.node, batch.action] - log_reference(tree)[batch.node, batch.action]
    losses = dro_losses(
        value=value[batch.node],
        log_ratio=torch.where(batch.mask, log_ratio, 0.0),
        reward=batch.reward,
        action_mask=batch.mask,
        tau=tau,
    )
    assert max(x.max().item() for x in losses) < 1e-22
