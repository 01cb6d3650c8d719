import torch

from stepcredit.objectives.likelihood import negative_log_likelihood


def test_sum_over_action_tokens_and_gradient_on_them_alone():
    log_prob = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]], requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    loss = negative_log_likelihood(log_prob, mask)
    assert loss.tolist() == [5, 6]
    loss.sum().backward()
    assert log_prob.grad.tolist() == [[0, -1, -1], [0, 0, -1]]
