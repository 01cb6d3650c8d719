"""MATH problems for a small model: easy, short, and no problem in two files."""

import json
from itertools import chain
from pathlib import Path

import pytest

from doubles.real import real_tokenizer
from scripts import loaded
from stepcredit.tasks.math import MATH
from stepcredit.verdict import Verdict

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs shared/data beside the checkout")
def test_files_of_easy_and_short_problems(tmp_path):
    tokenizer = real_tokenizer("smollm2").backend_tokenizer
    with loaded("gsm8k/math_problems.py") as script:
        manifest = script.run(tmp_path, DATA, tokenizer)
    rows = {
        name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in manifest["files"]
    }
    assert {name: len(found) for name, found in rows.items()} == {
        n: f["problems"] for n, f in manifest["files"].items()
    }
    texts = [row["problem"] for row in chain(*rows.values())]
    assert len(set(texts)) == len(texts) == 991
    assert {row["level"] for row in chain(*rows.values())} == {1, 2}
    assert max(len(tokenizer.encode(row["problem"]).ids) for row in chain(*rows.values())) <= 100
    assert max(len(tokenizer.encode(row["solution"]).ids) for row in rows["train.jsonl"]) <= 160
    task = MATH(str(tmp_path), "plain")
    for split in ("train", "validation", "test"):
        for problem in task.problems(split, 20):
            assert task.grade(problem, str(problem.solution)).verdict is Verdict.RIGHT
