"""IQL against expectiles of enumerated trees, returns written out, hand-written gradients, and DQO's λ-return."""

import math

import pytest
import torch
from test_dqo import rows_of, written_out
from test_oreo import ragged, segment_ids

from oracles.tree import every_path, random_tree
from stepcredit.objectives.bellman import gather_segments
from stepcredit.objectives.dqo import dqo_losses, lambda_return
from stepcredit.objectives.iql import iql_losses

F = torch.float64
SETTINGS = {"beta": 0.4, "expectile": 0.7, "lam": 0.9, "max_weight": 3.0}


def expectile_of(numbers, weights, level):
    """The m at which κ Σ w (x - m)⁺ = (1 - κ) Σ w (m - x)⁺, by bisection."""
    low, high = min(numbers), max(numbers)
    for _ in range(200):
        middle = (low + high) / 2
        pull = sum(w * (level if x > middle else 1 - level) * (x - middle) for x, w in zip(numbers, weights))
        low, high = (middle, high) if pull > 0 else (low, middle)
    return (low + high) / 2


def solved(tree, level):
    """V of each node for one-step targets of actions drawn from the reference, by recursion."""
    value = torch.zeros(len(tree.nodes), dtype=F)
    for node in reversed(tree.nodes):
        q = [r + (0.0 if c is None else float(value[c.index])) for r, c in zip(node.rewards, node.children)]
        value[node.index] = expectile_of(q, node.ref_probs, level)
    return value


def weighted(tree, batch, value, level, lam):
    """The value loss over all paths, each with the probability of its actions under the reference."""
    probability = torch.ones(len(batch.node), dtype=F)
    for row in range(len(batch.node)):
        for t in batch.mask[row].nonzero()[:, 0].tolist():
            probability[row] *= tree.nodes[int(batch.node[row, t])].ref_probs[int(batch.action[row, t])]
    _, losses, _ = iql_losses(
        value=value[batch.node],
        log_prob=torch.zeros_like(batch.reward),
        reward=batch.reward,
        segment_id=batch.token_id,
        beta=1.0,
        expectile=level,
        lam=lam,
        max_weight=10.0,
    )
    return (probability * batch.mask.sum(-1) * losses).sum()  # sums over segments, not means


def returns_from(node):
    """The return of every path from a node, with its probability."""
    out = []
    for p, r, child in zip(node.ref_probs, node.rewards, node.children):
        out += [(p * q, r + later) for q, later in ([(1.0, 0.0)] if child is None else returns_from(child))]
    return out


