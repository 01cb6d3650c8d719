"""The live page of a folder: what is in it, refreshed, and read by nobody else."""

import http.client
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doubles.pages import HOSTILE, Reader, served
from stepcredit.cli import main
from stepcredit.errors import InputError
from stepcredit.files import write_json
from stepcredit.report.view.view_page import parts_of, version_of, view_page
from stepcredit.report.view.view_server import view_server
from stepcredit.results.row_files import write_rows
from stepcredit.results.schema import AccuracyRow


def curves(folder, steps, method="oreo"):
    write_json(folder / "curves.json", {method: [{"step": k, "loss": 1 / (k + 1)} for k in range(steps)]})


def results(folder, method="oreo", accuracy=0.5):
    row = AccuracyRow(
        task="gsm8k", split="test", method=method, search="greedy", seed=0, n=100, accuracy=accuracy, stderr=0.05
    )
    write_rows(folder / "results.json", [row])


@pytest.fixture
def folder(tmp_path):
    for name in ("run", "table", "page"):
        (tmp_path / name).mkdir()
    curves(tmp_path / "run", 3)
    results(tmp_path / "table")
    (tmp_path / "page" / "credit.html").write_text("<p>a credit page</p>")
    return tmp_path


def asked(port, path, host=None, method="GET"):
    """(status, headers, text) of a request, with the path as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_the_page_has_curves_results_and_credit_pages(folder):
    page = view_page(folder)
    assert re.search(r"<h3>run</h3>\s*<p class=\"note\">step 2, running or stopped; last point 20", page)
    assert 'href="report/table"' in page
    assert "On 100 problems of gsm8k (test), oreo solves 50.0" in page.replace("\N{NO-BREAK SPACE}", " ")
    assert 'href="credit/page"' in page
    assert page.count("<figure>") == 1
    write_json(folder / "run" / "run.json", {})
    assert "step 2, finished" in view_page(folder)


def test_an_empty_folder_says_so(tmp_path):
    assert "Nothing to show yet" in view_page(tmp_path)


def test_the_folder_where_one_is_has_its_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert f"<h1>{folder.name}</h1>" in view_page(Path("."))


def test_models_episodes_checkpoints_and_hidden_folders_are_passed_over(folder):
    for name in ("policy", "episodes", "checkpoint-8", ".unfinished", "run/value"):
        (folder / name).mkdir()
        curves(folder / name, 2)
    assert {part.name for part in parts_of(folder)} == {"run", "table", "page"}


def test_the_version_changes_with_what_is_shown(folder):
    versions = [version_of(parts_of(folder)) for _ in range(2)]
    assert versions[0] == versions[1]
    curves(folder / "run", 4)
    versions.append(version_of(parts_of(folder)))
    write_json(folder / "run" / "run.json", {})
    versions.append(version_of(parts_of(folder)))
    assert len(set(versions)) == 3


def test_only_the_newest_runs_are_drawn(tmp_path):
    for k in range(15):
        (tmp_path / f"r{k:02}").mkdir()
        curves(tmp_path / f"r{k:02}", 2)
        os.utime(tmp_path / f"r{k:02}" / "curves.json", (k, k))
    page = view_page(tmp_path)
    assert page.count("<figure>") == 12
    assert "Older runs, not drawn: r02, r01, r00." in page


@pytest.mark.parametrize("damage", ["{", "[]", '{"oreo": 3}'])
def test_a_damaged_file_is_named_and_the_rest_is_shown(folder, damage):
    (folder / "run" / "curves.json").write_text(damage)
    (folder / "table" / "results.json").write_text("{}")
    page = view_page(folder)
    assert page.count('class="error"') == 2
    assert "curves.json" in page
    assert 'href="credit/page"' in page


@pytest.mark.parametrize(
    "evil", [text for text in HOSTILE if "/" not in text and "\x00" not in text and text.isprintable()]
)
def test_hostile_names_are_texts(tmp_path, evil):
    (tmp_path / evil).mkdir()
    curves(tmp_path / evil, 2, evil)
    results(tmp_path / evil, evil)
    page = view_page(tmp_path)
    assert page.count("<script") == 1
    assert not any(name.startswith("on") for name, _ in Reader.of(page.replace("<!DOCTYPE html>", "")).attributes)
    with served(tmp_path) as port:
        link = re.search(r'href="(report/[^"]+)"', page)[1]
        assert asked(port, f"/{link}")[0] == 200


def test_pages_are_served(folder):
    with served(folder) as port:
        status, headers, text = asked(port, "/")
        assert (status, text) == (200, view_page(folder))
        assert headers["Cache-Control"] == "no-store"
        assert asked(port, "/version")[2] == version_of(parts_of(folder))
        assert 'fetch("version")' in asked(port, "/view.js")[2]
        assert "<h1>Results on gsm8k (test)</h1>" in asked(port, "/report/table")[2]
        assert asked(port, "/credit/page")[2] == "<p>a credit page</p>"


@pytest.mark.parametrize(
    "path",
    [
        "/run/curves.json",
        "/credit/../page",
        "/credit/%2e%2e",
        "/credit/run",
        "/report/page",
        "/../x",
        "//etc/passwd",
        "/report",
        "/x",
    ],
)
def test_nothing_else_is_served(folder, path):
    with served(folder / "..") as port, served(folder) as own:
        assert asked(own, path)[0] == 404
        assert asked(port, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_pages_are_for_this_machine_only(folder, host):
    with served(folder) as port:
        assert asked(port, "/", host)[0] == 403
        assert asked(port, "/", f"localhost:{port}")[0] == 200
        assert asked(port, "/", method="POST")[0] == 501


def test_a_damaged_report_is_an_error_and_the_server_goes_on(folder):
    (folder / "table" / "results.json").write_text('[{"task": "<b>"}]')
    with served(folder) as port:
        status, _, text = asked(port, "/report/table")
        assert status == 500
        assert "results.json" in text
        assert "<b>" not in text
        assert asked(port, "/")[0] == 200


def test_a_missing_folder_and_a_port_in_use_are_one_line(folder, capsys):
    assert main(["view", str(folder / "none")]) == 2
    assert capsys.readouterr().err.endswith("none: no such folder\n")
    with served(folder) as port, pytest.raises(InputError, match=f"port {port} cannot be used"):
        view_server(folder, port)


def test_the_command_follows_a_training(folder, tmp_path):
    """A new point is on the page within ten seconds of its being logged, as a browser would see it."""
    (folder / "live").mkdir()
    command = [sys.executable, "-m", "stepcredit.cli", "view", str(folder), "--port", "0", "--browser", "false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            port = int(re.search(r"127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
            before = asked(port, "/version")[2]
            curves(folder / "live", 7)
            start = time.monotonic()
            while asked(port, "/version")[2] == before:
                assert time.monotonic() - start < 10
            assert "step 6, running or stopped" in asked(port, "/")[2]
        finally:
            process.terminate()
            rest = process.communicate(timeout=60)[0]
    assert process.returncode == 143
    assert rest == "stepcredit: terminated\n"
