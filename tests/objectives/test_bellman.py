import torch
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.objectives.bellman import (
    Segments,
    first_of_segment,
    gather_segments,
    masked_mean,
    path_residual,
    segment_sum,
    suffix_sum,
    suffix_sum_after,
)

F = torch.float64


def test_suffix_sums_by_hand():
    x = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]])
    assert suffix_sum(x).tolist() == [[7, 6, 4], [2, 2, 3]]
    assert suffix_sum_after(x).tolist() == [[6, 4, 0], [2, 3, 0]]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12))
def test_suffix_sum_is_itself_plus_what_follows(numbers):
    x = torch.tensor([numbers], dtype=F)
    torch.testing.assert_close(suffix_sum(x), x + suffix_sum_after(x))


def test_segments_by_hand():
    """Prompt of two, step 0 of two tokens, one observation, one more token of step 0, step 1, padding."""
    segment_id = torch.tensor([[-1, -1, 0, 0, -1, 0, 1, -1]])
    assert first_of_segment(segment_id).int().tolist() == [[0, 0, 1, 0, 0, 0, 1, 0]]
    x = torch.tensor([[9.0, 9, 1, 2, 9, 4, 8, 9]])
    assert segment_sum(x, segment_id, 2).tolist() == [[7, 8]]
    at = gather_segments(x, 10 * x, 100 * x, segment_id)
    assert at.log_ratio.tolist() == [[7, 8]]
    assert at.reward.tolist() == [[70, 80]]
    assert at.value.tolist() == [[100, 800]]
    assert at.mask.tolist() == [[True, True]]


def test_shorter_rows_have_fewer_segments():
    segment_id = torch.tensor([[0, 1, 2], [-1, 0, -1]])
    at = gather_segments(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3), segment_id)
    assert at.mask.tolist() == [[True, True, True], [True, False, False]]
    assert at.log_ratio.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_masked_mean_counts_only_what_is_there():
    x = torch.tensor([[1.0, 3.0, 50.0], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, mask).tolist() == [2, 0]


def test_path_residual_is_the_sum_of_one_step_residuals():
    generator = torch.Generator().manual_seed(0)
    rho, reward, value = torch.randn(3, 1, 6, generator=generator, dtype=F)
    beta = 0.3
    following = torch.nn.functional.pad(value[:, 1:], (0, 1))
    one_step = value - following - reward + beta * rho
    mask = torch.ones(1, 6, dtype=torch.bool)
    torch.testing.assert_close(path_residual(Segments(rho, reward, value, mask), beta), suffix_sum(one_step))


def test_path_residual_is_zero_where_no_segment_is():
    ones = torch.ones(1, 3)
    mask = torch.tensor([[True, False, False]])
    assert path_residual(Segments(ones, ones, 5 * ones, mask), 0.1)[0, 1:].tolist() == [0, 0]
