"""Rows come back from a file as they were written, and everything that makes a row different is in its key."""

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepcredit.errors import InputError
from stepcredit.results.row_files import add_rows, parsed, read_curves, read_rows, write_rows
from stepcredit.results.schema import (
    BY_SEED,
    AccuracyRow,
    AtK,
    CreditExample,
    GroupRow,
    PairRow,
    PhaseTime,
    PolicyRow,
    SignalRow,
    StepValue,
    ValueRow,
    written,
)

RANGED = {
    "accuracy": st.floats(0, 1), "accuracy_strict": st.none() | st.floats(0, 1), "p": st.floats(0, 1),
    "stderr": st.none() | st.floats(0, 1), "stderr_problems": st.none() | st.floats(0, 1),
    "difference": st.floats(-1, 1), "low": st.floats(-1, 1),
    "high": st.floats(-1, 1), "seconds": st.floats(0, 1e9), "n": st.integers(1, 10**9), "k": st.integers(1, 64),
    "pass_": st.floats(0, 1), "majority": st.none() | st.floats(0, 1), "more": st.just({}),
    "source_versions": st.none() | st.dictionaries(st.text(), st.text(), max_size=2),
    "group": st.text() | st.integers(), "prompt": st.text() | st.lists(st.text(), max_size=2),
    "answer": st.none() | st.text() | st.integers(), "extracted": st.none() | st.text() | st.floats(-9, 9),
    "task_version": st.none() | st.text() | st.integers(), "verdict": st.sampled_from(["right", "wrong", "undecided"]),
}  # fmt: skip
KINDS = [AccuracyRow, GroupRow, ValueRow, SignalRow, PairRow, CreditExample, PhaseTime]


NESTED = {"list[AtK]": AtK, "list[StepValue]": StepValue}
BY_TYPE = {
    "str": st.text(), "int": st.integers(0, 10**9), "Count": st.integers(0, 10**9), "bool": st.booleans(),
    "float": st.floats(-1e9, 1e9).map(lambda x: x + 0.0),
}  # fmt: skip


def columns_of(kind):
    """Anything in every column of a kind."""
    columns = {}
    for item in fields(kind):
        plain = item.type.removesuffix(" | None")
        if plain in NESTED:
            some = st.lists(columns_of(NESTED[plain]), min_size=1, max_size=2)
        else:
            some = RANGED[item.name] if item.name in RANGED else BY_TYPE[plain]
        columns[item.name] = st.none() | some if item.type.endswith("| None") else some
    return st.fixed_dictionaries(columns)


