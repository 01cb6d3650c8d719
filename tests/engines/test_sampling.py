import numpy as np
import pytest
import torch

from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.sampling import choose, warpers
from stepcredit.errors import InputError

PROBS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def draw(noise, **given):
    params = SamplingParams(max_new_tokens=1, **given)
    logits = PROBS.log().expand(len(noise), 3)
    return choose(logits, torch.tensor(noise, dtype=torch.float64), warpers(params))


def test_inverse_of_the_cumulative_sum():
    token, log_prob = draw([0.0, 0.499, 0.501, 0.799, 0.801, 0.999999])
    assert token.tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(log_prob.exp(), PROBS[token])


def test_frequencies_follow_the_temperature():
    noise = (np.arange(10_000) + 0.5) / 10_000
    token, log_prob = draw(noise.tolist(), temperature=0.5)
    expected = PROBS.square() / PROBS.square().sum()
    torch.testing.assert_close(torch.bincount(token) / 10_000, expected.float(), atol=2e-4, rtol=0)
    torch.testing.assert_close(log_prob.exp(), expected[token])


def test_filters_leave_the_likely_ones():
    assert draw([0.99], top_k=2)[0].tolist() == [1]
    assert draw([0.99], top_p=0.4)[0].tolist() == [0]
    torch.testing.assert_close(draw([0.1], top_k=2)[1].exp(), torch.tensor([0.625], dtype=torch.float64))


def test_greedy_takes_the_first_of_equals():
    token, log_prob = choose(torch.tensor([[1.0, 2.0, 2.0]]), None, warpers(SamplingParams(1, temperature=0.0)))
    assert token.tolist() == [1]
    assert log_prob.item() == pytest.approx(np.log(1 / (2 + np.exp(-1))))


@pytest.mark.parametrize(
    "given", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1}]
)
def test_out_of_range(given):
    with pytest.raises(InputError, match=next(iter(given))):
        SamplingParams(**{"max_new_tokens": 1, **given})
