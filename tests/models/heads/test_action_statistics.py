import math

import pytest
import torch

from stepcredit.models.heads.action_statistics import action_statistics

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


@pytest.mark.parametrize("dtype", [torch.float32, F])
def test_masked_vocabulary_and_far_apart_logits_are_finite_and_equal_the_reference(dtype):
    """Token 4 is masked in both, token 3 in the policy alone; at the last state both are 90 nats apart."""
    off = float("-inf")
    logits = torch.tensor([[[0.3, -1.0, 0.5, off, off], [1.0, 0.0, 0.0, off, off], [0.0, -90.0, 0.0, off, off]]])
    ref_logits = torch.tensor([[[0.1, 0.4, -0.2, 0.7, off], [0.0, 0.0, 1.0, 0.0, off], [-90.0, 0.0, 0.0, 0.0, off]]])
    logits = logits.to(dtype).requires_grad_()
    action, mask = torch.tensor([[0, 2, 0]]), torch.ones(1, 3, dtype=torch.bool)
    found = action_statistics(logits, ref_logits.to(dtype), action, mask)
    (found.log_prob.sum() + found.kl.sum()).backward()
    for t in range(3):
        p = logits.detach()[0, t].double().softmax(-1)
        log_ratio = (p.log() - ref_logits[0, t].double().log_softmax(-1)).tolist()
        taken = [(x, r) for x, r in zip(p.tolist(), log_ratio) if x > 0]
        kl = sum(x * r for x, r in taken)
        assert found.kl[0, t].item() == pytest.approx(kl, rel=1e-5)
        assert found.entropy[0, t].item() == pytest.approx(-sum(x * math.log(x) for x, _ in taken), rel=1e-5)
        chosen = torch.nn.functional.one_hot(action[0, t], 5).double()
        by_hand = [c - x + (x * (r - kl) if x > 0 else 0.0) for c, x, r in zip(chosen, p.tolist(), log_ratio)]
        torch.testing.assert_close(
            logits.grad[0, t].double(), torch.tensor(by_hand), atol=1e-5, rtol=1e-4, check_dtype=False
        )
    assert found.log_prob[0, 2] - found.ref_log_prob[0, 2] > 89


def test_what_the_reference_cannot_say_is_infinitely_far():
    logits = torch.zeros(1, 1, 2)
    found = action_statistics(
        logits, torch.tensor([[[0.0, float("-inf")]]]), torch.tensor([[0]]), torch.tensor([[True]])
    )
    assert found.kl.item() == math.inf
