import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.metrics.calibration import Bin, calibration, expected_calibration_error, squared_error

HALVES = (0.0, 0.5, 1.0)


def test_by_hand():
    """Below one half: 0.1 and 0.3 with rates 0 and 0.5; from one half on: 0.5, 1.0 and the stray 1.2."""
    low, high = calibration([0.1, 0.5, 0.3, 1.0, 1.2], [0, 2, 2, 4, 3], 4, HALVES)
    assert low == pytest.approx(Bin(0.0, 0.5, 2, 0.2, 0.25, 0.25))
    assert high == pytest.approx(Bin(0.5, 1.0, 3, 0.9, 0.75, np.sqrt(3 / 2 * 0.125) / 3))
    assert expected_calibration_error([low, high]) == pytest.approx(0.4 * 0.05 + 0.6 * 0.15)


def test_tenths_are_the_default_and_empty_bins_are_left_out():
    bins = calibration([-0.2, 0.05, 0.95, 1.0], [0, 0, 1, 1], 1)
    assert [(b.low, b.high, b.n) for b in bins] == [(0.0, 0.1, 2), (0.9, 1.0, 2)]
    assert calibration([], [], []) == []
    assert np.isnan(expected_calibration_error([]))


def test_states_of_one_prompt_count_as_one():
    (bin_,) = calibration([0.2] * 3, [1, 1, 0], 2, (0.0, 1.0), groups=["a", "a", "b"])
    alone = calibration([0.2] * 3, [1, 1, 0], 2, (0.0, 1.0))[0]
    assert bin_.observed == alone.observed == pytest.approx(1 / 3)
    assert bin_.stderr == pytest.approx(np.sqrt(2 * (1 / 9 + 1 / 9)) / 3)
    assert np.isnan(calibration([0.2] * 3, [1, 1, 0], 2, groups=["a"] * 3)[0].stderr)


def test_squared_error_by_hand():
    """(0.5 - 0.5)² - 0.25/3 and (1 - 0.75)² - 0.1875/3, and 1 - 0 without noise."""
    result = squared_error([0.5, 1.0, 1.0], [2, 3, 0], 4, groups=["a", "b", "b"])
    assert result.estimate == pytest.approx((-0.25 / 3 + 0.0625 - 0.0625 + 1) / 3)
    assert (result.groups, result.pairs) == (2, 3)


def test_the_noise_of_few_trials_is_taken_off():
    rng = np.random.default_rng(0)
    truth = rng.random(20_000)
    for trials in (2, 8):
        right = rng.binomial(trials, truth)
        assert squared_error(truth, right, trials, resamples=20).estimate == pytest.approx(0, abs=0.005)
        off = squared_error(truth - 0.3, right, trials, resamples=20)
        assert off.estimate == pytest.approx(0.09, abs=0.005)


@given(st.lists(st.tuples(st.floats(-1, 2), st.integers(0, 5)), min_size=1, max_size=30))
def test_bins_keep_every_state(rows):
    predicted, right = map(list, zip(*rows))
    bins = calibration(predicted, right, 5)
    assert sum(b.n for b in bins) == len(rows)
    assert sum(b.n * b.observed for b in bins) == pytest.approx(sum(right) / 5)
    assert sum(b.n * b.predicted for b in bins) == pytest.approx(sum(predicted), abs=1e-9)
    assert 0 <= expected_calibration_error(bins) <= 3


@pytest.mark.parametrize(
    ("predicted", "right", "trials"),
    [([0.5], [1], [0]), ([0.5], [3], [2]), ([np.nan], [1], [2]), ([0.5, 0.5], [1], 2)],
)
def test_what_is_no_rate_is_refused(predicted, right, trials):
    with pytest.raises(ValueError, match=r"must be finite|needs a trial"):
        calibration(predicted, right, trials)


def test_one_trial_has_no_noise_estimate():
    with pytest.raises(ValueError, match="two trials"):
        squared_error([0.5], [1], 1)
