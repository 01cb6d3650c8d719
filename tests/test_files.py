"""Files written whole, and folders that one process writes into at a time."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest

from doubles.holder import held_by_another
from stepcredit.errors import InputError
from stepcredit.files import (
    changed_settings,
    draft_of,
    folder_written_whole,
    holds_something,
    locked,
    read_manifest,
    write_json,
    write_lines,
)


def refused(folder):
    return pytest.raises(InputError, match=re.escape(f"{folder}: is being written by"))


def test_the_second_process_is_told_who_the_first_is(tmp_path):
    folder = tmp_path / "a" / "b"
    with held_by_another(folder) as process:
        assert not holds_something(folder)
        with refused(folder) as error, locked(folder, "x"):
            pytest.fail("both have it")
        assert re.search(
            rf"by `stepcredit collect` \(process {process.pid} on \S+, since 20\d\d-\d\d-\d\d \d\d:\d\d\); "
            "wait for it, or choose another --output_dir$", str(error.value),
        )  # fmt: skip
        with locked(tmp_path / "a", "x"), locked(tmp_path / "a" / "c", "x"):
            pass
    with locked(folder, "x"):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    with held_by_another(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".lock.json"]
    assert not holds_something(tmp_path)
    with locked(tmp_path, "x"):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_waiting_for_a_process_that_finishes(tmp_path):
    with held_by_another(tmp_path / "out") as process:
        threading.Timer(0.3, process.stdin.close).start()
        with locked(tmp_path / "out", "x", wait=30):
            assert process.wait(20) == 0


def test_one_thread_may_lock_again_and_another_may_not(tmp_path):
    found = []

    def other():
        with refused(tmp_path), locked(tmp_path, "other"):
            found.append("both have it")

    with locked(tmp_path, "outer"):
        with locked(tmp_path / ".." / tmp_path.name, "inner"):
            pass
        assert json.loads((tmp_path / ".lock.json").read_text())["doing"] == "outer"
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert not found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [False, True])
def test_folders_stay_where_something_is_written(tmp_path, fails):
    (tmp_path / "old").mkdir()
    for folder, writes in (("old", False), ("new/er", True), ("empty/too", False)):
        try:
            with locked(tmp_path / folder, "x"):
                if writes:
                    (tmp_path / folder / "file").write_text("x")
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["er", "file", "new", "old"]


def test_a_refused_process_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder, why in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "x", "Not a directory")):
        with pytest.raises(InputError, match=rf"cannot be written \({why}\)"), locked(folder, "x"):
            pass
    with pytest.raises(InputError, match="file: is a file; give a folder"):
        holds_something(tmp_path / "file")
    assert not holds_something(tmp_path / "none")
    assert holds_something(tmp_path)


def test_a_holder_that_cannot_be_read_is_another_process(tmp_path):
    with held_by_another(tmp_path):
        for text in ("", "{}", "[]", '{"doing": 1'):
            (tmp_path / ".lock.json").write_text(text)
            with pytest.raises(InputError, match="by another process; wait"), locked(tmp_path, "x"):
                pass


def test_files_are_whole_or_as_they_were(tmp_path):
    write_json(tmp_path / "a" / "b.json", {"é": 1})
    assert (tmp_path / "a" / "b.json").read_text(encoding="utf-8") == '{\n "é": 1\n}\n'
    write_lines(tmp_path / "c.jsonl", [{"é": 1}, {}])

    def torn():
        yield {"é": 2}
        raise KeyError

    with pytest.raises(KeyError):
        write_lines(tmp_path / "c.jsonl", torn())
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        write_json(tmp_path / "a" / "b.json", circle)
    assert (tmp_path / "c.jsonl").read_text(encoding="utf-8") == '{"é": 1}\n{}\n'
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b.json", "c.jsonl"]


@pytest.mark.parametrize("below", ["file/out.json", "file/deeper/out.json"])
def test_a_path_below_a_file_is_told(tmp_path, below):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match=r"because .*file is a file$"):
        write_json(tmp_path / below, {})
    assert (tmp_path / "file").read_text() == "kept"


def test_two_writers_never_share_a_part(tmp_path):
    """The second begins and ends while the first is at work; the one that ends last stays."""

    def slow():
        yield {"by": "first"}
        write_lines(tmp_path / "x", [{"by": "second"}])
        assert (tmp_path / "x").read_text() == '{"by": "second"}\n'
        yield {}

    write_lines(tmp_path / "x", slow())
    assert (tmp_path / "x").read_text() == '{"by": "first"}\n{}\n'


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is not JSON (Expecting value)"), (b'{"a": 1', "is not JSON (Expecting ',' delimiter)"),
        (b"\xff\xfe\x00", "is not UTF-8 text"), (b"{}", "{} in place of settings"), (b"[]", "[] in place"),
        (b"null", "None in place"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_told_by_name(tmp_path, content, why):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"damaged or half-written, {why}")) as error:
        read_manifest(tmp_path / "x.json")
    assert "x.json" in str(error.value)
    assert "restore it, or choose another --output_dir" in str(error.value)


def test_settings_that_differ(tmp_path):
    wanted = {"b": (1, 2), "a": tmp_path, "new": None}
    assert changed_settings({"a": str(tmp_path), "b": [1, 2], "old": None}, wanted) == []
    assert changed_settings({"a": "x", "b": [1], "old": 0}, wanted) == ["a", "b", "old"]


def test_half_written_files_of_dead_processes_of_this_host_are_removed_and_no_others(tmp_path, monkeypatch):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    pid = int(dead.stdout)
    mine = draft_of(tmp_path / "results.json")
    monkeypatch.setattr(os, "getpid", lambda: pid)
    gone, folder = [draft_of(tmp_path / name) for name in ("results.json", "episodes")], draft_of(tmp_path / "out")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "another host")
        stays = [draft_of(tmp_path / "results.json"), mine, tmp_path / ".hidden", tmp_path / "a.part"]
    monkeypatch.undo()
    for path in (*gone, *stays):
        path.write_text("x")
    (folder / "deeper").mkdir(parents=True)
    with locked(tmp_path, "test"):
        pass
    assert not any(path.exists() for path in (*gone, folder))
    assert all(path.exists() for path in stays)


def broken(part, error):
    (part / "weights").write_text("three")
    raise error


def test_a_folder_is_written_whole_or_stays_as_it_was(tmp_path):
    folder = tmp_path / "policy"
    for content in ("one", "two"):
        with folder_written_whole(folder) as part:
            (part / "weights").write_text(content)
        assert (folder / "weights").read_text() == content
    for error, expected in ((ZeroDivisionError(), ZeroDivisionError), (OSError(28, "no space"), InputError)):
        with pytest.raises(expected), folder_written_whole(folder) as part:
            broken(part, error)
    with pytest.raises(InputError, match="policy: cannot be written"), folder_written_whole(folder) as part:
        shutil.rmtree(part)  # so that the last step, its renaming, fails
    assert (folder / "weights").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


FULL = """
import resource, signal, sys, torch
from stepcredit.files import is_full
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
told, size = set(), 6000
for limit in range(0, size, 60):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        torch.save({"weight": torch.zeros(1000)}, sys.argv[1])
    except Exception as error:
        assert is_full(error), f"{limit}: {error}"
        told.add(type(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert told, "no limit was too low"
"""


def test_whatever_torch_says_of_a_full_disk_is_known(tmp_path):
    """The place at which the disk is full decides which of its layers notices."""
    run = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "x.pt")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
