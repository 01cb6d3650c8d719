"""Pairwise comparison of methods on the same problems."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from stepcredit.metrics.paired import mcnemar, paired_difference
from stepcredit.results.schema import PairRow


def pair_rows(task: str, results: Sequence[dict[str, Any]]) -> list[PairRow]:
    """Compares each pair of methods on the same problems and seeds: difference of accuracy with its paired bootstrap
    interval over problems (a problem that several seeds have is one), and McNemar's exact test on the responses that
    only one method got right.

    Args:
        task: name of the task.
        results: results of the runs on the test split: rows per test set and search, and for each row which problems
            were solved, and their ids.
    """
    right: dict[tuple[str, str], dict[str, list[int]]] = {}
    problems: dict[tuple[str, str], dict[str, list[str]]] = {}
    seeds: dict[tuple[str, str], dict[str, set[int]]] = {}
    for result in results:
        for row, solved, names in zip(result["rows"], result["right"], result["problems"], strict=True):
            kind, method = (row["split"], row["search"]), row["method"]
            right.setdefault(kind, {}).setdefault(method, []).extend(solved)
            problems.setdefault(kind, {}).setdefault(method, []).extend(names)
            seeds.setdefault(kind, {}).setdefault(method, set()).add(row["seed"])
    rows = []
    for (split, search), of_methods in right.items():
        for a, b in itertools.combinations(of_methods, 2):
            x, y = of_methods[a], of_methods[b]
            difference = paired_difference(x, y, problems[split, search][a])
            test = mcnemar(x, y)
            rows.append(
                PairRow(
                    task=task,
                    split=split,
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
                    seeds=len(seeds[split, search][a]),
                )
            )
    return rows
