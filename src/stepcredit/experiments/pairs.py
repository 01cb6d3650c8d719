"""Pairwise comparison of methods on the same problems."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from stepcredit.metrics.paired import mcnemar, paired_difference
from stepcredit.results.schema import PairRow


def pair_rows(task: str, results: Sequence[dict[str, Any]]) -> list[PairRow]:
    """Compares each pair of methods on the same problems and seeds: difference of accuracy with its paired bootstrap
    interval over problems, and McNemar's exact test on the responses that only one method got right.

    Args:
        task: name of the task.
        results: results of the runs on the test split: rows per search, and which problems were solved.
    """
    right: dict[tuple[str, str], list[int]] = {}
    problems: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for row in result["rows"]:
            key = (row["search"], row["method"])
            right.setdefault(key, []).extend(result["right"][row["search"]])
            problems.setdefault(key, []).extend(f"{row['seed']}/{k}" for k in range(row["n"]))
    searches, methods = (list(dict.fromkeys(key[k] for key in right)) for k in (0, 1))
    rows = []
    for search, (a, b) in itertools.product(searches, itertools.combinations(methods, 2)):
        x, y = right[search, a], right[search, b]
        difference, test = paired_difference(x, y, problems[search, a]), mcnemar(x, y)
        rows.append(
            PairRow(
                task=task,
                split="test",
                search=search,
                method_a=a,
                method_b=b,
                difference=round(difference.estimate, 6),
                low=round(difference.low, 6),
                high=round(difference.high, 6),
                only_a=test.only_a,
                only_b=test.only_b,
                p=test.p,
                n=len(x),
                seeds=len({name.partition("/")[0] for name in problems[search, a]}),
            )
        )
    return rows
