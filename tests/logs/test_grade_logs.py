import dataclasses
import gzip
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepcredit.cli import main
from stepcredit.episodes.episode import StopReason
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.grading.extraction.boxes import boxed_gold
from stepcredit.logs import grade_logs as module
from stepcredit.logs.formats import Row, read_rows
from stepcredit.logs.grade_logs import GradeConfig, grade_rows
from stepcredit.logs.graded_rows import ADDED, gold_answer
from stepcredit.logs.import_logs import ImportConfig, import_logs
from stepcredit.verdict import Verdict

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ROLLOUTS = DATA / "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz"
GSM8K = DATA / "gsm8k_test.jsonl.gz"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TOWER = "9^{9^{9^9}}"
SLACK = 6.0
"""Times that a machine under load may be slower."""


def write(path, rows):
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return str(path)


def graded(path):
    return [row.data for row in read_rows(path)]


def row(k, **given):
    """Right where k is even, and strict where it is divisible by 4."""
    said = k if k % 2 == 0 else -k
    return {"prompt": f"q{k}", "response": f"#### {said}" if k % 4 == 0 else f"so {said}", "answer": str(k), **given}


def grade_of(k):
    found = (1.0, "right") if k % 2 == 0 else (0.0, "wrong")
    reason = "the same spelling" if k % 2 == 0 else "another number"
    written = str(k if k % 2 == 0 else -k)
    return dict(zip(ADDED, (*found, written, k % 4 == 0, reason)))


def numbers(file, out, **given):
    return GradeConfig(str(file), str(out), answers="number", **given)


# ---- what is written ---------------------------------------------------------------------------------


def test_the_exact_output_of_a_small_file(tmp_path):
    rows = [
        {"n": 1, "response": "We add.\n#### 1,080", "answer": "<<1>>1\n#### 1080", "extra": {"ü": [1.5, None]}},
        {"response": "It is 12 or 13.", "answer": 12},
        {"response": "", "answer": "1"},
        {"response": "7", "answer": 7, "truncated": True},
    ]
    report = grade_rows(numbers(write(tmp_path / "a.jsonl", rows), tmp_path / "deep" / "o.jsonl"))
    assert (tmp_path / "deep" / "o.jsonl").read_text().splitlines() == [
        r'{"n": 1, "response": "We add.\n#### 1,080", "answer": "<<1>>1\n#### 1080", "extra": {"ü": [1.5, null]}, '
        '"reward": 1.0, "verdict": "right", "extracted": "1,080", "strict": true, "grade_reason": "the same spelling"}',
        '{"response": "It is 12 or 13.", "answer": 12, '
        '"reward": 0.0, "verdict": "wrong", "extracted": "13", "strict": false, "grade_reason": "another number"}',
        '{"response": "", "answer": "1", '
        '"reward": 0.0, "verdict": "wrong", "extracted": null, "strict": false, "grade_reason": "no answer was found"}',
        '{"response": "7", "answer": 7, "truncated": true, '
        '"reward": null, "verdict": null, "extracted": null, "strict": null, "grade_reason": "truncated"}',
    ]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["o.jsonl"]
    counts = (report.rows, report.right, report.strict, report.wrong, report.undecided, report.truncated, report.bad)
    assert counts == (4, 1, 1, 2, 0, 1, 0)
    assert (report.accuracy, report.strict_accuracy, report.resumed, report.quarantine) == (0.25, 0.25, 0, None)
    assert report.summary() == (
        "4 responses, accuracy 25.0% (strict 25.0%): 1 right, 2 wrong, 0 undecided, 1 truncated; "
        f"written to {tmp_path / 'deep' / 'o.jsonl'}"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("source", ["jsonl", "json", "csv", "parquet", "jsonl.gz"])
def test_all_kinds_of_files_in_and_out(source, suffix, tmp_path):
    rows, file = [row(k, level=k) for k in range(10)], tmp_path / f"a.{source}"
    lines = "".join(json.dumps(r) + "\n" for r in rows)
    if source == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif source == "csv":
        file.write_text("prompt,response,answer,level\n" + "".join(",".join(map(str, r.values())) + "\n" for r in rows))
        rows = [{**r, "level": str(r["level"])} for r in rows]
    else:
        content = json.dumps(rows) if source == "json" else lines
        file.write_bytes(gzip.compress(content.encode()) if source.endswith("gz") else content.encode())
    out = tmp_path / f"o{suffix}"
    report = grade_rows(numbers(file, out))
    assert graded(out) == [{**r, **grade_of(k)} for k, r in enumerate(rows)]
    assert (report.right, report.strict, report.wrong) == (5, 3, 5)
    assert {p.name for p in tmp_path.iterdir()} == {file.name, out.name}


def test_the_same_rows_give_the_same_bytes(tmp_path):
    file = write(tmp_path / "a.jsonl", [row(k) for k in range(300)])
    for suffix in (".jsonl", ".jsonl.gz"):
        for name, workers in (("a", 1), ("b", 3)):
            grade_rows(numbers(file, tmp_path / f"out-{name}{suffix}", workers=workers))
        one, other = ((tmp_path / f"out-{name}{suffix}").read_bytes() for name in "ab")
        assert one == other
    assert [r["prompt"] for r in graded(tmp_path / "out-a.jsonl")] == [f"q{k}" for k in range(300)]


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        ("18", "18"),
        (" \\frac{1}{2} ", "\\frac{1}{2}"),
        ("Janet sells 16 - 3 = <<16-3=13>>13.\n#### 13", "13"),
        ("#### 1\nno:\n#### -2,500", "-2,500"),
        ("First \\boxed{1}, so the answer is $\\boxed{\\frac{1}{\\sqrt{2}}}$.", "\\frac{1}{\\sqrt{2}}"),
        ("\\fbox{7}", "7"),
        ("so \\boxed 3", "3"),
        ("#### \\boxed{4}", "4"),
        (145.0, "145"),
        (145, "145"),
        (0.5, "0.5"),
        (1e-7, "0.0000001"),
        (-3.25, "-3.25"),
        (100.0, "100"),
        (Decimal("2.50"), "2.5"),
    ],
)
def test_gold_answers(value, gold):
    assert gold_answer(value) == gold


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "must be text or a number, not the bool True"),
        (["1"], "must be text or a number, not the list"),
        (float("nan"), "nan is not a finite number"),
        ("so\n#### ", "there is no answer in the str"),
        ("  ", "there is no answer"),
        ("thus \\boxed{1", "there is no answer"),
    ],
)
def test_what_is_no_gold_answer(value, message):
    with pytest.raises(InputError, match=f"answer: {message}"):
        gold_answer(value)


