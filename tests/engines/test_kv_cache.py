"""The cache with room for further tokens against one that is concatenated."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from stepcredit.engines.decoding import _moved_up
from stepcredit.engines.kv_cache import GrowingLayer


def states(rows, tokens):
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 3)


def assert_equal(layer, plain):
    assert layer.get_seq_length() == plain.get_seq_length()
    assert torch.equal(layer.keys, plain.keys)
    assert torch.equal(layer.values, plain.values)


@pytest.mark.parametrize("seed", range(3))
def test_a_growing_layer_equals_a_concatenated_one(seed):
    """Many appended tokens, one or several at a time, past its room; rows chosen, repeated and dropped in between."""
    torch.manual_seed(seed)
    layer, plain, rows = GrowingLayer(), DynamicLayer(), 5
    for step in range(150):
        keys, values = states(rows, 1 + 30 * (step % 50 == 0))
        for found, expected in zip(layer.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(found, expected)
        if step % 20 == 7:
            index = torch.randint(rows, (int(torch.randint(1, 7, ())),))
            rows = len(index)
            layer.batch_select_indices(index)
            plain.batch_select_indices(index)
        assert_equal(layer, plain)


def test_layers_that_share_keys_and_values_grow_apart():
    torch.manual_seed(0)
    one, other, plain, other_plain = GrowingLayer(), GrowingLayer(), DynamicLayer(), DynamicLayer()
    first = states(3, 6)
    one.update(*first)
    plain.update(*first)
    other.lazy_initialization(one.keys, one.values)
    other.keys, other.values = one.keys, one.values
    other_plain.update(*first)
    for _ in range(100):
        for layer, expected in ((one, plain), (other, other_plain)):
            more = states(3, 1)
            layer.update(*more)
            expected.update(*more)
    assert_equal(one, plain)
    assert_equal(other, other_plain)


def test_appending_copies_the_new_tokens_only():
    layer = GrowingLayer()
    layer.update(*states(2, 5))
    layer.update(*states(2, 1))
    before = layer.keys.data_ptr()
    layer.update(*states(2, 1))
    assert layer.keys.data_ptr() == before


def test_dropping_rows_copies_only_those_that_move_up():
    layer = GrowingLayer()
    layer.update(*states(4, 5))
    layer.update(*states(4, 1))
    keys, place = layer.keys.clone(), layer.keys.data_ptr()
    layer.batch_select_indices(torch.from_numpy(_moved_up(np.array([False, True, False, True]))))
    assert torch.equal(layer.keys, keys[[3, 1]])
    assert layer.keys.data_ptr() == place


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_rows_that_go_on_move_up_into_the_places_of_those_that_do_not(going):
    index = _moved_up(np.array(going)).tolist()
    assert sorted(index) == [k for k, on in enumerate(going) if on]
    assert all(index[k] == k for k in range(len(index)) if going[k])
