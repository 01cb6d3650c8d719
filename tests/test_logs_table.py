"""The tables of docs/reliability.md about logs are those of their measurements."""

import json

import pytest

from scripts import RUNS, loaded


@pytest.fixture(scope="module")
def tables():
    with loaded("logs/tables.py") as module:
        yield module.tables


def test_rates_and_sizes_by_hand(tables):
    of = {"input": 10.0, "cpu": 4.0, "seconds": 9.0, "memory": 100}
    found = {"rows": {"import 1000 16": of, "import 100 16": of, "grade 100 1": of}, "stages": {"import: a": 1.25}}
    lines = tables(found).splitlines()
    assert lines[2] == "| `import` | 16 | 100 | 100 | 4.0 | 4.0 | 2.5 |"
    assert lines[3] == "| `grade` | 1 | 100 | – | 4.0 | – | 2.5 |"
    assert lines[-1] == "| import: a | 1.2 |"


def test_the_page_has_what_was_measured(tables):
    page = (RUNS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert tables(json.loads((RUNS / "logs" / "results.json").read_text())) in page
