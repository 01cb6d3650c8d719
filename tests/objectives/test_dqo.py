"""DQO against n-step returns written out, OREO, the closed form on trees, and hand-written gradients."""

import pytest
import torch
from test_oreo import ragged, segment_ids

from oracles.tree import every_path, log_reference, random_tree, solve
from stepcredit.objectives.bellman import gather_segments
from stepcredit.objectives.dqo import dqo_losses, lambda_return, trajectory_weight
from stepcredit.objectives.oreo import oreo_policy_loss, oreo_value_loss

F = torch.float64


def n_step(r, rho, v, t, n, beta):
    end = len(r)
    total = sum(r[t + k] - beta * rho[t + k] for k in range(n))
    return total + (v[t + n] if t + n < end else 0.0)


def written_out(r, rho, v, t, beta, lam):
    length = len(r)
    mixed = sum((1 - lam) * lam ** (n - 1) * n_step(r, rho, v, t, n, beta) for n in range(1, length - t))
    return mixed + lam ** (length - t - 1) * n_step(r, rho, v, t, length - t, beta)


def rows_of(at, row):
    count = int(at.mask[row].sum())
    return [x[row, :count].tolist() for x in (at.reward, at.log_ratio, at.value)]


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("level", ["token", "step", "response"])
def test_lambda_returns_and_losses_equal_the_written_out_ones_on_ragged_episodes(lam, level):
    log_ratio, value, reward, step_id = ragged(4)
    segment_id, beta = segment_ids(step_id, level), 0.37
    weight = torch.tensor([0.5, 2.0, 1.5], dtype=F)
    log_ratio.requires_grad_()
    value.requires_grad_()
    at = gather_segments(log_ratio, reward, value, segment_id)
    returns = lambda_return(at, beta, lam)
    policy, critic = dqo_losses(
        value=value, log_ratio=log_ratio, reward=reward, segment_id=segment_id, weight=weight, beta=beta, lam=lam
    )
    d_policy = torch.autograd.grad(policy.sum(), [log_ratio, value], allow_unused=True)
    d_critic = torch.autograd.grad(critic.sum(), [value, log_ratio], allow_unused=True)
    assert d_policy[1] is None
    assert d_critic[1] is None
    for row in range(3):
        r, rho, v = rows_of(at, row)
        count = len(r)
        g = [written_out(r, rho, v, t, beta, lam) for t in range(count)] + [0.0]
        torch.testing.assert_close(returns[row, :count].tolist(), g[:count])
        policy_residual = [beta * rho[t] - (r[t] + g[t + 1] - v[t]) for t in range(count)]
        value_residual = [v[t] - g[t] for t in range(count)]
        w = weight[row].item() / count
        assert policy[row].item() == pytest.approx(w * sum(x * x for x in policy_residual))
        assert critic[row].item() == pytest.approx(w * sum(x * x for x in value_residual))
        first = {int(s): t for t, s in reversed(list(enumerate(segment_id[row].tolist()))) if s >= 0}
        for t, s in enumerate(segment_id[row].tolist()):
            expected = 2 * beta * w * policy_residual[s] if s >= 0 else 0.0
            assert d_policy[0][row, t].item() == pytest.approx(expected)
            expected = 2 * w * value_residual[s] if s >= 0 and first[s] == t else 0.0
            assert d_critic[0][row, t].item() == pytest.approx(expected)


@pytest.mark.parametrize("level", ["token", "step", "response"])
def test_lambda_one_and_weight_one_is_oreo_without_its_kl(level):
    log_ratio, value, reward, step_id = ragged(1)
    log_ratio.requires_grad_()
    value.requires_grad_()
    given = {"value": value, "log_ratio": log_ratio, "reward": reward, "segment_id": segment_ids(step_id, level)}
    dqo = dqo_losses(**given, weight=torch.ones(3, dtype=F), beta=0.2, lam=1.0)
    oreo = oreo_policy_loss(**given, beta=0.2), oreo_value_loss(**given, beta=0.2)
    for found, expected in zip(dqo, oreo):
        torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-14)
        gradients = [torch.autograd.grad(x.sum(), [log_ratio, value], allow_unused=True) for x in (found, expected)]
        for a, b in zip(*gradients):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.03, 1.0])
def test_closed_form_is_a_fixed_point(lam, beta):
    generator = torch.Generator().manual_seed(0)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    log_pi, value = (x.clone().requires_grad_() for x in solve(tree, beta))
    log_ratio = log_pi[batch.node, batch.action] - log_reference(tree)[batch.node, batch.action]
    losses = dqo_losses(
        value=value[batch.node],
        log_ratio=torch.where(batch.mask, log_ratio, 0.0),
        reward=batch.reward,
        segment_id=batch.token_id,
        weight=torch.rand(len(batch.node), generator=generator, dtype=F),
        beta=beta,
        lam=lam,
    )
    assert max(x.max().item() for x in losses) < 1e-24
    sum(x.sum() for x in losses).backward()
    assert max(log_pi.grad.abs().max(), value.grad.abs().max()) < 1e-12


def test_no_gradient_reaches_the_weight():
    log_ratio, value, reward, step_id = ragged(0)
    weight = torch.ones(3, dtype=F, requires_grad=True)
    given = {"value": value, "log_ratio": log_ratio, "reward": reward, "segment_id": step_id, "weight": weight}
    assert not any(loss.requires_grad for loss in dqo_losses(**given, beta=0.2, lam=0.5))


def test_weights_by_hand():
    log_prob = torch.tensor([[0.0, -1.0, -1.0], [5.0, -0.1, 5.0], [0.0, -3.0, -3.0]], requires_grad=True)
    behavior = torch.tensor([[0.0, -1.5, -1.0], [0.0, -4.0, 0.0], [0.0, -1.0, -2.0]])
    mask = torch.tensor([[False, True, True], [False, True, False], [False, True, True]])
    weight = trajectory_weight(log_prob, behavior, mask)
    assert not weight.requires_grad
    torch.testing.assert_close(weight.log(), torch.tensor([0.5, 1.0, -3.0]))
