import gzip
import json
import os
from itertools import islice

import pytest

from stepcredit.errors import InputError
from stepcredit.logs.formats import read_rows
from stepcredit.logs.writers import RowWriter, output_path

SETTINGS = {"file": "a.jsonl", "seconds": 0.8}
INPUT = [(k, "bad" if k in (1, 4, 5, 9, 12) else f"ü{k}") for k in range(1, 13)]
GOOD = [{"k": k, "text": text} for k, text in INPUT if text != "bad"]


def entry(k):
    return {"number": k, "where": f"a.jsonl:{k}", "error": "no"}


def lines(items):
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


def work(out, chunk=3, **given):
    """What a command does: skip what is there, write the rest, finish."""
    with RowWriter(out, SETTINGS, **given) as writer:
        resumed = writer.done, writer.bad
        rows = iter(INPUT[writer.done :])
        while part := list(islice(rows, chunk)):
            good = [{"k": k, "text": text} for k, text in part if text != "bad"]
            writer.write(good, [entry(k) for k, text in part if text == "bad"])
        assert (writer.done, writer.bad, writer.first_bad) == (12, 5, entry(1))
        writer.finish()
    return resumed


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WHOLE = {"o.jsonl": lines(GOOD), "o.jsonl.quarantine.jsonl": lines(entry(k) for k in (1, 4, 5, 9, 12))}


def test_rows_appear_with_the_bad_ones_beside_them(tmp_path):
    assert work(tmp_path / "deep" / "o.jsonl") == (0, 0)
    assert files(tmp_path / "deep") == WHOLE


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_all_formats_hold_the_same_and_the_same_bytes_every_time(suffix, tmp_path):
    for name in ("a", "b"):
        work(tmp_path / f"{name}{suffix}")
    assert [row.data for row in read_rows(tmp_path / f"a{suffix}")] == GOOD
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    if suffix == ".jsonl.gz":
        packed = (tmp_path / f"a{suffix}").read_bytes()
        assert gzip.decompress(packed) == lines(GOOD)
        assert packed[3:8] == bytes(5)  # neither a name nor a time


def states():
    """(good lines, bad lines) that a kill can leave, byte by byte: of every chunk the bad ones are written first."""
    good_before = bad_before = b""
    for start in range(0, 12, 3):
        part = INPUT[start : start + 3]
        bad = lines(entry(k) for k, text in part if text == "bad")
        good = lines({"k": k, "text": text} for k, text in part if text != "bad")
        yield from ((good_before, bad_before + bad[:n]) for n in range(len(bad)))
        yield from ((good_before + good[:n], bad_before + bad) for n in range(len(good)))
        good_before, bad_before = good_before + good, bad_before + bad
    yield good_before, bad_before


