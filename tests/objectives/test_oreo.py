"""OREO against three oracles: the closed form on trees, hand-written gradients, and identities."""

import math

import pytest
import torch

from oracles import bellman as by_hand
from oracles.tree import every_path, log_reference, random_tree, solve
from stepcredit.objectives.bellman import first_of_segment, gather_segments, path_residual
from stepcredit.objectives.oreo import kl_penalty, oreo_policy_loss, oreo_value_loss, sampled_kl

F = torch.float64
LEVELS = {
    "token": ("token_id", "token_id"),
    "step": ("step_id", "step_id"),
    "response": ("response_id", "token_id"),
    "response/response": ("response_id", "response_id"),
}


def losses(tree, batch, log_pi, value, beta, level):
    policy_id, value_id = (getattr(batch, name) for name in LEVELS[level])
    ref = log_reference(tree)
    log_prob, ref_log_prob = log_pi[batch.node, batch.action], ref[batch.node, batch.action]
    log_ratio = torch.where(batch.mask, log_prob - ref_log_prob, 0.0)
    given = {"value": value[batch.node], "log_ratio": log_ratio, "reward": batch.reward, "beta": beta}
    return (
        oreo_policy_loss(segment_id=policy_id, **given).mean(),
        oreo_value_loss(segment_id=value_id, **given).mean(),
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("beta", [0.03, 0.1, 1.0])
@pytest.mark.parametrize(("seed", "depth", "actions"), [(0, 2, 4), (1, 4, 2), (2, 3, 3)])
def test_closed_form_zeroes_losses_and_gradients(level, beta, seed, depth, actions):
    generator = torch.Generator().manual_seed(seed)
    tree = random_tree(generator, depth, actions)
    batch = every_path(tree, generator)
    log_pi, value = (x.clone().requires_grad_() for x in solve(tree, beta))
    policy_loss, value_loss = losses(tree, batch, log_pi, value, beta, level)
    assert policy_loss.item() < 1e-24
    assert value_loss.item() < 1e-24
    (policy_loss + value_loss).backward()
    assert log_pi.grad.abs().max() < 1e-12
    assert value.grad.abs().max() < 1e-12


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("beta", [0.03, 0.1, 1.0])
def test_descent_from_the_reference_reaches_the_closed_form(level, beta):
    generator = torch.Generator().manual_seed(3)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    logits = log_reference(tree).clamp(min=-1e9).requires_grad_()
    value = torch.zeros(len(tree.nodes), dtype=F, requires_grad=True)
    optimizer = torch.optim.Adam([logits, value], lr=0.3)
    steps = 1500
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(losses(tree, batch, logits.log_softmax(-1), value, beta, level)).backward()
        optimizer.step()
        scheduler.step()
    best_log_pi, best_value = solve(tree, beta)
    assert (logits.log_softmax(-1).exp() - best_log_pi.exp()).abs().max() < 1e-3
    value_id = getattr(batch, LEVELS[level][1])
    read = torch.unique(batch.node[first_of_segment(value_id)])
    assert (value[read] - best_value[read]).abs().max() < 1e-3


def ragged(seed):
    """Three episodes by hand: prompt, observations in between, uneven steps, a per-step reward each."""
    generator = torch.Generator().manual_seed(seed)
    step_id = torch.tensor(
        [[-1, 0, 0, 1, -1, -1, 1, 2, -1], [-1, -1, 0, -1, -1, -1, -1, -1, -1], [-1, 0, 1, 1, 1, 2, 3, 3, 3]]
    )
    log_ratio, value, reward = torch.randn(3, *step_id.shape, generator=generator, dtype=F)
    mask = step_id >= 0
    return torch.where(mask, log_ratio, 0.0), value, torch.where(mask, reward, 0.0), step_id


def segment_ids(step_id, level):
    if level == "step":
        return step_id
    if level == "token":
        return torch.where(step_id >= 0, (step_id >= 0).cumsum(-1) - 1, -1)
    return torch.where(step_id >= 0, 0, -1)


@pytest.mark.parametrize("level", ["token", "step", "response"])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_equal_the_hand_written_ones_on_ragged_episodes(level, seed):
    log_ratio, value, reward, step_id = ragged(seed)
    segment_id, beta = segment_ids(step_id, level), 0.37
    log_ratio.requires_grad_()
    value.requires_grad_()
    given = {"value": value, "log_ratio": log_ratio, "reward": reward, "segment_id": segment_id}
    policy_loss, value_loss = oreo_policy_loss(**given, beta=beta), oreo_value_loss(**given, beta=beta)
    weight = torch.tensor([1.0, 10.0, 100.0], dtype=F)  # tells the episodes apart in the gradient
    d_policy = torch.autograd.grad((policy_loss * weight).sum(), [log_ratio, value], allow_unused=True)
    d_value = torch.autograd.grad((value_loss * weight).sum(), [value, log_ratio], allow_unused=True)
    assert d_policy[1] is None
    assert d_value[1] is None
    for row in range(3):
        ids = segment_id[row]
        where = [[t for t in range(len(ids)) if ids[t] == s] for s in range(int(ids.max()) + 1)]
        episode = [(value[row, at[0]].item(), log_ratio[row, at].tolist(), reward[row, at].tolist()) for at in where]
        loss, grad_value, grad_log_ratio = by_hand.oreo(episode, beta)
        expected_value, expected_log_ratio = torch.zeros(2, len(ids), dtype=F)
        for at, gv, gr in zip(where, grad_value, grad_log_ratio, strict=True):
            expected_value[at[0]] = gv
            expected_log_ratio[at] = gr
        torch.testing.assert_close(policy_loss[row].item(), loss)
        torch.testing.assert_close(value_loss[row].item(), loss)
        torch.testing.assert_close(d_policy[0][row], weight[row] * expected_log_ratio)
        torch.testing.assert_close(d_value[0][row], weight[row] * expected_value)


@pytest.mark.parametrize("seed", [0, 1])
def test_one_token_steps_are_the_token_level_and_one_segment_the_response_level(seed):
    log_ratio, value, reward, step_id = ragged(seed)
    mask = step_id >= 0
    given = {"value": value, "log_ratio": log_ratio, "reward": reward, "beta": 0.2}
    for loss in (oreo_policy_loss, oreo_value_loss):
        one_each = torch.where(mask, mask.cumsum(-1) - 1, -1)
        token = loss(segment_id=one_each, **given)
        assert not torch.allclose(token, loss(segment_id=step_id, **given))
        whole = loss(segment_id=torch.where(mask, 0, -1), **given)
        first = torch.tensor([row.nonzero()[0, 0] for row in mask])
        v = value[torch.arange(3), first]
        torch.testing.assert_close(whole, (v - reward.sum(-1) + 0.2 * log_ratio.sum(-1)).square())


def test_policy_and_value_loss_are_the_mean_squared_path_residual():
    log_ratio, value, reward, step_id = ragged(5)
    at = gather_segments(log_ratio, reward, value, step_id)
    expected = path_residual(at, 0.2).square().sum(-1) / at.mask.sum(-1)
    for loss in (oreo_policy_loss, oreo_value_loss):
        found = loss(value=value, log_ratio=log_ratio, reward=reward, segment_id=step_id, beta=0.2)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("normalizer", "rests_at"), [(None, 0.8), (4.0, 0.5)])
