"""The grader on real data: every gold answer passes its own grader and fails another's; labels of real responses."""

import gzip
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from oracles.near_misses import near_misses
from oracles.respelling import respellings
from stepcredit.grading.extraction.boxes import boxed_gold
from stepcredit.grading.extraction.response import extract
from stepcredit.grading.grader import Grader
from stepcredit.grading.notation.numbers import equal_numbers, read_number
from stepcredit.grading.style import AUTO, GSM8K, MATH, AnswerStyle
from stepcredit.verdict import Verdict

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}"),
    pytest.mark.timeout(900),
]


def _rows(name: str) -> list[dict]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """One that may not take two equal spellings for equal without a look at what they say."""
    with Grader(2, identity=False) as made:
        yield made


def _gsm8k(split: str) -> list[str]:
    return [row["answer"] for row in _rows(f"gsm8k_{split}")]


def _math_solutions() -> list[str]:
    return [row["solution"] for name in ("math500", "math_train4500") for row in _rows(name)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_gsm8k_gold_answers(grader: Grader, split: str) -> None:
    solutions = _gsm8k(split)
    golds = [found.text for s in solutions if (found := extract(s, GSM8K)) is not None]
    assert len(golds) == len(solutions)
    for k, (solution, gold) in enumerate(zip(solutions, golds)):
        other = next(g for g in golds[k + 1 :] + golds if not equal_numbers(read_number(g), read_number(gold)))
        for _, written in [("as it is", gold), *respellings(gold)]:
            assert grader.compare(gold, written).verdict is Verdict.RIGHT
        assert grader.grade(solution, gold, GSM8K).verdict is Verdict.RIGHT
        assert grader.grade(solution, other, GSM8K).verdict is Verdict.WRONG


def test_svamp_gold_answers(grader: Grader) -> None:
    golds = [str(row["Answer"]) for row in _rows("svamp_test")]
    for gold in golds:
        other = next(g for g in golds if float(g) != float(gold))
        response = f"So there are {gold.removesuffix('.0')} of them."
        assert grader.grade(response, gold, GSM8K).verdict is Verdict.RIGHT
        assert grader.grade(response, other, GSM8K).verdict is Verdict.WRONG


def test_math_gold_answers_respelled_pass(grader: Grader) -> None:
    golds = sorted({boxed_gold(solution) or "" for solution in _math_solutions()})
    assert "" not in golds
    pairs = [(written, gold) for gold in golds for _, written in [("as it is", gold), *respellings(gold)]]
    found = grader.grade_all([(f"\\boxed{{{written}}}", gold) for written, gold in pairs], MATH)
    failed = [(pair, g.verdict.value, g.reason) for pair, g in zip(pairs, found) if g.verdict is not Verdict.RIGHT]
    assert failed == []
    assert len(pairs) > 6_000


@pytest.mark.parametrize("style", [MATH, pytest.param(AUTO, marks=pytest.mark.long)])
def test_math_solutions_pass_as_they_stand(grader: Grader, style: AnswerStyle) -> None:
    rows = [(solution, boxed_gold(solution) or "") for solution in _math_solutions()]
    found = grader.grade_all(rows, style)
    assert [row[1] for row, g in zip(rows, found) if g.verdict is not Verdict.RIGHT or not g.strict] == []


EQUAL_AFTER_ALL = [("8\\text{ meals}", "8_9"), ("9^\\circ", "x=9")]
"""Eight is eight in base nine, too; a name is no part of a value."""
ONE_VALUE_IN_FORMS = {"12x -34, -34 + 12x", "x+11, 11+x"}
"""Gold answers that say the same twice: with one of the two missing, nothing is."""


def _without_units(answer: str) -> str:
    return re.sub(r"\\(?:text|mbox)\s*\{[^}]*\}(?:\^\d)?|\^\{?\\circ\}?|\\%|\\,|\s", "", answer)


@pytest.mark.long
def test_math_gold_answers_fail_against_another(grader: Grader) -> None:
    """Each against the next one in alphabetic order, which is the most alike, and against one far from it."""
    golds = sorted({boxed_gold(solution) or "" for solution in _math_solutions()})
    neighbours = [*pairwise(golds), *zip(golds, golds[700:] + golds[:700])]
    pairs = [(a, b) for a, b in neighbours if _without_units(a) != _without_units(b)]
    found = grader.grade_all([(f"\\boxed{{{answer}}}", gold) for gold, answer in pairs], MATH)
    passed = [pair for pair, g in zip(pairs, found) if g.verdict is not Verdict.WRONG]
    assert passed == EQUAL_AFTER_ALL
    assert len(pairs) > 4_000


@pytest.mark.long
@pytest.mark.parametrize("style", [MATH, AUTO])
def test_near_misses_of_math_gold_answers_fail(grader: Grader, style: AnswerStyle) -> None:
    golds = sorted({boxed_gold(solution) or "" for solution in _math_solutions()})
    pairs = [(spoilt, gold) for gold in golds if gold not in ONE_VALUE_IN_FORMS for _, spoilt in near_misses(gold)]
    found = grader.grade_all([(f"\\boxed{{{spoilt}}}", gold) for spoilt, gold in pairs], style)
    passed = [(pair, g.reason) for pair, g in zip(pairs, found) if g.verdict is not Verdict.WRONG]
    assert passed == []
    assert len(pairs) > 7_000


WORDINGS = [
    "Final Answer: The final answer is ${}$. I hope it is correct.",
    "The answer is **{}**.",
    "So we are done.\n#### {}",
    "Adding up in 2 ways, we find that it equals $${}$$",
    "{}",
]


@pytest.mark.parametrize("wording", [WORDINGS[0], *(pytest.param(w, marks=pytest.mark.long) for w in WORDINGS[1:])])
def test_math_gold_answers_are_found_in_any_wording_and_near_misses_fail_there(grader: Grader, wording: str) -> None:
    golds = sorted({boxed_gold(solution) or "" for solution in _math_solutions()})
    rows = [(wording.replace("{}", gold), gold) for gold in golds]
    assert [row for row, g in zip(rows, grader.grade_all(rows, AUTO)) if g.verdict is not Verdict.RIGHT] == []
    spoilt = [
        (wording.replace("{}", said), gold)
        for gold in golds[::4]
        if gold not in ONE_VALUE_IN_FORMS
        for _, said in near_misses(gold)
    ]
    assert [row for row, g in zip(spoilt, grader.grade_all(spoilt, AUTO)) if g.verdict is not Verdict.WRONG] == []


@pytest.mark.parametrize("style", [GSM8K, AUTO])
def test_verdicts_agree_with_the_labels_of_real_responses(grader: Grader, style: AnswerStyle) -> None:
    """docs/LOG.md has the 32 that do not, read one by one."""
    rows = _rows("gsm8k_test_rollouts_llama2chat_k16")
    golds = [answer.rpartition("####")[2].strip() for answer in _gsm8k("test")]
    found = list(grader.grade_all([(row["response"], golds[row["qid"]]) for row in rows], style))
    assert not any(g.verdict is Verdict.UNDECIDED for g in found)
    assert sum(g.reward != row["reward"] for row, g in zip(rows, found)) <= 32


@pytest.mark.parametrize("style", [GSM8K, AUTO])
def test_verdicts_agree_with_all_labels_of_solutions_behind_hashes(grader: Grader, style: AnswerStyle) -> None:
    rows = _rows("gsm8k_test_solutions_6b_175b")
    found = grader.grade_all([(row["response"], row["answer"].rpartition("####")[2].strip()) for row in rows], style)
    assert [row["response"][-200:] for row, g in zip(rows, found) if g.reward != row["reward"]] == []
