import torch

from stepcredit.models.statistics import action_statistics

F = torch.float64


def example():
    generator = torch.Generator().manual_seed(0)
    logits, ref_logits = torch.randn(2, 2, 3, 5, generator=generator, dtype=F)
    action = torch.randint(5, (2, 3), generator=generator)
    mask = torch.tensor([[False, True, True], [True, False, True]])
    return logits.requires_grad_(), ref_logits.requires_grad_(), action, mask


def test_against_loops_over_the_vocabulary():
    logits, ref_logits, action, mask = example()
    found = action_statistics(logits, ref_logits, action, mask)
    for b in range(2):
        for t in range(3):
            p, q = logits[b, t].softmax(-1).tolist(), ref_logits[b, t].softmax(-1).tolist()
            on, a = bool(mask[b, t]), int(action[b, t])
            expected = {
                "log_prob": torch.tensor(p[a], dtype=F).log(),
                "ref_log_prob": torch.tensor(q[a], dtype=F).log(),
                "kl": sum(x * torch.tensor(x / y, dtype=F).log() for x, y in zip(p, q)),
                "entropy": -sum(x * torch.tensor(x, dtype=F).log() for x in p),
            }
            for name, number in expected.items():
                torch.testing.assert_close(getattr(found, name)[b, t], number if on else torch.zeros((), dtype=F))


def test_gradients_reach_the_policy_at_states_of_actions_alone():
    logits, ref_logits, action, mask = example()
    found = action_statistics(logits, ref_logits, action, mask)
    (found.log_prob.sum() + found.kl.sum()).backward()
    assert ref_logits.grad is None
    assert (logits.grad.abs().sum(-1) > 0).tolist() == mask.tolist()
    p, q = logits.detach().softmax(-1), ref_logits.detach().softmax(-1)
    ratio = (p / q).log()
    kl = (p * ratio).sum(-1, keepdim=True)
    by_hand = torch.nn.functional.one_hot(action, 5) - p + p * (ratio - kl)
    torch.testing.assert_close(logits.grad[mask], by_hand[mask])


def test_bf16_logits_are_widened():
    logits, ref_logits, action, mask = example()
    found = action_statistics(logits.bfloat16(), ref_logits.bfloat16(), action, mask)
    assert found.log_prob.dtype == torch.float32
    without = action_statistics(logits, None, action, mask)
    assert without.kl is None
    assert without.ref_log_prob is None
