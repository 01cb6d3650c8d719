"""The batches in which frozen weights compute."""

from test_batching import row

from stepcredit.models.activation_store import key_of
from stepcredit.training import precompute
from stepcredit.training.precompute import chunks_of


def test_chunks_by_hand(monkeypatch):
    """Prefixes [1, 2] and [3]; of a prefix the shortest comes first, and each is counted once in a chunk."""
    first, other = row([1, 2, 9], [4, 5], 1.0), row([3, 9], [6] * 4, 0.0)
    longer, again = row([1, 2, 9], [4, 5, 6], 1.0), row([1, 2, 9], [4, 5], 0.0)
    items = [(longer, other), (first, again)]
    monkeypatch.setattr(precompute, "_TOKENS", 99)
    assert chunks_of(items) == [[(0, 1), (1, 0), (0, 0)]]
    monkeypatch.setattr(precompute, "_TOKENS", 5 + 6 - 2)
    assert chunks_of(items) == [[(0, 1)], [(1, 0), (0, 0)]]
    monkeypatch.setattr(precompute, "_TOKENS", 5 + 6 - 3)
    assert chunks_of(items) == [[(0, 1)], [(1, 0)], [(0, 0)]]
    assert chunks_of(items, lambda key: key == key_of(first.ids, 2)) == [[(0, 1)], [(0, 0)]]
    third = row([1, 2, 9], [4, 5, 7], 1.0)  # counted whole in a chunk that another one begins
    assert chunks_of([*items, (third, third)]) == [[(0, 1)], [(1, 0)], [(0, 0)], [(2, 0)]]
    assert chunks_of([]) == []