def made(kind, columns):
    """The row with these columns."""
    nested = {item.name: NESTED.get(item.type.removesuffix(" | None")) for item in fields(kind)}
    return kind(**{n: [made(nested[n], part) for part in c] if nested[n] and c else c for n, c in columns.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_any_row_is_read_as_it_was_written(kind):
    @settings(max_examples=40)
    @given(columns_of(kind))
    def check(columns):
        row = made(kind, columns)
        read = parsed(kind, json.loads(json.dumps(written(row))), "row 1")
        assert read == row
        assert list(written(read)) == list(written(row))

    check()


ABOUT = [f.name for f in fields(PolicyRow) if f.name != "more"]
PLAIN = AccuracyRow(task="t", method="m", search="beam", n=4, accuracy=0.5)


@pytest.mark.parametrize("kind", [AccuracyRow, GroupRow, ValueRow])
def test_every_setting_is_in_the_key(kind):
    @settings(max_examples=60)
    @given(columns_of(kind), columns_of(kind), st.sampled_from([*ABOUT, *kind.ABOUT]))
    def check(columns, others, name):
        row, there = made(kind, columns), others[name]
        changed = replace(row, **{name: there})
        assert (changed.key() == row.key()) == (there == getattr(row, name))
        assert (changed.key(BY_SEED) == row.key(BY_SEED)) == (there == getattr(row, name) or name in BY_SEED)

    check()


def test_what_was_measured_is_not_in_the_key():
    assert replace(PLAIN, accuracy=0.25, n=8, tokens_generated=3, steps=7).key() == PLAIN.key()


def test_columns_with_their_defaults_are_left_out_and_null_ones_stay():
    assert written(PLAIN) == {
        "task": "t", "method": "m", "value": None, "search": "beam", "n": 4, "accuracy": 0.5, "stderr": None,
    }  # fmt: skip
    at_k = [AtK(k=1, pass_=0.5, pass_stderr=None)]
    assert written(replace(PLAIN, at_k=at_k))["at_k"] == [{"k": 1, "pass": 0.5, "pass_stderr": None}]


def test_a_row_measured_again_takes_the_place_of_the_old_one_and_others_stand_beside_it(tmp_path):
    path = tmp_path / "r.json"
    again, warm = replace(PLAIN, accuracy=0.75), replace(PLAIN, temperature=0.5)
    add_rows(path, [PLAIN])
    add_rows(path, [warm])
    add_rows(path, [again])
    add_rows(path, [])
    assert read_rows(path, AccuracyRow) == [again, warm]
    assert read_rows(tmp_path / "absent.json", AccuracyRow) == []


def test_unknown_columns_are_kept(tmp_path):
    later = {**written(PLAIN), "seed": 3, "colour_of_the_sky": ["blue"]}
    (tmp_path / "r.json").write_text(json.dumps([later]))
    add_rows(tmp_path / "r.json", [PLAIN])
    first, second = json.loads((tmp_path / "r.json").read_text())
    assert first == later
    assert second == written(PLAIN)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"accuracy": None}, "field 'accuracy' must be a finite number from 0 to 1, found None"),
        ({"accuracy": 93.0}, "field 'accuracy' must be a finite number from 0 to 1, found 93.0"),
        ({"accuracy": math.nan}, "'accuracy'"),
        ({"accuracy": True}, "'accuracy'"),
        ({"accuracy": "0.5"}, "'accuracy'"),
        ({"n": 0}, "field 'n' must be a whole number of at least 1, found 0"),
        ({"n": 2.5}, "'n'"),
        ({"stderr": -0.1}, "field 'stderr' must be a finite number of at least 0 or null, found -0.1"),
        ({"method": None}, "field 'method' must be a text, found None"),
        ({"search": 3}, "'search'"),
        ({"task": None}, "'task'"),
        ({"width": -1}, "'width'"),
        ({"seed": "zero"}, "'seed'"),
        ({"truncated": 0.02}, "'truncated'"),
        ({"tokens_generated": 10**400}, "'tokens_generated'"),
        ({"source_versions": "1"}, "field 'source_versions' must be an object or null"),
        ({"at_k": [{"k": 1}]}, "'pass'"),
        ({"at_k": {"k": 1}}, "'at_k' must be a list or null"),
    ],
)
def test_a_malformed_row_is_told_with_file_row_and_field(tmp_path, bad, told):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([written(PLAIN), {**written(PLAIN), **bad}]))
    with pytest.raises(InputError) as caught:
        read_rows(path, AccuracyRow)
    assert told in str(caught.value)
    assert caught.value.where.startswith(f"{path}, row 2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "row", "where"),
    [
        (ValueRow, {"task": "t", "method": "m", "metric": "auc"}, "row 1"),
        (PairRow, {"task": "t"}, "row 1"),
        (AccuracyRow, ["oreo", 0.9], "row 1"),
        (CreditExample, {"prompt": "p", "verdict": "maybe", "steps": []}, "row 1"),
        (CreditExample, {"prompt": "p", "verdict": "right", "steps": [{"text": "a"}, {"value": 1}]}, "row 1, steps 2"),
        (PhaseTime, {"phase": "a", "seconds": -1}, "row 1"),
    ],
)
def test_every_kind_is_checked(tmp_path, kind, row, where):
    (tmp_path / "x.json").write_text(json.dumps([row]))
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path / "x.json", kind)
    assert caught.value.where == f"{tmp_path / 'x.json'}, {where}"


def test_curves_keep_numbers_and_nothing_else(tmp_path):
    path = tmp_path / "curves.json"
    path.write_text(
        '{"oreo": [{"step": 1, "loss": null, "kl": Infinity, "note": "x"}, {"step": 2, "loss": 3}], "a": []}'
    )
    first, second = read_curves(path)["oreo"]
    assert (first["step"], second) == (1.0, {"step": 2.0, "loss": 3.0})
    assert [math.isnan(first[name]) for name in ("loss", "kl")] == [True, True]
    assert set(first) == {"step", "loss", "kl"}
    for bad, where in [('{"oreo": {}}', ""), ('{"oreo": [{}]}', ", 'oreo' row 1"), ('{"oreo": [3]}', ", 'oreo' row 1")]:
        path.write_text(bad)
        with pytest.raises(InputError) as caught:
            read_curves(path)
        assert caught.value.where == f"{path}{where}"


def test_rows_of_another_kind_are_refused_before_anything_is_written(tmp_path):
    write_rows(tmp_path / "r.json", [PhaseTime(phase="a", seconds=1.0)])
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(InputError, match="'task'"):
        add_rows(tmp_path / "r.json", [PLAIN])
    assert (tmp_path / "r.json").read_bytes() == before
