"""Texts of strangers through every page and table: nothing live, nothing raw."""

import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from stepcredit.cli import main
from stepcredit.commands.generate import _show
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.store import append_episodes
from stepcredit.report.dataset import preview_panels
from stepcredit.report.tables import group_tables, results_table, samples_table, value_table
from stepcredit.report.trace import trace_page
from stepcredit.results.schema import AccuracyRow, AtK, GroupRow, ValueRow, written
from stepcredit.rollouts.generate import Answer

SCRIPTS = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>", "<iframe src=javascript:alert(1)>", "<a href='javascript:alert(1)'>x</a>",
    "\"><script>alert(1)</script>", "'><img src=x onerror=alert(1)>", "<!--><script>alert(1)</script>-->",
    "<style>@import 'x'</style>", "<body onload=alert(1)>", "<details open ontoggle=alert(1)>",
    "<math><mtext><script>alert(1)</script>", "<base href=//x>", "<meta http-equiv=refresh content=0>",
    "<object data=x>", "<embed src=x>", "<form action=x><input autofocus onfocus=alert(1)>", "{{ 7*7 }}",
    "{% for x in y %}", "${alert(1)}", "]]><script>alert(1)</script>", "<plaintext>", "<xmp>", "&lt;script&gt;",
    "<SCRIPT SRC=//x></SCRIPT>", "<scr\0ipt>alert(1)</scr\0ipt>", "<template><script>alert(1)</script>",
]  # fmt: skip
CONTROLS = [
    "\x1b[31mred\x1b[0m", "\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x1b]8;;http://x\x07link\x1b]8;;\x07", "\x9b31m",
    "\x07\x07", "\x08\x08\x08", "\x00", "a\x00b", "\x7f", "\r overwritten", "\x0b\x0c", "\u202egnp.exe",
    "\u2066isolated\u2069", "\u200f\u200e", "\u061c", "\u202a\u202b\u202c\u202d", "\u2067\u2068", "[red]markup[/red]",
    "[link=http://x]x[/link]", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "\ufeff\ufffe",
]  # fmt: skip
LONG = ["x" * 100_000, "<b>" * 33_000]
TEXTS = [*SCRIPTS, *CONTROLS, *LONG]
RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LIVE = {"script", "iframe", "object", "embed", "base", "form", "input", "plaintext", "xmp", "template", "img"}


class Tags(HTMLParser):
    """The tags of a page with their attributes, none inside of style."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def dead(page):
    """Nothing in a page is live but what a page without strangers' texts has."""
    assert not RAW.search(page)
    for tag, attributes in Tags(page).tags:
        assert tag not in LIVE, tag
        assert not any(name.startswith("on") for name in attributes), attributes
        assert not {"src", "action", "formaction", "data"} & attributes.keys(), attributes
        assert str(attributes.get("href", "#")).startswith("#"), attributes


def shown(*renderables):
    """What a terminal gets."""
    console = Console(width=120, force_terminal=False, color_system=None, record=True)
    for renderable in renderables:
        console.print(renderable)
    return console.export_text()


def rows(text):
    about = {"task": text, "split": text, "method": text, "search": "sample", "seed": 0, "policy": text, "value": text}
    numbers = {"n": 4, "accuracy": 0.5, "stderr": 0.1}
    accuracy = AccuracyRow(**about, width=2, **numbers, at_k=[AtK(k=1, pass_=0.5)], truncated=0, undecided=0,
                           tokens_generated=9)  # fmt: skip
    group = GroupRow(**about, by=text, group=text, **numbers)
    value = ValueRow(
        **about, metric="auc_within_prompt", at=0.5, estimate=0.5, low=0.4, high=0.6, n=3, prompts=2, note=text
    )
    return accuracy, group, value


def test_there_are_fifty():
    assert len(TEXTS) >= 50


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_pages(text, tmp_path):
    accuracy, _, value = rows(text)
    credit = {
        "task": text, "prompt": text, "answer": text, "extracted": text, "verdict": "wrong", "value_initial": 0.5,
        "steps": [{"text": text, "value": 0.1, "right": False}],
    }  # fmt: skip
    files = {
        "results.json": [written(accuracy)], "value.json": [written(value)], "credit.json": [credit],
        "run.json": {"command": text, "setting": text, "methods": {text: {"label": text, "color": text}}},
        "curves.json": {text: [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}]},
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    code = main(["report", str(tmp_path)])
    assert code in (0, 2)  # a colour that is none may be refused
    if code == 0:
        dead((tmp_path / "report.html").read_text(encoding="utf-8"))
    nodes = [
        {"id": 0, "parent": None, "round": 0, "text": "", "tokens": 0, "value": 0.5, "state": "root", "merged": 0,
         "verdict": None, "extracted": None},
        {"id": 1, "parent": 0, "round": 1, "text": text, "tokens": 2, "value": 0.7, "state": "finished", "merged": 1,
         "verdict": "right", "extracted": text},
    ]  # fmt: skip
    trace = {
        "task": text, "prompt_id": text, "prompt": text, "answer": text, "search": "beam", "width": 1,
        "continuations": 1, "tokens_generated": 2, "tokens_scored": 2, "nodes": nodes, "chosen": 1, "error": text,
    }  # fmt: skip
    dead(trace_page(trace))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_tables(text, capsys):
    accuracy, group, value = rows(text)
    tables = [results_table([accuracy]), samples_table(accuracy), *group_tables([group]), value_table([value])]
    found = shown(*tables, preview_panels([(text, text)]))
    assert not RAW.search(found)
    console = Console(width=120, force_terminal=False, color_system=None, record=True)
    _show(Answer(text, text, StopReason.STOP, 3, 0.5, (text,), (0.5, 0.5)), console)
    assert not RAW.search(console.export_text())


@pytest.mark.parametrize("text", [t for t in TEXTS if "\ufffe" not in t], ids=str.__len__)
def test_inspect(text, tmp_path, capsys):
    append_episodes(tmp_path, [Episode(prompt=text, completion=text, reward=1.0, prompt_id=text)])
    assert main(["inspect", str(tmp_path), "--preview", "1"]) == 0
    assert not RAW.search(capsys.readouterr().out)
