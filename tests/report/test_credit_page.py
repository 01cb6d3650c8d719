"""The credit page as text: the data in it, and nothing live but its own script."""

import base64
import hashlib
import json
import re

import pytest

from doubles.credit import episode, run
from doubles.pages import HOSTILE, UNSEEN
from stepcredit.errors import InputError
from stepcredit.files import write_lines
from stepcredit.report.credit.credit_page import credit_page, page_data, write_credit_page
from stepcredit.results.credit_lines import line_of, read_credit

STEPS = (("2 plus 2 is 4\n", 0.6), ("4 times 3 is false\n", 0.1), ("so 13", 0.05), ("<eos>", None))


def lines(models=("oreo",), **more):
    yield run(models, **more)
    yield from episode(0, STEPS, models=len(models))
    yield from episode(1, (("look left", 0.4), ("<eos>", 0.7), "empty", ("right", 0.9), ("<eos>", None)), "right",
                       models=len(models), source="rooms")  # fmt: skip


def inside(page, start, end):
    (found,) = re.findall(re.escape(start) + "(.*?)" + re.escape(end), page, re.DOTALL)
    return found


def data_of(page):
    return json.loads(inside(page, '<script type="application/json" id="data">', "</script>"))


def test_the_page_holds_every_line():
    data = data_of(credit_page(lines()))
    assert data == page_data(lines())
    assert [e["verdict"] for e in data["episodes"]] == ["wrong", "right"]
    assert data["sources"] == ["logs", "rooms"]
    first, second = (e["parts"] for e in data["episodes"])
    assert [(p["n"], p["V"], p["C"], "".join(p["T"])) for p in first] == [
        (0, [0.6], [0.1], "2 plus 2 is 4\n"),
        (1, [0.1], [-0.5], "4 times 3 is false\n"),
        (2, [0.05], [-0.05], "so 13"),
        (3, [None], [None], "<eos>"),
    ]
    words = [(p["T"][0], p["v"][0][0], p["c"][0][0], p["c"][0][-1]) for p in first[:2]]
    assert words == [("2 ", 0.5, 0.02, 0.02), ("4 ", 0.6, -0.1, -0.1)]  # five words each, over which V moves evenly
    assert [p.get("o") for p in second] == [None, None, "tool", None, None]
    assert [p.get("end", False) for p in first] == [False, False, False, True]
    assert [p.get("false", False) for p in first] == [False, True, False, False]
    assert data["scale"]["step"] == pytest.approx(0.48, abs=0.001)  # nearly the largest change


def ranked(pairs, level="token", **more):
    """What the page says of V where each prompt has a right and a wrong response, with these last values."""

    def told():
        yield run(levels=[level], total=2 * len(pairs))
        for k, (right, wrong) in enumerate(pairs):
            for sample, (value, verdict) in enumerate([(right, "right"), (wrong, "wrong")]):
                steps = (("so 13", value), ("<eos>", None))
                yield from episode(2 * k + sample, steps, verdict, prompt_id=f"p{k}", sample=sample, prompt="?", **more)

    (found,) = page_data(told())["about"]["ranking"]
    return found


def test_the_page_says_how_often_v_ranks_right_above_wrong():
    assert ranked([(0.9, 0.1)] * 12) == {"share": 1.0, "low": 1.0, "high": 1.0, "pairs": 12, "prompts": 12}
    mixed = ranked([(0.9, 0.1), (0.1, 0.9), (0.9, 0.1)] * 8)
    assert (mixed["share"], mixed["pairs"], mixed["prompts"]) == (0.667, 24, 24)
    assert mixed["low"] < 0.5 < mixed["share"] < mixed["high"]
    assert ranked([(0.5, 0.5)] * 3)["share"] == 0.5
    assert ranked([(0.9, 0.1)] * 3, level="response") is None  # V of the prompt alone
    assert page_data(lines())["about"]["ranking"] == [None]  # responses to different prompts


