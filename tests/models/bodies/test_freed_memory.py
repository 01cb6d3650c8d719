import pytest
import torch

from doubles.models import tiny_llama
from stepcredit.models.bodies import freed_memory
from stepcredit.models.bodies.freed_memory import giving_back


@pytest.fixture
def given(monkeypatch):
    """The calls of malloc_trim, which are not made."""
    calls = []
    monkeypatch.setattr(freed_memory, "_TRIM", calls.append)
    monkeypatch.setattr(freed_memory, "_LARGE", 1)
    return calls


def run(layers=20):
    body = tiny_llama(layers=layers).model
    with giving_back([body]):
        states = body(torch.arange(6)[None]).last_hidden_state
    assert not any(module._forward_hooks for module in body.modules())
    return states


def test_every_tenth_layer_gives_back_in_both_passes(given):
    states = run()
    assert given == [0] * 2
    states.sum().backward()
    assert given == [0] * 4


def test_nothing_is_given_back_where_states_are_small(given, monkeypatch):
    monkeypatch.setattr(freed_memory, "_LARGE", 2**20)
    run().sum().backward()
    assert given == []


def test_a_library_without_malloc_trim_is_left_alone(given, monkeypatch):
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    assert freed_memory._malloc_trim() is None
    monkeypatch.setattr(freed_memory, "_TRIM", None)
    run().sum().backward()
    assert given == []
