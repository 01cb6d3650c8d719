"""V by classification: two-hot weights, hand-written gradients, and the mean targets of enumerated trees."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dqo import rows_of
from test_iql import SETTINGS, expectile_of, returns_from
from test_oreo import ragged, segment_ids

from oracles.tree import every_path, log_reference, random_tree, solve
from stepcredit.objectives.bellman import gather_segments, path_residual
from stepcredit.objectives.dqo import dqo_losses
from stepcredit.objectives.dro import dro_losses
from stepcredit.objectives.iql import iql_losses
from stepcredit.objectives.oreo import oreo_value_loss
from stepcredit.objectives.value_losses import Categorical, expected_value, squared, two_hot

F = torch.float64
BINS = torch.tensor([-1.0, -0.25, 0.5, 2.0], dtype=F)


def test_two_hot_weights_by_hand():
    weights = two_hot(torch.tensor([-1.0, -0.25, 0.125, 1.7, 2.0, -7.0, 9.0], dtype=F), BINS)
    expected = [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0.5, 0.5, 0],
        [0, 0, 0.2, 0.8],
        [0, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    ]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=F))


@given(st.lists(st.floats(-1.0, 2.0), min_size=1, max_size=6))
@settings(deadline=None)
def test_any_mean_within_the_bins_is_reproduced(targets):
    y = torch.tensor(targets, dtype=F, requires_grad=True)
    weights = two_hot(y, BINS)
    assert not weights.requires_grad
    assert (weights >= 0).all()
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(y.detach()))
    torch.testing.assert_close(weights @ BINS, y.detach())
    mean = weights.mean(0)
    assert expected_value(mean.log(), BINS).item() == pytest.approx(y.mean().item())


def test_v_is_in_single_precision_also_under_autocast_and_from_half():
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    bins = BINS.float()
    expected = expected_value(logits, bins)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = expected_value(logits, bins)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(expected_value(logits, BINS), expected)
    half = expected_value(logits.bfloat16(), bins)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected_value(logits.bfloat16().double(), BINS).float())


def test_bins_take_the_precision_of_the_targets():
    for own, wide in ((F, torch.float32), (torch.float32, F)):
        residual, first = torch.tensor([[-0.125]], dtype=own), torch.tensor([[0]])
        loss = Categorical(torch.zeros(1, 1, 4, dtype=own), BINS.to(wide))
        found = loss(residual, torch.zeros(1, 1, dtype=own), first)
        assert found.dtype == own
        assert found.item() == pytest.approx(math.log(4))


def test_a_return_that_v_meets_counts_as_above_it():
    """Half of a gradient would be missing otherwise, where squares have none: the loss is κ log 2."""
    logits, bins = torch.zeros(1, 1, 2, dtype=F), torch.tensor([0.0, 1.0], dtype=F)
    half, first = torch.full((1, 1), 0.5, dtype=F), torch.tensor([[0]])
    _, loss, _ = iql_losses(
        value=half, log_prob=-half, reward=half, segment_id=first, **SETTINGS, loss=Categorical(logits, bins)
    )
    assert loss.item() == pytest.approx(SETTINGS["expectile"] * math.log(2))


@pytest.mark.parametrize("level", ["token", "step", "response"])
def test_loss_and_gradient_equal_the_written_out_ones_on_ragged_episodes(level):
    log_ratio, _, reward, step_id = ragged(4)
    segment_id, beta = segment_ids(step_id, level), 0.37
    logits = torch.randn(*log_ratio.shape, 4, dtype=F, generator=torch.Generator().manual_seed(1), requires_grad=True)
    value = expected_value(logits, BINS)
    loss = oreo_value_loss(
        value=value, log_ratio=log_ratio, reward=reward, segment_id=segment_id, beta=beta,
        loss=Categorical(logits, BINS),
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    at = gather_segments(log_ratio, reward, value, segment_id)
    for row in range(3):
        r, rho, _ = rows_of(at, row)
        count = len(r)
        targets = [sum(r[s:]) - beta * sum(rho[s:]) for s in range(count)]
        first = {int(s): t for t, s in reversed(list(enumerate(segment_id[row].tolist()))) if s >= 0}
        total = 0.0
        for t, s in enumerate(segment_id[row].tolist()):
            if s < 0 or first[s] != t:
                assert gradient[row, t].abs().max() == 0
                continue
            weights = two_hot(torch.tensor(targets[s], dtype=F), BINS)
            log_prob = logits[row, t].detach().log_softmax(-1)
            total -= float((weights * log_prob).sum()) / count
            torch.testing.assert_close(gradient[row, t], (log_prob.exp() - weights) / count)
        assert loss[row].item() == pytest.approx(total)


def fitted(tree, batch, weights, loss_of, bins):
    """V of each node at the minimum of a weighted value loss over all paths, by Newton's method from zero logits."""
    logits = torch.zeros(len(tree.nodes), len(bins), dtype=F, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-11, tolerance_change=0, history_size=20,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimizer.zero_grad()
        at = logits[batch.node]
        value = loss_of(expected_value(at, bins), Categorical(at, bins))
        total = (weights * batch.mask.sum(-1) * value).sum()
        total.backward()
        return total

    for _ in range(3):
        optimizer.step(closure)
    return expected_value(logits.detach(), bins)


def path_probabilities(tree, batch):
    probability = torch.ones(len(batch.node), dtype=F)
    for row in range(len(batch.node)):
        for t in batch.mask[row].nonzero()[:, 0].tolist():
            probability[row] *= tree.nodes[int(batch.node[row, t])].ref_probs[int(batch.action[row, t])]
    return probability


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_at_the_optimal_policy_v_is_the_soft_value_of_the_tree(beta):
    """All soft returns from a state are V* there, and so is the mean of the bins."""
    generator = torch.Generator().manual_seed(1)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    log_pi, best = solve(tree, beta)
    log_ratio = torch.where(batch.mask, (log_pi - log_reference(tree))[batch.node, batch.action], 0.0)
    given = {"log_ratio": log_ratio, "reward": batch.reward, "segment_id": batch.token_id, "beta": beta}
    bins = torch.linspace(-1.5, 2.5, 9, dtype=F)
    found = fitted(tree, batch, path_probabilities(tree, batch),
                   lambda v, fit: oreo_value_loss(value=v, **given, loss=fit), bins)  # fmt: skip
    torch.testing.assert_close(found, best, atol=1e-5, rtol=0)


@pytest.mark.parametrize("expectile", [0.5, 0.8])
def test_the_mean_return_or_its_expectile_is_the_fixed_point_on_the_references_paths(expectile):
    """p is the mean of the two-hot weights of the returns, weighted by side of V; V is then their expectile."""
    generator = torch.Generator().manual_seed(2)
    tree = random_tree(generator, 3, 3)
    batch = every_path(tree, generator)
    bins = torch.linspace(-1.5, 2.5, 9, dtype=F)
    given = {"reward": batch.reward, "segment_id": batch.token_id, "log_prob": torch.zeros_like(batch.reward)}
    rows, expected = [], []
    for node in tree.nodes:
        weights, returns = zip(*returns_from(node))
        expected.append(expectile_of(returns, weights, expectile))
        sides = [w * (expectile if r > expected[-1] else 1 - expectile) for w, r in zip(weights, returns)]
        share = torch.tensor(sides, dtype=F) / sum(sides)
        rows.append((share[:, None] * two_hot(torch.tensor(returns, dtype=F), bins)).sum(0))
    logits = torch.stack(rows).clamp(min=1e-300).log().requires_grad_()
    torch.testing.assert_close(expected_value(logits, bins).detach(), torch.tensor(expected, dtype=F))
    at = logits[batch.node]
    fit = Categorical(at, bins)
    _, loss, _ = iql_losses(
        value=expected_value(at, bins), **given, **{**SETTINGS, "expectile": expectile, "lam": 1.0}, loss=fit
    )
    (path_probabilities(tree, batch) * batch.mask.sum(-1) * loss).sum().backward()
    assert logits.grad.abs().max() < 1e-12


def test_every_method_takes_it_and_squares_are_the_default():
    log_ratio, value, reward, step_id = ragged(3)
    given = {"value": value, "reward": reward}
    calls = {
        "oreo": lambda **more: oreo_value_loss(
            **given, log_ratio=log_ratio, segment_id=step_id, beta=0.2, normalizer=2.0, **more
        ),
        "dqo": lambda **more: dqo_losses(
            **given, log_ratio=log_ratio, segment_id=step_id, beta=0.2, lam=0.5, weight=torch.ones(3, dtype=F), **more
        )[1],
        "dro": lambda **more: dro_losses(**given, log_ratio=log_ratio, action_mask=step_id >= 0, tau=0.2, **more)[1],
        "iql": lambda **more: iql_losses(**given, log_prob=log_ratio, segment_id=step_id, **SETTINGS, **more)[1],
    }
    logits = torch.randn(*value.shape, 4, dtype=F, generator=torch.Generator().manual_seed(1))
    for name, call in calls.items():
        assert torch.equal(call(), call(loss=squared)), name
        seen = []

        def noted(residual, v, segment_id, seen=seen):
            seen.append((residual, v, segment_id))
            return Categorical(logits, BINS)(residual, v, segment_id)

        found = call(loss=noted)
        ((residual, v, segment_id),) = seen
        twice = call(loss=lambda r, v, s: 2 * Categorical(logits, BINS)(r, v, s))
        torch.testing.assert_close(twice, 2 * found)
        if name in ("oreo", "dro"):
            at = gather_segments(log_ratio, reward, value, segment_id)
            torch.testing.assert_close(residual, path_residual(at, 0.2))
        torch.testing.assert_close(v, gather_segments(log_ratio, reward, value, segment_id).value)
