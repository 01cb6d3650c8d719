"""docs/results.md and README.md say what the result files beside their script say."""

import json

import pytest

from scripts import RUNS, loaded


@pytest.fixture
def script():
    with loaded("compare/page.py") as module:
        yield module


def test_the_tables_are_those_of_the_files(script):
    texts = [file.read_text(encoding="utf-8") for file in (script.PAGE, script.README)]
    assert [script.page(text) for text in texts] == texts
    shown = {found["table"] for text in texts for found in script.MARKER.finditer(text)}
    assert set(script.TABLES) <= shown <= set(script.TABLES) | set(script.pretrained.TABLES)


def test_the_page_is_found_by_another_way_to_the_script():
    with loaded("alfworld/../compare/page.py") as module:
        assert module.PAGE.samefile(RUNS.parent / "docs" / "results.md")


@pytest.mark.parametrize(
    "folder", [f for f in (RUNS / "compare").iterdir() if f.is_dir() and (f / "run.json").exists()]
)
def test_no_cell_is_dropped(folder):
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = sorted((r["method"], r["search"], r["seed"]) for r in rows)
    assert found == sorted((m, s, k) for m in ["sft", *run["methods"]] for s in run["searches"] for k in run["seeds"])
    assert all(r["steps"] == run["steps"] for r in rows if r["method"] != "sft")
    grid = json.loads((folder / "grid.json").read_text(encoding="utf-8"))
    assert {r["seed"] for r in grid} == {run["tuning_seed"]}
    assert run["tuning_seed"] not in run["seeds"]
    assert {r["split"] for r in grid} == {"validation"}
    assert len(grid) == len(run["methods"]) * len(run["learning_rates"]) * len(run["searches"])
