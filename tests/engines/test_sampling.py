import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, TopPLogitsWarper

from stepcredit.engines import sampling
from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.sampling import TopP, choose, warpers
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


def normalised(logits, noise, chain):
    """(token, log-probability) by the normalised float64 distribution of whole rows, with sorting for top-p."""
    scores = logits.double()
    for warper in chain:
        warper = TopPLogitsWarper(warper.top_p) if isinstance(warper, TopP) else warper
        scores = warper(None, scores)
    log_prob = scores.log_softmax(-1)
    cumulative = log_prob.exp().cumsum(-1)
    token = torch.searchsorted(cumulative, noise[:, None] * cumulative[:, -1:], right=True)
    return token[:, 0], log_prob.gather(-1, token)[:, 0]


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 9),
    vocabulary=st.integers(1, 3000),
    scale=st.sampled_from([0.0, 0.1, 3.0, 30.0, 1e4, 3e37]),
    decimals=st.sampled_from([None, 0, 1]),
    given=st.sampled_from([{}, {"temperature": 0.3}, {"top_k": 5}, {"top_k": 40, "temperature": 2.0}]),
)
@settings(deadline=None, max_examples=150)
def test_equals_the_inverse_transform_of_the_normalised_distribution(seed, rows, vocabulary, scale, decimals, given):
    """Flat, peaked and huge logits, ties from rounding; in parts of a few rows."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, vocabulary)) * scale
    logits = logits if decimals is None else logits.round(decimals)
    noise, chain = torch.from_numpy(rng.random(rows)), warpers(SamplingParams(1, **given))
    logits = torch.from_numpy(logits).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_AT_ONCE", {"cpu": 4000})
        token, log_prob = choose(logits, noise, chain)
    expected, expected_log_prob = normalised(logits, noise, chain)
    assert token.tolist() == expected.tolist()
    torch.testing.assert_close(log_prob, expected_log_prob, rtol=1e-12, atol=1e-12)


@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([2, 50, 1024, 1025, 3000]),
    scale=st.sampled_from([0.01, 1.0, 5.0, 100.0]),
    top_p=st.floats(0.01, 0.999),
    given=st.sampled_from([{}, {"temperature": 0.5}, {"top_k": 20}]),
)
@settings(deadline=None, max_examples=150)
def test_top_p_equals_that_of_transformers(seed, vocabulary, scale, top_p, given):
    """Without ties; flat distributions, whose nucleus has more than a thousand tokens, too."""
    rng = np.random.default_rng(seed)
    noise, chain = torch.from_numpy(rng.random(4)), warpers(SamplingParams(1, top_p=top_p, **given))
    logits = torch.from_numpy(rng.standard_normal((4, vocabulary)) * scale)
    token, log_prob = choose(logits, noise, chain)
    expected, expected_log_prob = normalised(logits, noise, chain)
    assert token.tolist() == expected.tolist()
    torch.testing.assert_close(log_prob, expected_log_prob, rtol=1e-12, atol=1e-12)


def test_top_p_keeps_what_is_as_likely_as_the_last_one_kept():
    scores = torch.tensor([[2.0, 1.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    assert TopP(0.6)(None, scores).isfinite().tolist() == [[True, True, False, True, True]]
    assert TopP(0.1)(None, scores).isfinite().tolist() == [[True, False, False, False, False]]


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-53])
def test_a_token_that_cannot_occur_is_never_drawn(noise):
    """Tokens of probability zero come before the first and after the last possible one."""
    for tokens in range(1, 60):
        logits = torch.full((1, tokens + 7), -torch.inf)
        logits[0, 4 : 4 + tokens] = torch.linspace(-2, 1, tokens)
        token, log_prob = choose(logits, torch.tensor([noise], dtype=torch.float64), LogitsProcessorList())
        assert token.item() == (4 if noise == 0 else 3 + tokens)
        assert log_prob.isfinite()


def test_logits_that_are_not_numbers_give_a_log_probability_that_is_none():
    token, log_prob = choose(torch.full((2, 5), torch.nan), torch.rand(2, dtype=torch.float64), LogitsProcessorList())
    assert ((token >= 0) & (token < 5)).all()
    assert log_prob.isnan().all()


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