def test_where_v_comes_to_rest_in_a_state_whose_lost_episodes_are_the_long_ones(normalizer, rests_at):
    """Two episodes from one state: won at once, and lost after four segments; half are won. 1 / (1 + 1/4) = 0.8."""
    segment_id = torch.tensor([[0, -1, -1, -1], [0, 1, 2, 3]])
    reward, value = torch.zeros(2, 4, dtype=F), torch.zeros(2, 4, dtype=F)
    reward[0, 0] = 1.0
    value[:, 0] = rests_at
    value.requires_grad_()
    given = {"log_ratio": torch.zeros(2, 4, dtype=F), "reward": reward, "segment_id": segment_id, "beta": 0.1}
    oreo_value_loss(value=value, normalizer=normalizer, **given).sum().backward()
    torch.testing.assert_close(value.grad[:, 0].sum().item(), 0.0, atol=1e-12, rtol=0)
    assert value.grad[0, 0] != 0
    shares = oreo_policy_loss(value=value, normalizer=normalizer, **given)
    expected = [(1 - rests_at) ** 2 / (normalizer or 1), rests_at**2 / (normalizer or 4)]
    torch.testing.assert_close(shares.tolist(), expected)


def test_values_between_segment_starts_are_never_read():
    log_ratio, value, reward, step_id = ragged(2)
    other = torch.where(first_of_segment(step_id), value, value + 100)
    for loss in (oreo_policy_loss, oreo_value_loss):
        given = {"log_ratio": log_ratio, "reward": reward, "segment_id": step_id, "beta": 0.1}
        assert torch.equal(loss(value=value, **given), loss(value=other, **given))


