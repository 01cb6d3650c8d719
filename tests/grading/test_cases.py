"""Every reported case comes out as expected through `stepcredit grade` with default settings."""

import json
from pathlib import Path

import pytest

from stepcredit.logs.formats import read_rows
from stepcredit.logs.grade_logs import GradeConfig, grade_rows

CASES = Path(__file__).parents[2].parent / "shared" / "cases"


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases in {CASES}")
def test_every_case_is_judged_as_expected(tmp_path: Path) -> None:
    lines = [
        json.loads(line) for file in sorted(CASES.glob("*.jsonl")) for line in file.read_text().splitlines() if line
    ]
    rows = [row for row in lines if isinstance(row, dict) and "expected" in row]
    file, out = tmp_path / "cases.jsonl", tmp_path / "graded.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grade_rows(GradeConfig(str(file), str(out)))
    graded = [row.data for row in read_rows(str(out)) if row.data is not None]
    assert [row for row in graded if row["verdict"] != row["expected"]] == []
    assert len(graded) >= 40