@pytest.mark.parametrize("level", [0.3, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("seed", [0, 1])
def test_expectiles_of_one_step_targets_are_the_fixed_point(level, seed):
    generator = torch.Generator().manual_seed(seed)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    value = solved(tree, level).requires_grad_()
    weighted(tree, batch, value, level, lam=0.0).backward()
    assert value.grad.abs().max() < 1e-12
    moved = (value.detach() + 0.1 * torch.rand(len(value), generator=generator, dtype=F)).requires_grad_()
    weighted(tree, batch, moved, level, lam=0.0).backward()
    assert (moved.grad.abs() > 1e-5).all()


@pytest.mark.parametrize("level", [0.5, 0.7, 1 - 1e-9])
def test_full_returns_give_their_mean_expectile_and_best(level):
    generator = torch.Generator().manual_seed(2)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    value = torch.zeros(len(tree.nodes), dtype=F)
    for node in tree.nodes:
        weights, returns = zip(*returns_from(node))
        value[node.index] = expectile_of(returns, weights, level)
        mean = sum(w * r for w, r in zip(weights, returns))
        if level == 0.5:
            assert value[node.index].item() == pytest.approx(mean)
        elif level > 0.9:
            assert value[node.index].item() == pytest.approx(max(returns), abs=1e-6)
        else:
            assert mean < value[node.index].item() < max(returns)
    value.requires_grad_()
    weighted(tree, batch, value, level, lam=1.0).backward()
    assert value.grad.abs().max() < 1e-12


@pytest.mark.parametrize("level", ["token", "step", "response"])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("expectile", [0.5, 0.8])
def test_losses_and_gradients_equal_the_written_out_ones_on_ragged_episodes(level, lam, expectile):
    log_prob, value, reward, step_id = ragged(4)
    segment_id = segment_ids(step_id, level)
    log_prob.requires_grad_()
    value.requires_grad_()
    given = {**SETTINGS, "lam": lam, "expectile": expectile}
    policy, critic, metrics = iql_losses(value=value, log_prob=log_prob, reward=reward, segment_id=segment_id, **given)
    d_policy = torch.autograd.grad(policy.sum(), [log_prob, value], allow_unused=True)
    d_critic = torch.autograd.grad(critic.sum(), [value, log_prob], allow_unused=True)
    assert d_policy[1] is None
    assert d_critic[1] is None
    at = gather_segments(log_prob, reward, value, segment_id)
    weights = []
    for row in range(3):
        r, own, v = rows_of(at, row)
        count = len(r)
        error = [written_out(r, own, v, s, 0.0, lam) - v[s] for s in range(count)]
        weight = [min(math.exp(e / given["beta"]), given["max_weight"]) for e in error]
        pull = [expectile if e > 0 else 1 - expectile for e in error]
        weights += weight
        assert policy[row].item() == pytest.approx(-sum(w * x for w, x in zip(weight, own)) / count)
        assert critic[row].item() == pytest.approx(sum(p * e * e for p, e in zip(pull, error)) / count)
        first = {int(s): t for t, s in reversed(list(enumerate(segment_id[row].tolist()))) if s >= 0}
        for t, s in enumerate(segment_id[row].tolist()):
            assert d_policy[0][row, t].item() == pytest.approx(-weight[s] / count if s >= 0 else 0.0)
            expected = -2 * pull[s] * error[s] / count if s >= 0 and first[s] == t else 0.0
            assert d_critic[0][row, t].item() == pytest.approx(expected)
    share = sum(weights) ** 2 / (len(weights) * sum(w * w for w in weights))
    assert metrics["weights/effective_share"].number() == pytest.approx(share)
    clipped = sum(w == given["max_weight"] for w in weights) / len(weights)
    assert metrics["weights/clipped"].number() == pytest.approx(clipped)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_at_one_half_the_value_loss_is_half_of_dqos_without_its_kl(lam):
    log_prob, value, reward, step_id = ragged(1)
    given = {"value": value, "reward": reward, "segment_id": step_id}
    _, critic, _ = iql_losses(**given, log_prob=log_prob, **{**SETTINGS, "lam": lam, "expectile": 0.5})
    _, theirs = dqo_losses(**given, log_ratio=log_prob, weight=torch.ones(3, dtype=F), beta=0.0, lam=lam)
    torch.testing.assert_close(critic, theirs / 2, atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_advantage_is_the_generalised_one(lam):
    """G^λ - V = Σ_l λ^l δ_{s+l}; at λ = 0 the one-step advantage r + V(s') - V(s)."""
    _, value, reward, step_id = ragged(2)
    at = gather_segments(torch.zeros_like(value), reward, value, step_id)
    advantage = lambda_return(at, 0.0, lam) - at.value
    for row in range(3):
        r, _, v = rows_of(at, row)
        delta = [r[s] + (v[s + 1] if s + 1 < len(r) else 0.0) - v[s] for s in range(len(r))]
        expected = [sum(lam**k * delta[s + k] for k in range(len(r) - s)) for s in range(len(r))]
        assert advantage[row, : len(r)].tolist() == pytest.approx(expected)


def test_a_large_advantage_does_not_overflow():
    value = torch.zeros(1, 2)
    log_prob = torch.tensor([[-1.0, -2.0]])
    reward = torch.tensor([[0.0, 1e6]])
    segment_id = torch.tensor([[0, 1]])
    given = {"beta": 1e-3, "expectile": 0.7, "lam": 1.0, "max_weight": 100.0}
    policy, _, metrics = iql_losses(value=value, log_prob=log_prob, reward=reward, segment_id=segment_id, **given)
    assert policy.item() == pytest.approx(150.0)
    assert metrics["weights/clipped"].number() == 1.0
    lost, _, _ = iql_losses(value=value, log_prob=log_prob, reward=-reward, segment_id=segment_id, **given)
    assert lost.item() == 0.0


def test_a_weight_at_its_bound_is_not_clipped():
    given = {"beta": 1.0, "expectile": 0.7, "lam": 1.0, "max_weight": 1.0}
    one = torch.zeros(1, 1, dtype=F)
    policy, _, metrics = iql_losses(
        value=one, log_prob=one - 1, reward=one, segment_id=torch.zeros(1, 1, dtype=torch.long), **given
    )
    assert policy.item() == 1.0
    assert metrics["weights/clipped"].number() == 0.0