def outcomes(tmp_path, rows, **given):
    out = tmp_path / "o.jsonl"
    grade_rows(GradeConfig(write(tmp_path / "a.jsonl", rows), str(out), overwrite=True, **given))
    return [(r["verdict"], r["strict"]) for r in graded(out)]


def test_strict_is_behind_the_marker_that_was_asked_for(tmp_path):
    rows = [{"response": r, "answer": "5"} for r in ("#### 5", "\\boxed{5}", "it is 5", "#### 6", "\\boxed{6}")]
    verdicts = ["right", "right", "right", "wrong", "wrong"]
    hashes, boxed = [True, False, False, True, False], [False, True, False, False, True]
    assert outcomes(tmp_path, rows) == list(zip(verdicts, [h or b for h, b in zip(hashes, boxed)]))
    assert outcomes(tmp_path, rows, answers="expression") == list(zip(verdicts, boxed))
    assert outcomes(tmp_path, rows, answers="number") == list(zip(verdicts, hashes))
    assert outcomes(tmp_path, rows, marker="####") == list(zip(verdicts, hashes))
    assert outcomes(tmp_path, rows, answers="number", marker="boxed") == list(zip(verdicts, boxed))


def test_what_is_looked_for_where_no_marker_stands(tmp_path):
    rows = [{"response": "Hence $x^2$ is the area, 2 steps later.", "answer": gold} for gold in ("x^2", "2")]
    assert outcomes(tmp_path, rows) == [("right", False), ("right", False)]
    assert outcomes(tmp_path, rows, answers="expression") == [("right", False), ("wrong", False)]
    assert outcomes(tmp_path, rows, answers="number") == [("wrong", False), ("right", False)]