def test_kl_penalty_is_the_mean_over_action_tokens():
    kl = torch.tensor([[5.0, 1.0, 2.0, 7.0]])
    mask = torch.tensor([[False, True, True, False]])
    assert kl_penalty(kl, mask).tolist() == [1.5]


@pytest.mark.parametrize("seed", [0, 1])
def test_sampled_kl_has_the_exact_kl_and_its_gradient_as_expectation_under_the_reference(seed):
    generator = torch.Generator().manual_seed(seed)
    logits, reference = torch.randn(2, 5, 11, generator=generator, dtype=F)  # 5 states, a vocabulary of 11
    logits.requires_grad_()
    log_pi, log_ref = logits.log_softmax(-1), reference.log_softmax(-1)
    estimate = sampled_kl(log_pi - log_ref)
    assert estimate.min() > 0
    found, exact = (log_ref.exp() * estimate).sum(-1), (log_pi.exp() * (log_pi - log_ref)).sum(-1)
    torch.testing.assert_close(found, exact, atol=1e-14, rtol=1e-13)
    weight = torch.arange(1.0, 6.0, dtype=F)  # tells the states apart
    gradients = [torch.autograd.grad((x * weight).sum(), logits, retain_graph=True)[0] for x in (found, exact)]
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=1e-12)
    assert gradients[1].abs().min() > 1e-4


def test_sampled_kl_by_hand():
    """At ρ = 0 nothing, exactly; at ρ = log 2: 2 log 2 - 1, slope ρ e^ρ; far below, e^ρ has gone and 1 is left."""
    log_2 = math.log(2)
    log_ratio = torch.tensor([[0.0, log_2, -1e4]], dtype=F, requires_grad=True)
    found = sampled_kl(log_ratio)
    found.sum().backward()
    assert found[0].tolist() == pytest.approx([0, 2 * log_2 - 1, 1], abs=1e-15)
    assert found[0, 0].item() == 0
    assert log_ratio.grad[0].tolist() == pytest.approx([0, 2 * log_2, 0], abs=1e-15)
    assert log_ratio.grad[0, 0].item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, F])
def test_sampled_kl_is_finite_and_equals_the_reference_where_that_is(dtype):
    """Single precision ends at e^88.7: ρ e^ρ fits up to 84, is exact up to 80 and stays what it is there above."""
    where = [-math.inf, -1000.0, -90.0, -1.0, 1e-3, 30.0, 80.0, 80.6, 90.0, 700.0]
    log_ratio = torch.tensor([where], dtype=dtype, requires_grad=True)
    found = sampled_kl(log_ratio)
    found.sum().backward()
    assert found.isfinite().all()
    assert log_ratio.grad.isfinite().all()
    reach = 80.657 if dtype is torch.float32 else 645.257
    for rho, value, slope in zip(where, found[0].tolist(), log_ratio.grad[0].tolist()):
        near = min(max(rho, -800.0), reach)
        assert value == pytest.approx(math.exp(near) * (near - 1) + 1, rel=0.01 if rho > reach else 2e-5, abs=1e-6)
        assert slope == pytest.approx(math.exp(near) * near, rel=0.01 if rho > reach else 2e-5, abs=1e-30)


def test_many_tokens_far_above_the_reference_have_a_finite_sum():
    log_ratio = torch.full((1, 32), 90.0, requires_grad=True)
    kl_penalty(sampled_kl(log_ratio), torch.ones(1, 32, dtype=torch.bool)).sum().backward()
    assert log_ratio.grad.isfinite().all()
    assert log_ratio.grad.min() > 1e34
