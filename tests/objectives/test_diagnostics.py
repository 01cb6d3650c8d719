import torch

from stepcredit.objectives.diagnostics import value_metrics


def metrics(value):
    reward = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    ids = torch.tensor([[-1, 0, 1], [-1, 0, -1]])
    return value_metrics(value=value, log_ratio=torch.zeros(2, 3), reward=reward, segment_id=ids, beta=0.1)


def test_by_hand():
    """Targets 1, 1, 0; V 0.5, 1, 0.5. Errors 0.5, 0, -0.5: variance 1/6 against 2/9."""
    found = metrics(torch.tensor([[9.0, 0.5, 1.0], [9.0, 0.5, 9.0]]))
    assert abs(found["values/mean"].item() - (0.75 + 0.5) / 2) < 1e-6
    assert found["values/initial"].item() == 0.5
    assert abs(found["values/explained_variance"].item() - (1 - (1 / 6) / (2 / 9))) < 1e-6
    assert abs(found["advantages/mean"].item() - (0.5 + 0.0 - 0.5) / 3) < 1e-6


def test_a_perfect_value_explains_everything():
    found = metrics(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found["values/explained_variance"].item() == 1