def test_the_gold_answer_says_whether_a_dollar_is_money_or_a_fence(tmp_path):
    rows = [
        {"response": "They pay $5.00 + $2.00 = $7.00 in all.", "answer": "7"},
        {"response": "They pay $5.00 + $2.00 = $7.00 in all.", "answer": "5"},
        {"response": "So the slope is $\\frac{3}{4}$ for $x > 2$.", "answer": "x > 2"},
        {"response": "So the cost is $x = 7$ for 2 people.", "answer": "7"},
    ]
    assert [verdict for verdict, _ in outcomes(tmp_path, rows)] == ["right", "wrong", "right", "right"]


def test_algebra_decides_and_the_hostile_stay_undecided_without_a_reward(tmp_path):
    answers = ["\\frac{2}{\\sqrt{2}}", TOWER, "\\sqrt{8}/2", "\\sqrt{3}"]
    rows = [{"response": f"\\boxed{{{a}}}", "answer": "\\sqrt{2}"} for a in answers]
    out = tmp_path / "o.jsonl"
    report = grade_rows(GradeConfig(write(tmp_path / "a.jsonl", rows), str(out), seconds=0.3, workers=2))
    found = graded(out)
    assert [(r["verdict"], r["reward"]) for r in found] == [
        ("right", 1.0),
        ("undecided", None),
        ("right", 1.0),
        ("wrong", 0.0),
    ]
    assert (found[1]["extracted"], found[1]["grade_reason"]) == (TOWER, "took too long")
    assert (report.right, report.wrong, report.undecided, report.accuracy) == (2, 1, 1, 0.5)


@pytest.mark.parametrize(
    "cut", [{"truncated": True}, {"truncated": 1}, {"stop_reason": "length"}, {"finish_reason": "max_tokens"}]
)
def test_the_truncated_are_not_graded(cut, tmp_path):
    others = [{"truncated": False}, {"stop_reason": "stop", "finish_reason": None}, {"truncated": None}]
    rows = [{"response": "\\boxed{1}", "answer": "1", **given} for given in (cut, *others)]
    assert outcomes(tmp_path, rows) == [(None, None), *[("right", True)] * 3]
    found = graded(tmp_path / "o.jsonl")[0]
    assert (found["reward"], found["extracted"], found["grade_reason"]) == (None, None, "truncated")


def test_names_and_forms_of_columns(tmp_path):
    chat = [{"role": "assistant", "content": "\\boxed{2}"}, {"role": "user", "content": "sure?"}]
    rows = [
        {"completion": "\\boxed{1}", "solution": "so \\boxed{1}"},
        {"response": None, "completion": [*chat, {"role": "assistant", "content": "\\boxed{1}"}], "answer": 1},
        {"response": chat, "completion": "\\boxed{1}", "answer": 1, "solution": "2"},
    ]
    assert outcomes(tmp_path, rows) == [("right", True), ("right", True), ("wrong", True)]


def test_a_name_that_is_given_is_the_only_one(tmp_path):
    rows = [{"output": "\\boxed{1}", "response": "2", "gold": 1, "answer": 2, "why": "length"}]
    columns = ["response=output", "answer=gold"]
    assert outcomes(tmp_path, rows, columns=columns) == [("right", True)]
    assert outcomes(tmp_path, rows, columns=[*columns, "stop_reason=why"]) == [(None, None)]
    assert outcomes(tmp_path, rows, columns=["completion=response", "solution=answer"]) == [("right", False)]
    with pytest.raises(InputError, match="expected a column output, with a value; the row has"):
        outcomes(tmp_path, [{**rows[0], "output": None}], columns=columns)
    assert outcomes(tmp_path, [{**rows[0], "gold": None}], columns=columns) == [("undecided", False)]


def test_cells_of_a_csv_are_read_as_what_they_are(tmp_path):
    file, out = tmp_path / "a.csv", tmp_path / "o.jsonl"
    file.write_text(
        "question,output,answer,sample,cut\n"
        "q,#### 1,1,0,false\n"
        'q,"[{""role"": ""assistant"", ""content"": ""#### 1""}]",1,1,\n'
        "q,,1,2,0\n"
        "q,#### 1,1,3,TRUE\n"
    )
    grade_rows(numbers(file, out, columns=["response=output", "truncated=cut"]))
    assert [(r["verdict"], r["sample"], r["cut"]) for r in graded(out)] == [
        ("right", 0.0, False),
        ("right", 1.0, None),
        ("wrong", 2.0, 0.0),
        (None, 3.0, True),
    ]
    assert graded(out)[1]["output"] == [{"role": "assistant", "content": "#### 1"}]


