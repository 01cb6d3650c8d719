"""Problems of the run on GSM-Symbolic: which are kept, and that no two files share one."""

import json
from fractions import Fraction
from itertools import chain
from pathlib import Path

import pytest

from doubles.real import real_tokenizer
from scripts import RUNS, loaded

pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")

DATA = Path(__file__).parents[2] / "shared" / "data"
SIZES = {"sft": 30, "train": 20, "validation": 10, "test": 10}


@pytest.fixture(scope="module")
def script():
    with loaded("gsm8k/problems.py") as module:
        yield module


@pytest.fixture(scope="module")
def tokenizer():
    return real_tokenizer("smollm2").backend_tokenizer


@pytest.fixture(scope="module")
def made(script, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems")
    manifest = script.run(folder, tokenizer, SIZES, 0, None)
    rows = {file: [json.loads(line) for line in (folder / file).read_text().splitlines()] for file in manifest["files"]}
    return manifest, rows


def test_sizes_and_columns(made):
    manifest, rows = made
    assert {file: len(found) for file, found in rows.items()} == {f"{name}.jsonl": n for name, n in SIZES.items()}
    assert {tuple(row) for row in chain(*rows.values())} == {("question", "answer")}
    assert manifest["shared_questions"] == 0
    assert manifest["templates"] >= 8


def test_no_two_files_share_a_question(made):
    questions = [row["question"] for row in chain(*made[1].values())]
    assert len(set(questions)) == sum(SIZES.values())
    assert not any("Give the result" in question or "Answer:" in question for question in questions)


def test_every_solution_is_short_small_and_true(made, script, tokenizer):
    for row in chain(*made[1].values()):
        work, _, answer = row["answer"].rpartition("\n#### ")
        assert work.strip()
        assert 0 <= float(answer) <= 40
        assert len(tokenizer.encode(row["question"]).ids) <= 62
        assert len(tokenizer.encode(row["answer"]).ids) <= 75
        assert all(left == right for left, right in script.equations(row["answer"]))


def test_the_first_problems_are_the_published_ones(made, script):
    published = json.loads((RUNS / "gsm8k" / "problems.json").read_text())
    assert {name: published["files"][f"{name}.jsonl"]["problems"] for name in script.SIZES} == script.SIZES
    assert published["shared_questions"] == 0
    assert made[1]["sft.jsonl"][0]["question"].startswith("A pyramid is made out of 6 orange bricks")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("They ate 3 + 11 + 14 = 28 slices.", [("28", "28")]),
        ("10 x 2 = 20, and 28 / 21 = 1", [("20", "20"), ("4/3", "1")]),
        ("£35.16 - £4.16 = £30 left", [("31", "30")]),
        ("16 * 25% = 4 balls", [("400", "4")]),
        ("2(7+5) = 24", []),
        ("x = 3, 4/0 = 0, ** = 1, 2 + = 3", []),
        ("0.1 + 0.2 = 0.3", [("3/10", "3/10")]),
        ("__import__('os') = 1", []),
    ],
)
def test_equations(script, text, found):
    assert list(script.equations(text)) == [(Fraction(left), Fraction(right)) for left, right in found]


def test_what_is_kept(script, tokenizer):
    kept = script.Filter(tokenizer).keeps
    assert kept("How many?", "3 + 4 = 7\n#### 7")
    assert not kept("How many?", "3 + 4 = 8\n#### 8")
    assert not kept("How many?", "40 + 1 = 41\n#### 41")
    assert not kept("How many? " * 30, "3 + 4 = 7\n#### 7")
    assert not kept("How many?", "3 + 4 = 7\n" * 12 + "#### 7")


@pytest.mark.skipif(not (DATA / "svamp_test.jsonl.gz").is_file(), reason="the real data is not here")
def test_transfer_sets(script, tokenizer):
    svamp = script.svamp(str(DATA))
    assert len(svamp) == 1000
    assert svamp[1]["answer"] == "#### 19"
    assert svamp[1]["question"].endswith("weighed 30 pounds. How much did Marco's strawberries weigh?")
    assert all(row["answer"].removeprefix("#### ").lstrip("-").isdigit() for row in svamp)
    assert len(script.gsm8k_short(str(DATA), script.Filter(tokenizer).is_short)) == 587
