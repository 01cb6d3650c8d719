import json
from pathlib import Path

import pytest

from doubles.pages import HOSTILE, UNSEEN, Reader
from doubles.results import LEGEND, accuracies
from stepcredit.errors import InputError
from stepcredit.report.formatting import duration, signed
from stepcredit.report.page import headline, render, write_report
from stepcredit.report.scores import aggregate


def row(**fields):
    return {"task": "sums", "split": "test", "method": "oreo", "search": "greedy", "n": 1000} | fields


def files(evil=""):
    """Every file with `evil` in every text, names of keys included."""
    steps = [
        {"text": f"1+1=2{evil}\n", "value": 0.75, "right": True},
        {"text": f"2+2=5{evil}\n", "value": 0.125, "right": False},
        {"text": "", "value": None, "right": None},
    ]
    response = {"task": f"sums{evil}", "prompt": f"1+1+2?{evil}", "answer": f"4{evil}", "value_initial": 0.5}
    return {
        "results.json": [
            row(accuracy=0.931, seed=0, tokens_generated=100_000, truncated=3, undecided=0),
            row(accuracy=0.935, seed=1, tokens_generated=100_000, truncated=3, undecided=0),
            row(accuracy=0.953, search="beam", width=4, tokens_generated=410_000, tokens_scored=4000, seed=0),
            row(task=f"sums{evil}", split=f"test{evil}", method=f"sft{evil}", accuracy=0.312, seed=0),
            row(task=f"sums{evil}", split=f"test{evil}", method="rft", search=f"s{evil}", accuracy=0.5),
        ],
        "value.json": [
            {
                "task": "sums",
                "method": f"oreo{evil}",
                "metric": m,
                "at": 0.5,
                "estimate": 0.8,
                "low": 0.7,
                "high": 0.9,
                "note": n,
            }
            for m, n in [("auc_within_prompt", ""), (f"odd{evil}", f"a note{evil}")]
        ],
        "curves.json": {f"oreo{evil}": [{"step": 1, "loss": 1.0, evil: evil}, {"step": 2, "loss": 0.5}]},
        "credit.json": [
            response | {"extracted": f"4{evil}", "verdict": "right", "steps": steps[:1]},
            response | {"extracted": None, "verdict": "wrong", "steps": steps},
            response | {"extracted": evil, "verdict": "undecided", "steps": []},
        ],
        "timings.json": [{"phase": f"collect{evil}", "seconds": 65.0}, {"phase": "train", "seconds": 5}],
        "run.json": {
            "methods": {"sft": {"label": f"SFT{evil}", "color": evil}},
            f"command{evil}": f"run{evil}",
            f"model{evil}": {f"a{evil}": {f"b{evil}": [1, evil]}},
        },
    }


@pytest.fixture
def folder(tmp_path):
    def write(contents):
        for name, payload in contents.items():
            (tmp_path / name).write_text(json.dumps(payload), encoding="utf-8")
        return tmp_path

    return write


def test_the_whole_page_is_well_formed_and_holds_every_section(folder):
    reader = Reader.of(render(folder(files())))
    links = {value for name, value in reader.attributes if name == "href" and value.startswith("#")}
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {"#accuracy", "#value", "#steps", "#training", "#settings"} <= links
    assert {link[1:] for link in links} <= set(ids)
    text = " ".join(reader.words)
    for words in (
        "✗ first wrong step",
        "▼ largest drop",
        "−0.62",
        "1 min 05 s",
        "1 min 10 s",
        "model",
        "(empty)",
    ):
        assert words in text


