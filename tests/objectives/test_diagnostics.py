from math import isnan

import pytest
import torch

from stepcredit.objectives.diagnostics import value_metrics


def metrics(value):
    reward = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    ids = torch.tensor([[-1, 0, 1], [-1, 0, -1]])
    return value_metrics(value=value, log_ratio=torch.zeros(2, 3), reward=reward, segment_id=ids, beta=0.1)


def test_by_hand():
    """Targets 1, 1, 0; V 0.5, 1, 0.5. Errors 0.5, 0, -0.5: variance 1/6 against 2/9."""
    found = metrics(torch.tensor([[9.0, 0.5, 1.0], [9.0, 0.5, 9.0]]))
    assert abs(found["values/mean"].number() - (0.75 + 0.5) / 2) < 1e-6
    assert found["values/initial"].number() == 0.5
    assert abs(found["values/explained_variance"].number() - (1 - (1 / 6) / (2 / 9))) < 1e-6
    assert abs(found["advantages/mean"].number() - (0.5 + 0.0 - 0.5) / 3) < 1e-6
    assert abs(found["advantages/std"].number() - (0.5 / 3) ** 0.5) < 1e-6


def test_the_target_is_the_soft_return():
    """β = 0.5: targets 1 - 0.5 (2 + 4) = -2 and 1 - 0.5 · 4 = -1; V is right about both, 7 and 8 lie outside."""
    found = value_metrics(
        value=torch.tensor([[7.0, -2.0, -1.0, 8.0]], requires_grad=True),
        log_ratio=torch.tensor([[9.0, 2.0, 4.0, 9.0]], requires_grad=True),
        reward=torch.tensor([[0.0, 0.0, 1.0, 0.0]]),
        segment_id=torch.tensor([[-1, 0, 1, -1]]),
        beta=0.5,
    )
    assert {name: sums.number() for name, sums in found.items()} == {
        "values/mean": -1.5,
        "values/initial": -2,
        "values/explained_variance": 1,
        "advantages/mean": 1.5,
        "advantages/std": 0.5,
    }
    assert not any(part.requires_grad for sums in found.values() for part in sums.parts)


def test_nothing_is_explained_where_targets_do_not_vary():
    given = {"log_ratio": torch.zeros(2, 1), "reward": torch.ones(2, 1), "segment_id": torch.zeros(2, 1).long()}
    found = value_metrics(value=torch.tensor([[0.0], [1.0]]), beta=0.1, **given)
    assert isnan(found["values/explained_variance"].number())


def test_a_perfect_value_explains_everything():
    found = metrics(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found["values/explained_variance"].number() == 1


@pytest.mark.parametrize(
    ("bins", "share"), [([-2.0, 0.0, 1.0], 0.0), ([-1.5, 1.0], 0.2), ([-2.0, 0.5], 0.6), ([0.1, 0.2, 0.9], 1.0)]
)
def test_targets_outside_the_bins_are_counted(bins, share):
    """Targets 1, 1, 1, -2 and 0; one at the first or last bin is within."""
    found = value_metrics(
        value=torch.zeros(2, 3),
        log_ratio=torch.zeros(2, 3),
        reward=torch.tensor([[0.0, 0.0, 1.0], [-2.0, 0.0, 5.0]]),
        segment_id=torch.tensor([[0, 1, 2], [0, 1, -1]]),
        beta=0.5,
        bins=bins,
    )
    assert found["values/outside_range"].number() == pytest.approx(share)
