"""A table of responses in real-looking wording, kind by kind, near-misses included: answers.jsonl beside this file."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepcredit.grading.grader import Grader
from stepcredit.grading.style import AUTO
from stepcredit.verdict import Verdict

ROWS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(1) as made:
        yield made


@pytest.mark.parametrize("kind", dict.fromkeys(row["kind"] for row in ROWS))
def test_rows_of_a_kind_are_judged_as_expected_and_no_near_miss_passes(grader: Grader, kind: str) -> None:
    """A wrong answer may be undecided; a right one may not, and neither may pass that should not."""
    failed = []
    for row in ROWS:
        if row["kind"] == kind:
            found = grader.grade(row["response"], row["answer"], AUTO)
            allowed = {row["expected"], *(["undecided"] if row["expected"] == "wrong" else [])}
            if found.verdict not in allowed:
                failed.append((row, found))
    assert failed == []


def test_the_table_is_large_and_has_near_misses_of_every_kind() -> None:
    expected = Counter(row["expected"] for row in ROWS)
    assert len(ROWS) >= 200
    assert expected[Verdict.WRONG] >= 100
    assert {row["kind"] for row in ROWS if row["expected"] == "wrong"} == {row["kind"] for row in ROWS}
