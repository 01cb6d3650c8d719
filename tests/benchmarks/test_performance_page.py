"""docs/performance.md says what benchmarks/results.json says."""

import json

import pytest

from benchmarks import page, run, search
from benchmarks.page import MARKER, PAGE, RESULTS, TABLES
from stepcredit.files import read_json


def row(part, **fields):
    versions = {"python": "3.11", "torch": "2.13"}
    return {"part": part, "device": "cpu", "machine": "m", "threads": 2, "versions": versions, "repeats": 3, **fields}


def step_row(scheme, baseline, time_ratio, **fields):
    return row("step", scheme=scheme, label=f"{scheme} scheme", baseline=baseline, workload="SmolLM2", episodes=16,
               tokens=1000, time_ratio=time_ratio, memory_ratio=2.0, memory_above_state_ratio=4.0, seconds=10.0,
               baseline_seconds=10.0 * time_ratio, memory=4e9, above_state=1e9, once_seconds=5.0, same_algorithm=True,
               break_even_epochs=0.25, tokens_per_second=100.0, mfu=None, **fields)  # fmt: skip


def head_row(scheme, baseline, tokens=1024, **fields):
    return row("head", **{"scheme": scheme, "baseline": baseline, "kl": True, "vocab": 151936, "hidden": 256,
               "tokens": tokens, "time_ratio": 1.5, "memory_ratio": 8.0, "seconds": 2.0, "memory": 5e8,
               "baseline_seconds": 3.0, "baseline_memory": 4e9, **fields})  # fmt: skip


def test_the_page_is_what_the_script_makes():
    text = PAGE.read_text(encoding="utf-8")
    assert page.page(text, read_json(RESULTS)) == text
    assert [found["name"] for found in MARKER.finditer(text)] == list(TABLES)


def test_pictures_of_the_page_are_there_once_measured():
    rows, text = read_json(RESULTS), PAGE.read_text(encoding="utf-8")
    for name, picture in page.PICTURES.items():
        assert f"({name}.svg)" in text
        assert picture(rows) is None or PAGE.with_name(f"{name}.svg").exists()


def test_a_table_of_steps_compares_with_both_baselines():
    text = page.step_table([step_row("plain", "published", 2.5), step_row("plain", "trl", 1.5)])
    assert "| plain scheme | 10 | 2.50 | 1.50 | 4 | 2.00 | 1 | 4.00 | 5 | 0.25 |" in text
    assert "16 episodes of 1,000 tokens, median of 3" in text
    assert page.step_table([], "cuda") == page.NO_GPU


def test_a_table_of_heads_has_a_line_for_each_and_says_what_was_skipped():
    rows = [head_row("one pass", "naive"),
            head_row("one pass", "liger", baseline_seconds=None, baseline_memory=None, time_ratio=None,
                     memory_ratio=None, skipped="not installed"),
            head_row("one pass", None, tokens=4096)]  # fmt: skip
    text = page.head_table(rows, kl=True)
    assert "| naive | 151,936 | 256 | 1,024 | 3 | 4 | 1.50 | 8.00 |" in text
    assert "| liger: not installed | 151,936 | 256 | 1,024 | – | – | – | – |" in text
    assert "| one pass (ours) | 151,936 | 256 | 1,024 | 2 | 0.5 | – | – |" in text
    assert page.flat_rows(rows) == [(1024, 2.0, 5e8), (4096, 2.0, 5e8)]


def test_a_table_of_collection_has_tokens_a_second_of_both():
    found = row("collect", scheme="float32", workload="SmolLM2", responses=64, tokens=3000, tokens_per_second=300.0,
                baseline_tokens_per_second=150.0, time_ratio=2.0, memory=1e9, memory_ratio=1.1,
                equal_draws=1.0)  # fmt: skip
    assert "| float32 | 300 | 150 | 2.00 | 1 | 1.10 | 100% |" in page.collect_table([found])


def test_a_table_of_searches_has_sizes_that_were_measured_alone():
    found = row("search", workload="Llama", problems=6, beams=4, tokens=5000, tokens_per_second=1000.0, seconds=5.0,
                baseline_seconds=None, time_ratio=None)  # fmt: skip
    assert "| 6 problems, 4 beams | 5,000 | 5 | 1 | – | – |" in page.search_table([found])


def test_pictures_are_drawn_from_the_rows():
    assert page.step_svg([]) is None
    assert "2.50×" in page.step_svg([step_row("plain", "published", 2.5), step_row("plain", "trl", 1.5)])
    assert page.flat_svg([head_row("one pass", "naive")]) is None
    assert "4,096" in page.flat_svg([head_row("one pass", "naive"), head_row("one pass", None, tokens=4096)])


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.123456, "0.123"), (12.3456, "12.3"), (1234.5, "1,230"), (62.0, "62")]
)
def test_numbers_have_three_digits(value, text):
    assert page.number(value) == text


def test_new_rows_replace_those_of_their_part_and_device():
    old = [row("head", n=1), {**row("head", n=2), "device": "cuda"}, row("step", episodes=16, n=3)]
    new = [row("head", n=4), row("step", episodes=128, n=5)]
    assert [r["n"] for r in run.merged(old, new)] == [2, 3, 4, 5]


def test_each_part_is_written_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    def measured(device, repeats, long):
        return {"head": lambda: [row("head", n=1)], "search": lambda: pytest.fail("stopped")}

    monkeypatch.setattr(run, "parts", measured)
    path = tmp_path / "results.json"
    monkeypatch.setattr("sys.argv", ["run", "--output", str(path)])
    with pytest.raises(pytest.fail.Exception, match="stopped"):
        run.main()
    assert [r["n"] for r in json.loads(path.read_text())] == [1]


def test_a_search_has_a_row_against_the_re_encoding_beam_and_rows_alone(monkeypatch):
    monkeypatch.setattr(search, "HIDDEN", 64)
    monkeypatch.setattr(search, "LAYERS", 1)
    monkeypatch.setattr(search, "PROBLEMS", 2)
    monkeypatch.setattr(search, "SIZES", ((1, 2),))
    monkeypatch.setattr(search, "MAX_NEW_TOKENS", 12)
    compared, alone = search.rows(repeats=1)
    assert compared["baseline"] == "re-encoding"
    assert compared["problems_with_equal_sequences"] == 2
    assert (alone["baseline"], alone["time_ratio"]) == (None, None)
