import csv
import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepcredit.errors import InputError
from stepcredit.logs.formats import read_rows

ROWS = [
    {"prompt": "1+1=\n", "n": 1, "chat": [{"role": "user", "content": "é\u2028x"}]},
    {"prompt": "", "n": 2.5},
]


def pack(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def as_lines(rows):
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.JSONL", "a.ndjson"])
def test_json_lines(tmp_path, name):
    path = pack(tmp_path / name, as_lines(ROWS))
    rows = list(read_rows(path))
    assert [r.data for r in rows] == ROWS
    assert [r.where for r in rows] == [f"{path}:1", f"{path}:2"]
    assert not any(r.text_cells for r in rows)
    assert rows[-1].progress == 1.0


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_json_list(tmp_path, name):
    path = pack(tmp_path / name, json.dumps([*ROWS, 7, {"x": float("nan")}]).encode())
    *good, number, nan = read_rows(path)
    assert [r.data for r in good] == ROWS
    assert str(number.error) == f"{path}: row 3: a row must be an object, not int"
    assert str(nan.error) == f"{path}: row 4: 'x': nan is not a finite number"
    assert nan.raw == '{"x": NaN}'


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"prompt": f"q{k}", "labels": [True, False], "x": None} for k in range(600)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    read = list(read_rows(path))
    assert [r.data for r in read] == rows
    assert read[299].where == f"{path}: row 300"
    assert read[299].progress == 0.5


def test_objects_in_parquet_have_no_empty_keys(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"chat": [{"role": "user", "call": None}, {"role": "tool", "call": {"x": [1, None], "y": {"z": None}}}]}]
    pq.write_table(pa.Table.from_pylist([*rows, {"chat": None}]), path)
    first, second = read_rows(path)
    assert first.data == {"chat": [{"role": "user"}, {"role": "tool", "call": {"x": [1, None], "y": {}}}]}
    assert second.data == {"chat": None}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv(tmp_path, name):
    long = "x" * 300_000
    content = f'\ufeffprompt,"n"\n"two\nlines, ""quoted""",1\r\n{long},2\n'
    path = pack(tmp_path / name, content.encode())
    first, second = read_rows(path)
    assert first.data == {"prompt": 'two\nlines, "quoted"', "n": "1"}
    assert second.data == {"prompt": long, "n": "2"}
    assert (first.where, second.where) == (f"{path}:2", f"{path}:4")
    assert first.text_cells


@pytest.mark.parametrize("blank", [b"", b"\r", b"  \t", "\u3000".encode()], ids=range(4))
def test_a_blank_line_is_no_row(tmp_path, blank):
    path = pack(tmp_path / "a.jsonl", blank + b'\n{"a": 0}\n' + blank + b'\n{"a": 1}\n' + blank)
    assert [(r.where, r.data) for r in read_rows(path)] == [(f"{path}:2", {"a": 0}), (f"{path}:4", {"a": 1})]
    path = pack(tmp_path / "a.csv", b"a,b\n1,2\n" + blank + b"\n , \n3,4\n" + blank)
    assert [(r.where, r.data) for r in read_rows(path)] == [
        (f"{path}:2", {"a": "1", "b": "2"}),
        (f"{path}:5", {"a": "3", "b": "4"}),
    ]


def test_a_list_of_rows_and_rows_are_told_apart(tmp_path):
    (row,) = read_rows(pack(tmp_path / "a.jsonl", b'[{"a": 1}, {"a": 2}]'))
    assert row.error.what.endswith("a row must be an object, not list; a file that is one list of rows is named .json")
    with pytest.raises(InputError, match=r"Extra data; a file with one object a line is named \.jsonl"):
        list(read_rows(pack(tmp_path / "a.json", b'{"a": 1}\n{"a": 2}')))
    with pytest.raises(InputError, match=r"a\.json: the file is empty"):
        list(read_rows(pack(tmp_path / "a.json", b" \n")))


