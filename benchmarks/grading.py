"""Answers graded per second, against plain math-verify in the same run: benchmarks/grading.py DATA [--output FILE]

GSM8K: all 12,800 real responses of DATA. MATH: its worked solutions, one half against their own gold answers in another
spelling and the other half against another problem's answer. The timing covers the whole path: extraction, exact
comparison, and algebra in workers. math-verify reads the same text with its defaults, in as many processes as the
grader has workers. Its time limits are on, because without them it hangs on bad answers. Reports medians of several
repeats and their ratio.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stepcredit.files import write_json
from stepcredit.grading.extraction.boxes import boxed_gold
from stepcredit.grading.grader import Grader
from stepcredit.grading.style import GSM8K, MATH, AnswerStyle
from stepcredit.verdict import Verdict

Pair = tuple[str, str]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def gsm8k_pairs(folder: Path) -> list[Pair]:
    golds = [row["answer"].rpartition("####")[2].strip() for row in rows(folder, "gsm8k_test")]
    responses = rows(folder, "gsm8k_test_rollouts_llama2chat_k16")
    return [(row["response"], golds[row["qid"]]) for row in responses]


def math_pairs(folder: Path) -> list[Pair]:
    """(solution, gold) pairs; every second solution gets the gold answer of the next problem."""
    solutions = [row["solution"] for row in [*rows(folder, "math500"), *rows(folder, "math_train4500")]]
    golds = [(boxed_gold(solution) or "").replace("\\frac", "\\dfrac") for solution in solutions]
    return [(solution, golds[(k + k % 2) % len(golds)]) for k, solution in enumerate(solutions)]


def ours(pairs: list[Pair], style: AnswerStyle, workers: int) -> Callable[[], list[bool]]:
    def run() -> list[bool]:
        with Grader(workers) as grader:
            return [grade.verdict is Verdict.RIGHT for grade in grader.grade_all(pairs, style)]

    return run


def plain(pair: Pair) -> bool:
    """The verdict of math-verify with its defaults on the whole response."""
    from math_verify import parse, verify

    response, gold = pair
    return bool(verify(parse(f"${gold}$"), parse(response)))


def _quiet() -> None:
    logging.disable(logging.CRITICAL)


def plain_in_processes(pairs: list[Pair], workers: int) -> Callable[[], list[bool]]:
    def run() -> list[bool]:
        with ProcessPoolExecutor(workers, initializer=_quiet) as pool:
            return list(pool.map(plain, pairs, chunksize=64))

    return run


def measured(run: Callable[[], list[bool]], repeats: int) -> tuple[float, list[bool]]:
    """(median seconds, verdicts of the last repeat)."""
    seconds = []
    verdicts: list[bool] = []
    for _ in range(repeats):
        start = time.perf_counter()
        verdicts = run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with gsm8k_test.jsonl.gz and the other data files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="the JSON file to write the results to")
    args = parser.parse_args()
    _quiet()
    found = []
    for task, pairs, style in (("gsm8k", gsm8k_pairs(args.data), GSM8K), ("math", math_pairs(args.data), MATH)):
        repeats = args.repeats
        seconds, verdicts = measured(ours(pairs, style, args.workers), repeats)
        baseline = pairs if task == "math" else pairs[:2_000]
        base_seconds, base_verdicts = measured(plain_in_processes(baseline, args.workers), 3)
        rate, base_rate = len(pairs) / seconds, len(baseline) / base_seconds
        found.append(
            {
                "task": task,
                "answers": len(pairs),
                "workers": args.workers,
                "repeats": repeats,
                "answers_per_second": round(rate),
                "math_verify_answers": len(baseline),
                "math_verify_per_second": round(base_rate),
                "ratio": round(rate / base_rate, 2),
                "right": round(sum(verdicts) / len(verdicts), 4),
                "math_verify_right": round(sum(base_verdicts) / len(base_verdicts), 4),
                "math_verify": version("math-verify"),
                "machine": f"{platform.machine()}, Python {platform.python_version()}",
            }
        )
        print(json.dumps(found[-1]), flush=True)
    if args.output is not None:
        write_json(args.output, found)


if __name__ == "__main__":
    main()