def test_what_json_does_not_have_becomes_text_or_null(tmp_path):
    table = pa.table(
        {
            "response": ["#### 2.5"],
            "answer": pa.array([Decimal("2.50")]),
            "at": pa.array([0], pa.timestamp("s")),
            "score": [float("nan")],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    grade_rows(numbers(tmp_path / "a.parquet", tmp_path / "o.jsonl"))
    (found,) = graded(tmp_path / "o.jsonl")
    assert (found["verdict"], found["answer"], found["at"], found["score"]) == (
        "right",
        "2.50",
        "1970-01-01 00:00:00",
        None,
    )


def test_columns_of_our_names_are_replaced_only_when_asked(tmp_path):
    rows = [row(0), {"reward": 0.5, **row(2), "strict": "yes"}]
    file, out = write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl"
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=r"a\.jsonl:2: the row has 'reward', 'strict' already; --overwrite"):
            grade_rows(numbers(file, out, skip_bad=skip_bad))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    grade_rows(numbers(file, out, overwrite=True))
    assert graded(out) == [{**row(k), **grade_of(k)} for k in (0, 2)]
    assert list(graded(out)[1]) == [*row(2), *ADDED]


# ---- bad rows ----------------------------------------------------------------------------------------

BAD = [
    ('{"cut', "invalid JSON at column 2"),
    ("null", "a row must be an object, not null"),
    ('{"response": null, "answer": "1"}', "no response: expected a column response or completion, with a value"),
    ('{"answer": "1"}', "no response: expected a column response or completion, with a value; the row has 'answer'"),
    ('{"response": "1"}', "no gold answer: expected a column answer or solution"),
    ('{"response": 1, "answer": "1"}', "response: must be text or a list of chat messages, not the int 1"),
    ('{"completion": [{"role": "user", "content": "a"}], "answer": 1}', "completion: no assistant message"),
    ('{"response": "1", "answer": "1", "truncated": "yes"}', "truncated: must be true or false"),
]


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        ("", "there is no answer in the str ''"),
        ([], "must be text or a number, not the list []"),
        (None, "it is empty"),
        (True, "must be text or a number, not the bool True"),
        ("so \\boxed{1", "there is no answer in the str 'so \\\\boxed{1'"),
        ("1" * 3_000, "it is longer than 2000 characters"),
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_one_undecided_row(gold, reason, tmp_path):
    out = tmp_path / "o.jsonl"
    rows = [row(0), {**row(1), "answer": gold}, row(2), {**row(3), "response": "\\boxed{x}", "answer": "\\frac{"}]
    report = grade_rows(GradeConfig(write(tmp_path / "a.jsonl", rows), str(out)))
    first, unread, third, unparsed = graded(out)
    assert (first["verdict"], third["verdict"]) == ("right", "right")
    assert (unread["verdict"], unread["reward"], unread["extracted"], unread["strict"]) == (
        "undecided",
        None,
        None,
        False,
    )
    assert unread["grade_reason"] == f"the gold answer cannot be read: {reason}"
    assert unparsed["grade_reason"] == "the gold answer cannot be read"
    assert (report.rows, report.bad, report.undecided, report.unread) == (4, 0, 2, 2)
    assert "2 undecided (2 for a gold answer that cannot be read), " in report.summary()


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_stops_the_work_or_goes_to_quarantine(line, message, tmp_path, capsys):
    logs, out = tmp_path / "a.jsonl", tmp_path / "o.jsonl"
    logs.write_text("\n".join([json.dumps(row(0)), line, json.dumps(row(1)), ""]))
    flags = ["grade", str(logs), "--output", str(out), "--answers", "number"]
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"stepcredit: error: {logs}:2: {message}")
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    assert main([*flags, "--skip-bad"]) == 0
    assert f"1 bad rows are in {out}.quarantine.jsonl; the first: {logs}:2: {message}" in capsys.readouterr().out
    assert graded(out) == [{**row(k), **grade_of(k)} for k in (0, 1)]
    (bad,) = graded(f"{out}.quarantine.jsonl")
    assert (bad["number"], bad["where"]) == (2, f"{logs}:2")
    assert bad["error"].startswith(message)
    assert (json.loads(bad["row"]) == json.loads(line)) if line.endswith("}") else bad["row"] == line