def test_whatever_a_kill_leaves_no_row_is_lost_or_doubled(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    out = tmp_path / "o.jsonl"
    header = json.dumps({"settings": SETTINGS, "finished": False})
    for good, bad in states():
        (tmp_path / "o.jsonl.partial").write_bytes(good)
        (tmp_path / "o.jsonl.partial.quarantine.jsonl").write_bytes(bad)
        (tmp_path / "o.jsonl.partial.json").write_text(header)
        done, _ = work(out, chunk=2)
        whole = good.count(b"\n")
        assert done == (GOOD[whole - 1]["k"] if whole else 0)
        assert files(tmp_path) == WHOLE
        out.unlink()
        (tmp_path / "o.jsonl.quarantine.jsonl").unlink()


class Killed(BaseException):
    """A kill, as far as one can be had in this process."""


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_kill_at_the_end_is_made_good(suffix, tmp_path, monkeypatch):
    real, out = os.replace, tmp_path / f"o{suffix}"
    work(tmp_path / f"whole{suffix}")
    expected = (tmp_path / f"whole{suffix}").read_bytes()
    for at in range(2, 5):
        (folder := tmp_path / str(at)).mkdir()
        out, calls = folder / f"o{suffix}", []

        def replace(source, target, calls=calls, at=at):
            calls.append(target)
            if len(calls) == at:
                raise Killed
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            work(out)
        monkeypatch.setattr(os, "replace", real)
        if out.exists():
            with pytest.raises(InputError, match=f"o{suffix} is there already"):
                work(out)
        else:
            assert work(out)[0] == 11
        kept = {name.removeprefix("o"): content for name, content in files(folder).items()}
        assert kept == {suffix: expected, f"{suffix}.quarantine.jsonl": WHOLE["o.jsonl.quarantine.jsonl"]}


def test_only_a_run_with_the_same_settings_goes_on(tmp_path):
    out = tmp_path / "o.jsonl"

    def begin(settings):
        with RowWriter(out, settings) as writer:
            writer.write(GOOD[:1], [])

    begin(SETTINGS)
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"\.partial: was begun with seconds 0\.8 \(now 2\), x None \(now 1\); "):
        begin({**SETTINGS, "seconds": 2, "x": 1})
    assert files(tmp_path) == before
    (tmp_path / "o.jsonl.partial.json").unlink()
    with pytest.raises(InputError, match=r"partial: is there without o\.jsonl\.partial\.json; delete it"):
        begin(SETTINGS)
    (tmp_path / "o.jsonl.partial.json").write_text("{")
    with pytest.raises(InputError, match=r"partial\.json: is damaged; delete it"):
        begin(SETTINGS)
    (tmp_path / "o.jsonl.partial").write_bytes(b"")
    begin({**SETTINGS, "seconds": 2})


def test_a_file_that_only_has_the_name_is_left_alone(tmp_path):
    (tmp_path / "o.jsonl.partial").write_bytes(b"somebody's notes\nand the last of them")
    with pytest.raises(InputError, match=r"partial: is there without"):
        work(tmp_path / "o.jsonl")
    assert (tmp_path / "o.jsonl.partial").read_bytes() == b"somebody's notes\nand the last of them"


def test_a_damaged_line_is_named(tmp_path):
    with RowWriter(tmp_path / "o.jsonl", SETTINGS) as writer:
        writer.write(GOOD[:2], [])
    (tmp_path / "o.jsonl.partial").write_bytes(lines(GOOD[:1]) + b"[]\n")
    with (
        RowWriter(tmp_path / "o.jsonl", SETTINGS) as writer,
        pytest.raises(InputError, match=r"o\.jsonl\.partial:2: is damaged"),
    ):
        list(writer.kept())


def test_what_is_there_is_replaced_only_when_asked(tmp_path):
    out = tmp_path / "o.jsonl"
    work(out)
    with pytest.raises(InputError, match=r"output: .*o\.jsonl is there already; --overwrite replaces it"):
        work(out)
    out.unlink()
    with pytest.raises(InputError, match=r"o\.jsonl\.quarantine\.jsonl is there already"):
        work(out)
    work(out, overwrite=True)
    with RowWriter(out, SETTINGS, overwrite=True) as writer:
        writer.write(GOOD, [])
        assert files(tmp_path).keys() > WHOLE.keys()
        writer.finish()
    assert files(tmp_path) == {"o.jsonl": lines(GOOD)}


def test_nothing_written_leaves_nothing(tmp_path):
    with RowWriter(tmp_path / "o.jsonl", SETTINGS):
        assert len(files(tmp_path)) == 3
    assert files(tmp_path) == {}


def test_one_run_at_a_time(tmp_path):
    with RowWriter(tmp_path / "o.jsonl", SETTINGS):
        with pytest.raises(InputError, match=r"o\.jsonl\.partial: another run is writing this file"):
            work(tmp_path / "o.jsonl")
        assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a", "a.parquet"])
def test_other_suffixes_are_refused(name):
    with pytest.raises(InputError, match=f"output: {name}: unknown kind of file; use"):
        output_path(name)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        output_path(str(tmp_path / "a.jsonl"))
    assert str(output_path("b/A.JSONL.GZ")) == "b/A.JSONL.GZ"