BAD_LINES = {
    b'{"a": "\xff"}': "not UTF-8 text (byte 8)",
    b'{"a": 1': "invalid JSON at column 8: Expecting ',' delimiter",
    b'{"a": "cut off': "invalid JSON at column 7: Unterminated string starting at",
    b'{"a": 1} {"a": 2}': "invalid JSON at column 10: Extra data",
    b"[1]": "a row must be an object, not list",
    b"null": "a row must be an object, not null",
    b'{"reward": NaN}': "'reward': nan is not a finite number",
    b'{"a": {"b": [1, -Infinity]}}': "'a': -inf is not a finite number",
    b'{"a": 1e999}': "'a': inf is not a finite number",
    b'{"a": "\\ud83d"}': "'a': holds half a character (a lone surrogate)",
    b"[" * 200_000: "invalid JSON: ",
    b'{"a": ' + b"9" * 5000 + b"}": "invalid JSON: Exceeds the limit",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_does_not_stop_the_others(tmp_path, line):
    path = pack(tmp_path / "a.jsonl", b'{"a": 0}\n' + line + b'\n{"a": "\\ud83d\\ude00"}')
    before, bad, after = read_rows(path)
    assert (before.data, after.data) == ({"a": 0}, {"a": "😀"})
    assert after.where == f"{path}:3"
    assert bad.data is None
    assert bad.error.where == bad.where == f"{path}:2"
    assert bad.error.what.startswith(BAD_LINES[line])
    assert bad.raw == line.decode("utf-8", "backslashreplace")


def test_a_byte_order_mark_is_no_data(tmp_path):
    path = pack(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert [r.data for r in read_rows(path)] == [{"a": 1}, {"a": 2}]


def test_bad_csv_rows(tmp_path):
    path = pack(tmp_path / "a.csv", b'a,b\n1,2\n1\n\n1,\xff\n"x"y,2\n3,4\n5,"open\nto the end')
    rows = list(read_rows(path))
    assert [(r.where.rpartition(":")[2], r.data or r.error.what) for r in rows] == [
        ("2", {"a": "1", "b": "2"}),
        ("3", "1 cells for 2 columns"),
        ("5", "not UTF-8 text"),
        ("6", "invalid CSV: ',' expected after '\"'"),
        ("7", {"a": "3", "b": "4"}),
        ("8", "invalid CSV: unexpected end of data"),
    ]
    assert rows[2].raw == '["1", "\\ufffd"]'


def test_bytes_that_are_no_text_in_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    raw = pa.array([b"fine", b"\xff", b"too"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"a": text}), path)
    rows = list(read_rows(path))
    assert [r.data for r in rows] == [{"a": "fine"}, None, {"a": "too"}]
    assert str(rows[1].error) == f"{path}: row 2: not UTF-8 text"


@pytest.mark.parametrize("name", ["a.txt", "a.parquet.gz", "a", "a.gz", "a.jsonl.zip"])
def test_unknown_kinds_are_refused_at_once(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}: unknown kind of file; use .jsonl"):
        read_rows(pack(tmp_path / name, b"x"))


def test_a_missing_file_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"no\.jsonl: no such file"):
        read_rows(tmp_path / "no.jsonl")


LINES = as_lines(ROWS * 2000)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b"not gzip", "corrupt or truncated gzip"),
        ("a.jsonl.gz", b"", "the gzip file is empty"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-300], "corrupt or truncated gzip"),
        ("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9999, mtime=0)[:-9], "corrupt or truncated gzip"),
        ("a.parquet", b"PAR1 no PAR1", "corrupt Parquet file"),
        ("a.json", b'[{"a": 1},', "invalid JSON at column 11"),
        ("a.json", b'{"a": 1}', "expected a list of rows"),
        ("a.csv", b"", ":1: the first line must name the columns"),
        ("a.csv", b"a,a\n1,2\n", ":1: the first line must name the columns"),
        ("a.csv", b'"a\n', ":1: invalid CSV"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}:? ?{message}"):
        list(read_rows(path))


def write_big(path):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["a", "b"], *([k, "x" * 5000] for k in range(4000))])
    elif path.suffix == ".parquet":
        table = pa.table({"a": list(range(4000)), "b": [f"{k:04}" * 1250 for k in range(4000)]})
        pq.write_table(table, path, row_group_size=200)
    else:
        with gzip.open(path, "wt", compresslevel=1) as file:
            for k in range(4000):
                file.write(json.dumps({"a": k, "b": "x" * 5000}) + "\n")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv", "a.parquet"])
def test_memory_stays_constant(tmp_path, name):
    write_big(tmp_path / name)
    tracemalloc.start()
    count = sum(row.data is not None for row in read_rows(tmp_path / name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000
    assert peak < 4e6  # the rows together are 20 MB