def test_the_page_needs_nothing_from_outside(folder):
    text = render(folder(files()))
    reader = Reader.of(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(reader.tags)
    assert "default-src 'none'" in text
    urls = {value for name, value in reader.attributes if value and "//" in value}
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "url(http" not in text
    assert "@import" not in text


def test_figures_are_described_and_headers_have_scope(folder):
    text = render(folder(files()))
    assert text.count('role="img" aria-label="') == text.count("<figure") + 1
    assert text.count("<th ") == text.count("<th scope=") + text.count("<th >")
    assert text.count("<th>") == 0


def test_equal_files_give_equal_bytes(folder, tmp_path):
    source = folder(files())
    first = write_report(source).read_bytes()
    assert write_report(source, tmp_path / "deep" / "again.html").read_bytes() == first


@pytest.mark.parametrize("evil", HOSTILE)
def test_every_text_is_escaped(folder, evil):
    page = write_report(folder(files(evil)))
    reader = Reader.of(page.read_text(encoding="utf-8"))
    clean = Reader.of(render(folder(files("x"))))
    assert set(reader.tags) == set(clean.tags)
    assert {name for name, _ in reader.attributes} == {name for name, _ in clean.attributes}
    assert not any((value or "").startswith("javascript") for _, value in reader.attributes)
    assert "1337" not in "".join(reader.words)
    assert not UNSEEN.search(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("absent", ["value", "curves", "credit", "timings", "run"])
def test_an_absent_file_leaves_its_section_out(folder, absent):
    contents = files()
    del contents[f"{absent}.json"]
    text = render(folder(contents))
    Reader.of(text)
    headings = {
        "value": 'id="value"',
        "curves": 'id="training"',
        "credit": 'id="steps"',
        "timings": "<h3>Time",
    }
    assert (headings.get(absent) or "<h3>Run") not in text


def test_results_alone_are_a_page(folder):
    text = render(folder({"results.json": [row(accuracy=0.5)]}))
    Reader.of(text)
    assert "50.0" in text


@pytest.mark.parametrize("contents", [{}, {"results.json": []}])
def test_a_folder_without_results_is_refused(folder, contents):
    with pytest.raises(InputError, match=r"no results\.json.*stepcredit evaluate"):
        write_report(folder(contents))


@pytest.mark.parametrize(
    ("name", "payload", "where"),
    [
        ("results.json", [row(accuracy=0.5), row()], "row 2"),
        ("results.json", {"rows": []}, "results.json"),
        ("results.json", [row(accuracy=0.5), row(accuracy=0.5)], "row 2"),
        ("value.json", [{"method": "oreo"}], "row 1"),
        ("curves.json", [], "curves.json"),
        ("curves.json", {"oreo": [{}]}, "'oreo' row 1"),
        ("pairs.json", [{"task": "sums"}], "row 1"),
        ("credit.json", [{"prompt": "p"}], "row 1"),
        ("timings.json", [{"phase": "a", "seconds": -1}], "row 1"),
        ("run.json", [1], "run.json"),
    ],
)
def test_a_malformed_file_is_named_and_no_page_is_left(folder, name, payload, where):
    path = folder(files() | {name: payload})
    with pytest.raises(InputError) as caught:
        write_report(path)
    assert caught.value.where is not None
    assert caught.value.where.startswith(str(path / name))
    assert caught.value.where.endswith(where)
    assert not list(path.glob("*.html"))
    assert not list(path.glob(".*.part"))


def test_broken_json_is_told_with_its_line(folder):
    path = folder(files())
    (path / "credit.json").write_text("[\n1,\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"credit\.json, line 3: is not JSON"):
        render(path)
    (path / "credit.json").write_bytes(b"\xff\xfe[")
    with pytest.raises(InputError, match="UTF-8"):
        render(path)


def test_a_failed_run_keeps_the_page_of_before(folder):
    path = folder(files())
    page = write_report(path)
    before = page.read_bytes()
    (path / "value.json").write_text("[{}]", encoding="utf-8")
    with pytest.raises(InputError):
        write_report(path)
    assert page.read_bytes() == before


def test_a_full_disk_keeps_the_page_of_before(folder, monkeypatch):
    path = folder(files())
    page = write_report(path)
    before = page.read_bytes()

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"report\.html: cannot be written \(No space left on device\)"):
        write_report(folder(files("again")))
    assert page.read_bytes() == before
    assert not list(path.glob(".*.part"))


def test_the_page_is_no_folder(folder):
    path = folder(files())
    with pytest.raises(InputError, match="is a folder"):
        write_report(path, path)


def plain(sentences):
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_the_headline_is_computed_from_the_rows():
    rows = [
        row(method="sft", accuracy=0.312, stderr=0.0147),
        row(method="rft", accuracy=0.55, stderr=0.0157),
        *(row(accuracy=a, seed=s, tokens_generated=100) for s, a in enumerate((0.92, 0.94))),
        *(row(accuracy=a, seed=s, search="beam", width=4, tokens_generated=430) for s, a in enumerate((0.95, 0.95))),
    ]
    assert plain(headline(aggregate(accuracies(rows), LEGEND))) == [
        "On 1,000 problems of sums (test), OREO solves 93.0 ± 1.0 %, rejection sampling 55.0 ± 1.6 % "
        "and SFT 31.2 ± 1.5 %.",
        "With step beam of width 4, OREO reaches 95.0 ± 0.0 %, for 4.3 times the tokens generated.",
    ]


def test_without_greedy_the_headline_takes_the_most_common_search():
    rows = [
        row(method="sft", search="sample", accuracy=0.25, n=400),
        row(search="sample", accuracy=0.5, n=100),
        row(search="vote", width=8, accuracy=0.25, n=100),
    ]
    assert plain(headline(aggregate(accuracies(rows), LEGEND))) == [
        "On 100–400 problems of sums (test), OREO solves 50.0 ± 5.0 % and SFT 25.0 ± 2.2 %."
    ]


def test_changes_and_durations_in_words():
    assert [signed(x) for x in (None, 0.08, -0.311, -0.001)] == ["", "+0.08", "−0.31", "+0.00"]
    assert [duration(x) for x in (0.04, 59.9, 59.97, 185.0, 7800.0)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
