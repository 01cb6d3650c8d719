"""Memory of a block, repeats in alternation, and processes of their own."""

import pytest
import torch

from benchmarks.measure import Failed, alternated, in_own_process, machine, memory, ratio


def test_memory_is_the_highest_of_the_block_beyond_what_was_held():
    size = 200_000_000
    with memory("cpu") as first:
        torch.zeros(size // 4).sum()
    with memory("cpu") as second:
        torch.zeros(size // 40).sum()
    assert first.above == pytest.approx(size, rel=0.05)
    assert second.above < size / 5  # what an earlier block held does not count


def test_repeats_alternate():
    order = []
    seconds = alternated({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert "".join(order) == "ababab"
    assert {name: len(all_seconds) for name, all_seconds in seconds.items()} == {"a": 3, "b": 3}


def module(tmp_path, monkeypatch, code):
    (tmp_path / "measured_apart.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return in_own_process("measured_apart", 3)


def test_a_process_returns_its_last_line(tmp_path, monkeypatch):
    code = "import sys\nprint('noise')\nprint('{\"got\": ' + sys.argv[1] + '}')"
    assert module(tmp_path, monkeypatch, code) == {"got": 3}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ('print(\'{"failed": "not installed"}\')', "not installed"),
        ("raise MemoryError", "does not fit into memory"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "does not fit into memory"),
    ],
)
def test_a_process_that_cannot_measure_says_why(tmp_path, monkeypatch, code, reason):
    with pytest.raises(Failed, match=reason):
        module(tmp_path, monkeypatch, code)


def test_any_other_error_is_shown(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="ValueError: no such thing"):
        module(tmp_path, monkeypatch, "raise ValueError('no such thing')")


def test_a_ratio_is_baseline_over_ours():
    assert ratio(6.0, 2.0) == 3.0
    assert ratio(None, 2.0) is None
    assert ratio(6.0, None) is None


def test_rows_name_the_machine_and_versions():
    found = machine("cpu")
    assert found["device"] == "cpu"
    assert found["versions"]["torch"] == torch.__version__
