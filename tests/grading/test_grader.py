"""The whole grader, with its processes: verdicts by algebra, hostile answers, killed workers, threads and spawn."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oracles.hostile import GOLD, HOSTILE
from oracles.near_misses import near_misses
from oracles.respelling import respellings
from stepcredit.errors import InputError
from stepcredit.grading import workers as workers_module
from stepcredit.grading.grade import Grade
from stepcredit.grading.grader import SECONDS, Grader, grade_answer
from stepcredit.grading.style import GSM8K, MATH, AnswerStyle
from stepcredit.grading.workers import Workers
from stepcredit.verdict import Verdict

SLACK = 6.0
"""Times that a machine under load may be slower than the limits say."""

EQUAL = [
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt3}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("8\\pi", "8pi"),
    ("\\cot x", "\\frac{\\cos x}{\\sin x}"),
    ("y = 2x + 3", "2x+3"),
    ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z-4=0"),
    ("1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"),
    ("(-\\infty, 2) \\cup (3, \\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}", "\\begin{pmatrix} 0.2 \\\\ -3.6 \\end{pmatrix}"),
    ("6-5i", "-5i+6"),
    ("\\pi", "3.14159265"),
    ("16", "2^4"),
    ("(0,1)", "0<x<1"),
    ("x<3", "(-\\infty,3)"),
    ("(-\\infty,3)", "x<3"),
    ("\\ln 2", "\\log_e 2"),
    ("\\sqrt{1/n}", "\\frac{1}{\\sqrt{n}}"),
    ("\\sqrt{x} + \\ln(x^2)", "\\sqrt{x} + 2\\ln(x)"),
]
DIFFERENT = [
    ("1-\\frac{1}{e}", "1+\\frac{1}{e}"),
    ("\\frac{1}{2004!}", "-\\frac{1}{2004!}"),
    ("6-5i", "6+5i"),
    ("(-\\infty, 2) \\cup (3, \\infty)", "(-\\infty, 2] \\cup (3, \\infty)"),
    ("\\pi", "3.14"),
    ("5x - 7y + 11z + 4 = 0", "5x - 7y - 11z + 4 = 0"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}"),
    ("2\\sqrt{3}", "3\\sqrt{2}"),
    ("\\sqrt{x^2}", "x"),
    ("\\sqrt{ab}", "\\sqrt{a}\\sqrt{b}"),
    ("\\sqrt{x^2+1} + \\ln(x^2)", "\\sqrt{x^2+1} + 2\\ln(x)"),
    ("\\frac{\\sqrt{xy}}{y}", "\\sqrt{\\frac{x}{y}}"),
    ("16", "2^5"),
    ("(-\\infty,3]", "x<3"),
    ("x \\le 3", "x<3"),
    ("[0,1)", "0<x<1"),
    ("16", "\\text{sixteen and a half}"),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(1) as made:
        yield made


@pytest.fixture(scope="module")
def hasty() -> Iterator[Grader]:
    """One that gives up soon."""
    with Grader(1, seconds=SECONDS / 4) as made:
        yield made


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_by_algebra(grader: Grader, gold: str, answer: str) -> None:
    assert grader.compare(gold, answer).verdict is Verdict.RIGHT


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_not_equal(grader: Grader, gold: str, answer: str) -> None:
    assert grader.compare(gold, answer).verdict is Verdict.WRONG


def test_strict_and_lenient(grader: Grader) -> None:
    strict = grader.grade("so\n#### 7", "7", GSM8K)
    assert (strict.verdict, strict.extracted, strict.strict, strict.reward) == (Verdict.RIGHT, "7", True, 1.0)
    lenient = grader.grade("so it is 7.", "7", GSM8K)
    assert (lenient.verdict, lenient.extracted, lenient.strict) == (Verdict.RIGHT, "7", False)
    nothing = grader.grade("I do not know", "7", GSM8K)
    assert (nothing.verdict, nothing.extracted, nothing.reward) == (Verdict.WRONG, None, 0.0)


def test_an_unread_gold_answer_is_undecided_and_earns_nothing(grader: Grader) -> None:
    found = grader.grade("\\boxed{x}", "\\frac{", MATH)
    assert found.verdict is Verdict.UNDECIDED
    assert found.reward is None
    assert grader.compare("1" * 3000, "1").verdict is Verdict.UNDECIDED
    assert grader.compare("1", "1+" * 2000).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_come_back_and_leave_the_grader_whole(grader: Grader, hasty: Grader, name: str) -> None:
    start = time.monotonic()
    found = grader.compare(GOLD, HOSTILE[name])
    boxed = hasty.grade(f"\\boxed{{{HOSTILE[name]}}}", GOLD, MATH)  # the same answer: less time for it is enough
    assert time.monotonic() - start < 2 * 2 * SLACK
    assert found.verdict is not Verdict.RIGHT
    assert boxed.verdict in list(Verdict)
    for one in (grader, hasty):
        assert one.compare("\\sqrt{2}", "\\frac{2}{\\sqrt{2}}").verdict is Verdict.RIGHT


def test_too_slow_is_undecided(grader: Grader) -> None:
    found = grader.compare("9", HOSTILE["tower of nines"])
    assert found == (Verdict.UNDECIDED, "took too long")


def _with_algebra(monkeypatch: pytest.MonkeyPatch, equivalent: str) -> Grader:
    """A grader whose workers compare by this expression of `gold` and `answer`."""
    code = (
        "from stepcredit.grading import symbolic, worker\n"
        f"symbolic.equivalent = lambda gold, answer: {equivalent}\n"
        "worker.main()"
    )
    monkeypatch.setattr(workers_module, "COMMAND", ["-c", code])
    return Grader(1)


@pytest.mark.parametrize(
    ("equivalent", "reason"),
    [
        ("bytearray(2**31) and True", "needs too much memory"),
        ("1 / 0", "the comparison failed"),
        ("__import__('time').sleep(30)", "took too long"),
        ("__import__('os').abort()", "the comparison failed"),
        ("(f := lambda n: f(n + 1))(0)", "nested too deeply"),
    ],
)
def test_a_failing_comparison_is_undecided_and_the_next_one_is_not(
    monkeypatch: pytest.MonkeyPatch, equivalent: str, reason: str
) -> None:
    with _with_algebra(monkeypatch, f"True if answer == 'x' else {equivalent}") as made:
        assert made.compare("y", "z") == (Verdict.UNDECIDED, reason)
        assert made.compare("y", "x").verdict is Verdict.RIGHT


def test_the_time_is_for_all_parts_together(grader: Grader) -> None:
    slow = ",".join(["9^{9^{9^9}}"] * 12)
    start = time.monotonic()
    assert grader.compare(",".join(["\\pi"] * 12), slow).verdict is Verdict.UNDECIDED
    assert time.monotonic() - start < (SECONDS + 1) * SLACK


def _children(pid: int) -> list[int]:
    """The processes below one, from /proc."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    below = [pid]
    for known in below:
        below += parents.get(known, [])
    return below[1:]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")


