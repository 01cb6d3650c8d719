import numpy as np
import pytest

from stepcredit.metrics.accuracy import mean_and_stderr


def test_binomial_by_hand():
    mean, error = mean_and_stderr([1, 0, 0, 1])
    assert mean == 0.5
    assert error == pytest.approx(np.sqrt(0.5 * 0.5 / 3))


def test_clusters_of_equals_count_once():
    """Four copies of each of two responses know as much as the two."""
    alone = mean_and_stderr([1, 0])
    copies = mean_and_stderr([1] * 4 + [0] * 4, groups=["a"] * 4 + ["b"] * 4)
    assert copies == pytest.approx(alone)


def test_one_group_has_no_error():
    mean, error = mean_and_stderr([1, 0], groups=["a", "a"])
    assert mean == 0.5
    assert np.isnan(error)