@pytest.mark.parametrize(("rewards", "step", "token"), [((0.0, 1.0), 0.05, 0.01), ((-1.0, 3.0), 0.2, 0.04)])
def test_a_v_that_hardly_moves_has_hardly_any_colour(rewards, step, token):
    def told():
        yield run()
        for k, reward in enumerate(rewards):
            yield from episode(k, (("so 13", 0.501), ("<eos>", None)), reward=reward)

    assert page_data(told())["scale"] == {"step": pytest.approx(step), "token": pytest.approx(token)}


def test_the_page_is_deterministic():
    assert credit_page(lines()) == credit_page(lines())


def test_only_the_script_of_the_page_may_run():
    page = credit_page(lines())
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = inside(page, 'Content-Security-Policy" content="', '"')
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert page.count("<script") == 2
    assert not re.search(r"\b(src|href)=\"(?!#)", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_texts_are_data(evil):
    def told():
        yield run((f"oreo{evil}",), episodes=[evil], policy=evil, ref_model=evil)
        texts = {"prompt": [{"role": evil, "content": evil}], "prompt_id": evil, "extracted": evil, "answer": evil}
        yield from episode(0, ((evil, 0.1), evil, (f"so {evil}", 0.2)), source=evil, **texts)

    clean, page = credit_page(lines()), credit_page(told())
    assert page.count("<script") == clean.count("<script") == 2
    assert page.count("</script") == clean.count("</script")
    assert page.partition('id="data">')[0].replace("1 responses", "2 responses") == clean.partition('id="data">')[0]
    assert (
        page.rpartition("</script>")[0].rpartition("<script>")[2]
        == clean.rpartition("</script>")[0].rpartition("<script>")[2]
    )
    assert not UNSEEN.search(page)
    shown = data_of(page)["episodes"][0]
    assert UNSEEN.sub("\ufffd", evil.replace("\r\n", "\n")) == shown["answer"]


def test_the_file_is_read_as_it_was_written(tmp_path):
    write_lines(tmp_path / "credit.jsonl", map(line_of, lines(("oreo", "dqo"), policy="pi", ref_model="ref")))
    assert list(read_credit(tmp_path / "credit.jsonl")) == list(lines(("oreo", "dqo"), policy="pi", ref_model="ref"))
    page = write_credit_page(tmp_path)
    assert page == tmp_path / "credit.html"
    assert data_of(page.read_text(encoding="utf-8"))["about"]["models"] == ["oreo", "dqo"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "has no lines"),
        (lambda rows: rows[:1], "has no episode"),
        (lambda rows: rows[1:], "line 1: not a file of credit"),
        (lambda rows: [*rows, rows[0]], "not a file of credit"),
        (lambda rows: [rows[0], {**rows[1], "line": "other"}], "line 2: not a file of credit"),
        (lambda rows: [rows[0], {**rows[1], "verdict": "good"}], "line 2: field 'verdict' must be right, wrong"),
        (lambda rows: [*rows[:3], {**rows[3], "value": "high"}], "line 4: field 'value'"),
        (lambda rows: [rows[0], rows[1], rows[3]], "line 3: a token before the first step"),
        (lambda rows: [rows[0], rows[2]], "line 2: a step before the first episode"),
        (lambda rows: [*rows[:2], {**rows[2], "change": []}], "line 3: field 'change' must have one number per value"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    write_lines(tmp_path / "credit.jsonl", change([line_of(row) for row in lines()]))
    with pytest.raises(InputError, match=re.escape(message)):
        write_credit_page(tmp_path)
    assert not (tmp_path / "credit.html").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "line 1: no JSON"), ("[1]\n", "line 1: must be a JSON object"), ("\xff", "cannot be read")],
)
def test_files_of_something_else_are_refused(tmp_path, text, message):
    (tmp_path / "credit.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        write_credit_page(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"credit\.jsonl: cannot be read"):
        write_credit_page(tmp_path)