def test_leaving_early_does_not_wait_for_what_nobody_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    made, begun = Grader(1), []

    def slow(response: str, answer: str, style: AnswerStyle) -> Grade:
        begun.append(response)
        time.sleep(0.01)
        return Grade(Verdict.RIGHT)

    monkeypatch.setattr(made, "grade", slow)
    grades = made.grade_all([("1", "1")] * 200, MATH)
    next(grades)
    grades.close()
    assert len(begun) < 200


@linux
@pytest.mark.parametrize("how", ["closed", "keeper killed", "worker killed while it works"])
def test_no_process_is_left_behind(how: str) -> None:
    before = set(_children(os.getpid()))
    made = Grader(2, seconds=2.0)
    assert made.compare("\\sqrt{2}", "\\sqrt{8}/2").verdict is Verdict.RIGHT
    family = set(_children(os.getpid())) - before
    assert len(family) >= 2
    if how == "keeper killed":
        for keeper in [p for p in family if set(_children(p)) & family]:
            os.kill(keeper, signal.SIGKILL)
        assert made.compare("\\sqrt{2}", "\\sqrt{8}/2").verdict in (Verdict.RIGHT, Verdict.UNDECIDED)
    if how == "worker killed while it works":
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(made.compare, "9", HOSTILE["tower of nines"])
            time.sleep(0.3)
            for worker in [p for p in set(_children(os.getpid())) - before if not _children(p)]:
                os.kill(worker, signal.SIGKILL)
            assert answer.result().verdict is Verdict.UNDECIDED
    assert made.compare("\\sqrt{2}", "\\sqrt{8}/2").verdict is Verdict.RIGHT
    family |= set(_children(os.getpid())) - before
    made.close()
    deadline = time.monotonic() + 5 * SLACK
    while any(map(_runs, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [p for p in family if _runs(p)]
    gc.collect()  # a pipe that nobody closed is told now


@linux
def test_workers_end_when_their_user_is_killed() -> None:
    code = (
        "import os, sys, time\n"
        "from stepcredit.grading.grader import Grader\n"
        "grader = Grader(1); grader.compare('x', '2x'); print(os.getpid(), flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        user.stdout.readline()
        family = _children(user.pid)
        assert len(family) == 2
        user.kill()
    deadline = time.monotonic() + 5 * SLACK
    while any(map(_runs, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [p for p in family if _runs(p)]


ROWS = [(f"\\boxed{{{answer}}}", gold) for gold, answer in [*EQUAL, *DIFFERENT]] * 2


def test_threads_and_a_spawned_process_agree(grader: Grader) -> None:
    expected = [grader.grade(response, gold, MATH).verdict.value for response, gold in ROWS]
    with Grader(2) as shared, ThreadPoolExecutor(6) as pool:
        threaded = pool.map(lambda row: shared.grade(*row, MATH).verdict.value, ROWS)
        assert list(threaded) == expected
        assert [g.verdict.value for g in shared.grade_all(ROWS, MATH)] == expected
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        spawned = processes.map(grade_answer, *zip(*ROWS), [MATH] * len(ROWS))
        assert [g.verdict.value for g in spawned] == expected


def test_many_threads_share_one_worker_in_any_order(grader: Grader) -> None:
    wrong = []

    def ask(k: int) -> None:
        if grader.compare(f"{k}\\sqrt{{2}}", f"\\sqrt{{{2 * k * k}}}").verdict is not Verdict.RIGHT:
            wrong.append(k)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(2, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_worker_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "COMMAND", ["-c", "raise ImportError('no antlr')"])
    pool = Workers(1)
    with pytest.raises(InputError, match="the grader's worker does not start: ImportError: no antlr"):
        pool.compare("x", "y", 1.0)
    pool.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Grader]:
    with Grader(1, identity=False) as made:
        yield made


@pytest.mark.parametrize("gold", [gold for gold, _ in [*EQUAL, *DIFFERENT] if "=" not in gold])
def test_respelled_is_right_and_a_near_miss_is_wrong(plain: Grader, gold: str) -> None:
    for name, written in respellings(gold):
        assert plain.compare(gold, written).verdict is Verdict.RIGHT, name
    for name, spoilt in near_misses(gold):
        assert plain.compare(gold, spoilt).verdict is Verdict.WRONG, name


ATOMS = st.sampled_from(["1", "2", "x", "y", "\\pi", "0.5", "\\frac{1}{3}", "\\sqrt{2}", "i"])
expressions = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-"), inner).map("".join),
        inner.map(lambda a: f"\\sqrt{{{a}}}"),
        st.tuples(inner, inner).map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]})({p[1]})"),
    ),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expressions, expressions)
def test_reflexive_and_symmetric(grader: Grader, one: str, other: str) -> None:
    assert grader.compare(one, one).verdict is Verdict.RIGHT
    there, back = grader.compare(one, other).verdict, grader.compare(other, one).verdict
    assert there is back or Verdict.UNDECIDED in (there, back)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="\\{}()[]$^_.,%!=<>|12 xyfracsqtpimloghe", max_size=60))
def test_nothing_raises_and_nothing_is_slower_than_its_limit(grader: Grader, answer: str) -> None:
    start = time.monotonic()
    for gold in ("17", "\\sqrt{2}+x", "(1,2]"):
        assert grader.compare(gold, answer).verdict in list(Verdict)
    assert time.monotonic() - start < 3 * (SECONDS + 0.5) * SLACK