def test_a_bad_row_costs_nothing_of_what_is_graded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 2)
    file, out = write(tmp_path / "a.jsonl", [row(0), row(1), row(2), "null\n", row(4)]), tmp_path / "o.jsonl"
    with pytest.raises(InputError, match=r"a\.jsonl:4: a row must be an object"):
        grade_rows(numbers(file, out))
    report = grade_rows(numbers(file, out, skip_bad=True, workers=2))
    assert (report.rows, report.resumed, report.bad, report.right, report.wrong) == (5, 2, 1, 3, 1)
    assert report.first_error == f"{file}:4: a row must be an object, not null"
    assert report.summary().splitlines()[1] == "2 rows were done by an earlier run"
    assert graded(out) == [{**row(k), **grade_of(k)} for k in (0, 1, 2, 4)]


@pytest.mark.parametrize(("rows", "message"), [([], "the file has no rows"), (["[]\n"] * 3, "3 rows, all of them bad")])
def test_nothing_to_grade_leaves_nothing(rows, message, tmp_path):
    file = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match=f"nothing to grade: {message}"):
        grade_rows(numbers(file, tmp_path / "o.jsonl", skip_bad=True))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--output", "o.txt"], "output: o.txt: unknown kind of file; use .jsonl or .jsonl.gz"),
        (["--output", "a.jsonl"], "output: a.jsonl is the file that is read; choose another"),
        (["--output", "there.jsonl"], "output: there.jsonl is there already; --overwrite replaces it"),
        (["--output", "a.jsonl/o.jsonl"], "output: a.jsonl/o.jsonl cannot be written (File exists)"),
        (["--columns", "response"], "columns: 'response': give each of our names once, as ours=theirs"),
        (["--columns", "prompt=question"], "columns: 'prompt' is none of response, completion, answer, solution"),
        (["--columns", "response=reply"], "a.jsonl:1: columns: no column 'reply'; the row has 'prompt', 'response'"),
        (["--columns", "answer=gold"], "a.jsonl:1: no gold answer: expected a column gold; the row has"),
        (["--answers", "word"], "argument --answers: invalid choice: 'word'"),
        (["--marker", "hash"], "argument --marker: invalid choice: 'hash'"),
        (["--workers", "0"], "workers: 0 must be 1 or more"),
        (["--seconds", "0"], "seconds: 0.0 must be above 0"),
        (["--seconds", "nan"], "seconds: nan must be a finite number"),
    ],
)
def test_bad_settings_are_one_line_and_exit_code_2(change, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [row(0)])
    write(tmp_path / "there.jsonl", [])
    assert main(["grade", "a.jsonl", "--output", "o.jsonl", *change]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"stepcredit: error: {message}")
    assert err.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"a.jsonl", "there.jsonl"}


@pytest.mark.parametrize(("file", "message"), [("no.jsonl", "no such file"), ("a.txt", "unknown kind of file")])
def test_bad_files_are_one_line_and_exit_code_2(file, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["grade", file, "--output", "o.jsonl"]) == 2
    assert capsys.readouterr().err.startswith(f"stepcredit: error: {file}: {message}")
    with pytest.raises(InputError, match="answers: 'word' is none of auto, number, expression"):
        grade_rows(GradeConfig(file, "o.jsonl", answers="word"))
    assert list(tmp_path.iterdir()) == []


def test_a_gzip_cut_off_is_told_and_what_was_graded_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 8)
    logs = tmp_path / "a.jsonl.gz"
    logs.write_bytes(gzip.compress("".join(json.dumps(row(k)) + "\n" for k in range(1000)).encode())[:-20])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: corrupt or truncated gzip"):
        grade_rows(numbers(logs, tmp_path / "o.jsonl"))
    kept = (tmp_path / "o.jsonl.partial").read_text().splitlines()
    assert kept
    assert not len(kept) % 8
    assert not (tmp_path / "o.jsonl").exists()


# ---- interrupted -------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from stepcredit.logs import writers
from stepcredit.logs import grade_logs as grade
calls = []
def append_or_die(file, items):
    calls.append(file)
    if len(calls) == int(sys.argv[3]):
        file.write(b'{"number": 9'); file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    real(file, items)
real, writers._append, grade.ROWS_PER_CHUNK = writers._append, append_or_die, 4
grade.grade_rows(grade.GradeConfig(sys.argv[1], sys.argv[2], answers="number", skip_bad=True))
"""
INTERRUPTED = [
    row(0),
    "[]\n",
    row(1),
    "7\n",
    row(2),
    row(3),
    "\n",
    row(4),
    row(5),
    "{}\n",
    *map(row, range(6, 11)),
    "7\n",
]


@pytest.mark.parametrize(
    ("call", "resumed", "suffix"),
    [
        *((call, resumed, ".jsonl") for call, resumed in [(1, 0), (2, 0), (3, 3), (4, 3), (5, 8), (6, 8), (8, 12)]),
        (5, 8, ".jsonl.gz"),
    ],
)
def test_a_kill_and_another_run_are_one_run(call, resumed, suffix, tmp_path):
    file, out, whole = write(tmp_path / "a.jsonl", INTERRUPTED), tmp_path / f"o{suffix}", tmp_path / f"whole{suffix}"
    command = [sys.executable, "-c", KILLED, file, str(out), str(call)]
    done = subprocess.run(command, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    report = grade_rows(numbers(file, out, skip_bad=True))
    assert (report.resumed, report.rows, report.bad) == (resumed, 15, 4)
    unbroken = grade_rows(numbers(file, whole, skip_bad=True))
    assert dataclasses.replace(unbroken, out=out, resumed=resumed, quarantine=report.quarantine) == report
    assert out.read_bytes() == whole.read_bytes()
    assert report.quarantine.read_bytes() == unbroken.quarantine.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {
        *("a.jsonl", out.name, whole.name),
        *(report.quarantine.name, unbroken.quarantine.name),
    }


def interrupted(tmp_path, monkeypatch, **given):
    """The path of a file whose grading stopped after two chunks."""
    file, out = write(tmp_path / "a.jsonl", [row(k) for k in range(20)]), tmp_path / "o.jsonl"
    monkeypatch.setattr(module, "ROWS_PER_CHUNK", 4)
    real, calls = module.RowWriter.write, []

    def write_or_stop(self, rows, bad):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, rows, bad)

    with monkeypatch.context() as patch:
        patch.setattr(module.RowWriter, "write", write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            grade_rows(numbers(file, out, **given))
    return file, out


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.05, 0), (0.5, 4), (0.9, 7), (0.999, 7), (1.0, 8)])
def test_a_torn_line_is_graded_again(share, kept, tmp_path, monkeypatch):
    file, out = interrupted(tmp_path, monkeypatch)
    partial = tmp_path / "o.jsonl.partial"
    whole = partial.read_bytes()
    partial.write_bytes(whole[: int(share * len(whole))])
    assert grade_rows(numbers(file, out)).resumed == kept
    assert graded(out) == [{**row(k), **grade_of(k)} for k in range(20)]
    assert {p.name for p in tmp_path.iterdir()} == {"a.jsonl", "o.jsonl"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": "expression"}, r"answers number \(now expression\), marker #### \(now boxed\)"),
        ({"marker": "boxed"}, r"marker #### \(now boxed\)"),
        ({"seconds": 2.0}, r"seconds 0\.8 \(now 2\.0\)"),
        ({"columns": ["truncated=prompt"]}, r"columns {} \(now {'truncated': 'prompt'}\)"),
    ],
)
def test_changed_settings_are_refused(change, message, tmp_path, monkeypatch):
    file, out = interrupted(tmp_path, monkeypatch)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=rf"o\.jsonl\.partial: was begun with {message}; delete it, or choose"):
        grade_rows(dataclasses.replace(numbers(file, out), **change))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_changed_file_or_version_is_refused(tmp_path, monkeypatch):
    file, out = interrupted(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(module, "__version__", "9.9")
        with pytest.raises(InputError, match=r"begun with stepcredit \S+ \(now 9\.9\)"):
            grade_rows(numbers(file, out))
    (tmp_path / "b.jsonl").write_text(Path(file).read_text())
    with pytest.raises(InputError, match=r"begun with file a\.jsonl \(now b\.jsonl\), file mtime_ns"):
        grade_rows(numbers(tmp_path / "b.jsonl", out))
    assert grade_rows(numbers(file, out, workers=2, skip_bad=True, overwrite=True)).resumed == 8
    interrupted(tmp_path, monkeypatch, overwrite=True)
    with Path(file).open("a") as more:
        more.write(json.dumps(row(20)) + "\n")
    with pytest.raises(InputError, match=r"begun with file size \d+ \(now \d+\), file mtime_ns"):
        grade_rows(numbers(file, out))


def test_a_damaged_partial_is_refused(tmp_path, monkeypatch):
    file, out = interrupted(tmp_path, monkeypatch)
    partial = tmp_path / "o.jsonl.partial"
    partial.write_bytes(partial.read_bytes().replace(b'"', b"\0", 1))
    with pytest.raises(InputError, match=r"o\.jsonl\.partial:1: is damaged; delete it"):
        grade_rows(numbers(file, out))


SLOW = """
import signal
import sys
from stepcredit.cli import main
from stepcredit.logs import grade_logs as grade
grade.ROWS_PER_CHUNK = 2
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner in the background may ignore it
sys.exit(main(["grade", sys.argv[1], "--output", sys.argv[2], "--seconds", "0.3"]))
"""


def children(pid):
    """The processes below one, from /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    below = [pid]
    for known in below:
        below += parents.get(known, [])
    return below[1:]


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_an_interrupted_run_leaves_no_process_and_goes_on(signum, tmp_path):
    rows = [{"response": "\\boxed{\\sqrt{8}/2}", "answer": "\\sqrt{2}"}] * 2
    rows += [{"response": f"\\boxed{{{TOWER}}}", "answer": "17"}] * 12
    file, out, partial = write(tmp_path / "a.jsonl", rows), tmp_path / "o.jsonl", tmp_path / "o.jsonl.partial"
    command = [sys.executable, "-c", SLOW, file, str(out)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as running:
        assert wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
        family = children(running.pid)
        assert len(family) >= 2
        running.send_signal(signum)
        err = running.communicate(timeout=60)[1]
    ends = {signal.SIGINT: (130, "stepcredit: interrupted\n"), signal.SIGTERM: (143, "stepcredit: terminated\n")}
    assert (running.returncode, err) == ends.get(signum, (-signum, ""))
    assert wait_for(lambda: not any(map(runs, family)), 5 * SLACK)
    kept = partial.read_bytes().count(b"\n")
    assert 2 <= kept < 14
    assert {p.name for p in tmp_path.iterdir()} == {
        *("a.jsonl", "o.jsonl.partial", "o.jsonl.partial.json", "o.jsonl.partial.quarantine.jsonl")
    }
    if signum == signal.SIGINT:
        report = grade_rows(GradeConfig(file, str(out), seconds=0.3))
        assert (report.resumed, report.right, report.undecided) == (kept, 2, 12)


def test_rows_are_read_a_chunk_ahead_and_no_further(tmp_path, monkeypatch):
    count, read, ahead = 3_000, [], []

    def rows(file):
        for k in range(count):
            read.append(k)
            yield Row(f"{file}:{k + 1}", k / count, row(k))

    real = module.RowWriter.write

    def watched(self, good, bad):
        real(self, good, bad)
        ahead.append(len(read) - self.done)

    monkeypatch.setattr(module, "read_logs", lambda files: [rows(files[0])])
    monkeypatch.setattr(module.RowWriter, "write", watched)
    file = write(tmp_path / "a.jsonl", [])
    report = grade_rows(numbers(file, tmp_path / "o.jsonl"))
    assert (report.rows, report.right, report.strict) == (count, count // 2, count // 4)
    assert len(ahead) == -(-count // module.ROWS_PER_CHUNK)
    assert max(ahead) == 0


# ---- and then ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ({"prompt": "q", "response": "1"}, []),
        ({"prompt": "q", "completion": "1"}, []),
        ({"question": "q", "response": "1"}, ["prompt=question"]),
        ({"problem": "q", "output": "1"}, ["prompt=problem", "completion=output"]),
        ({"prompt": "q", "response": "1", "completion": "2"}, ["completion=response"]),
        ({"prompt": "q", "output": "1", "why": "stop"}, ["completion=output", "finish_reason=why"]),
        ({"q": "q", "response": "1"}, None),
        ({"prompt": "q", "response": [{"role": "assistant", "content": "1"}]}, None),
    ],
)
def test_the_hint_to_import_works_as_it_stands(data, columns, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["response=output"] if "output" in data else []
    given += ["finish_reason=why"] if "why" in data else []
    write(tmp_path / "a.jsonl", [{**data, "answer": 1}])
    flags = ["--columns", *given] if given else []
    assert main(["grade", "a.jsonl", "--output", "my file.jsonl", *flags]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    if columns is None:
        assert "Next" not in last
        return
    hint = shlex.split(last.removeprefix("Next: "))
    expected = ["--columns", *columns] if columns else []
    assert hint == ["stepcredit", "import", "my file.jsonl", "--output_dir", "episodes", *expected]
    assert main(hint[1:]) == 0
    (episode,) = load_episodes("episodes")
    assert (episode.prompt, episode.completion, episode.reward, episode.verdict) == ("q", "1", 1.0, Verdict.RIGHT)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_graded_rows_become_episodes(suffix, tmp_path):
    rows = [row(0, sample=0), row(1, sample=1), row(2, answer="17", response=f"\\boxed{{{TOWER}}}", stop_reason="stop")]
    rows += [row(3, response="")]
    file, out = write(tmp_path / "a.jsonl", rows), tmp_path / f"o{suffix}"
    report = grade_rows(GradeConfig(file, str(out), seconds=0.3))
    assert "Next: stepcredit import" in report.summary()
    import_logs(ImportConfig([str(out)], str(tmp_path / "episodes")))
    episodes = list(load_episodes(tmp_path / "episodes"))
    assert [(e.reward, e.verdict) for e in episodes] == [
        (1.0, Verdict.RIGHT),
        (0.0, Verdict.WRONG),
        (None, Verdict.UNDECIDED),
        (0.0, Verdict.WRONG),
    ]
    assert episodes[2].stop_reason is StopReason.STOP
    assert [e.metadata["extracted"] for e in episodes] == ["0", "-1", TOWER, None]
    assert [e.metadata["strict"] for e in episodes] == [True, False, True, False]
    assert episodes[0].metadata["answer"] == "0"


def test_truncated_rows_do_not_keep_the_others_from_being_imported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [row(0), row(1, truncated=True), row(2)])
    assert main(["grade", "a.jsonl", "--output", "o.jsonl"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert main(shlex.split(last.removeprefix("Next: "))[1:]) == 0
    kept = [e for e in load_episodes("episodes") if not e.truncated]
    assert [(e.prompt, e.reward) for e in kept] == [("q0", 1.0), ("q2", 1.0)]


# ---- real data ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROLLOUTS.is_file() and GSM8K.is_file()), reason=f"needs the GSM8K files in {DATA}")
def test_real_rollouts_agree_with_their_labels(tmp_path):
    with gzip.open(GSM8K, "rt", encoding="utf-8") as file:
        golds = [json.loads(line)["answer"] for line in file]
    with gzip.open(ROLLOUTS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(600), file)]
    joined = write(tmp_path / "a.jsonl", [{**r, "label": r["reward"], "answer": golds[r["qid"]]} for r in rows])
    out = tmp_path / "o.jsonl.gz"
    report = grade_rows(numbers(joined, out, overwrite=True))
    assert (report.rows, report.undecided, report.truncated, report.bad) == (600, 0, 0, 0)
    found = graded(out)
    assert [r["response"] for r in found] == [r["response"] for r in rows]
    assert sum(r["reward"] == r["label"] for r in found) >= 0.99 * 600
    import_logs(ImportConfig([str(out)], str(tmp_path / "episodes"), columns=["prompt_id=qid"]))
    assert load_episodes(tmp_path / "episodes").column("reward") == [r["reward"] for r in found]


@pytest.mark.skipif(not (DATA / "math500.jsonl.gz").is_file(), reason=f"needs the MATH files in {DATA}")
def test_real_solutions_are_right_by_their_own_gold_answers(tmp_path):
    with gzip.open(DATA / "math500.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert all(gold_answer(r["solution"]) == boxed_gold(r["solution"]).strip() for r in rows)
    assert all(gold_answer(r["answer"]) == r["answer"].strip() for r in rows)
    sample = write(tmp_path / "a.jsonl", [{**r, "response": r["solution"]} for r in rows[:100]])
    report = grade_rows(GradeConfig(sample, str(tmp_path / "o.jsonl"), columns=["answer=solution"]))
    assert (report.right, report.strict) == (100, 100)
    assert report.import_columns == ("prompt=problem",)
