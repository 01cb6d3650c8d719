"""Statistics of a comparison over its seeds: methods in pairs, and errors where seeds share their problems."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from stepcredit.errors import InputError
from stepcredit.metrics.accuracy import mean_and_stderr
from stepcredit.metrics.paired import mcnemar, paired_difference
from stepcredit.results.schema import PairRow

Solved = dict[tuple[int, str], bool]
"""(seed, id of a problem) → whether it was solved."""


def pair_rows(task: str, results: Sequence[dict[str, Any]]) -> list[PairRow]:
    """Compares each pair of methods on the same problems and seeds: difference of accuracy with its paired bootstrap
    interval over problems, and McNemar's exact test. A problem that several seeds have is one problem to both.

    Args:
        task: name of the task.
        results: results of the runs on the test split: rows per test set and search, and for each row which problems
            were solved, and their ids.

    Raises:
        InputError: two methods have other problems.
    """
    rows = []
    for (split, search), of_methods in _solved(results).items():
        for a, b in itertools.combinations(of_methods, 2):
            one, other = of_methods[a], of_methods[b]
            if one.keys() != other.keys():
                raise InputError(f"{a} and {b} were not tested on the same problems of {split}", "pairs")
            x, y = list(one.values()), [other[key] for key in one]
            problems = [problem for _, problem in one]
            difference, test = paired_difference(x, y, problems), mcnemar(x, y, problems)
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
                    seeds=len({seed for seed, _ in one}),
                )
            )
    return rows


def add_problem_errors(results: Sequence[dict[str, Any]]) -> None:
    """Gives the rows of methods whose seeds share their problems the standard error, over problems, of the mean over
    seeds (`stderr_problems`): the seeds alone do not show it."""
    solved = _solved(results)
    for result in results:
        for row in result["rows"]:
            found = solved[row["split"], row["search"]][row["method"]]
            seeds = {seed for seed, _ in found}
            problems = [problem for _, problem in found]
            if len(seeds) > 1 and len(problems) == len(seeds) * len(set(problems)):
                error = mean_and_stderr(list(found.values()), problems)[1]
                row["stderr_problems"] = round(error, 6)


def _solved(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Solved]]:
    """Returns (split, search) → method → what it solved."""
    found: dict[tuple[str, str], dict[str, Solved]] = {}
    for row, right, names in _rows(results):
        of_method = found.setdefault((row["split"], row["search"]), {}).setdefault(row["method"], {})
        of_method.update({(row["seed"], name): bool(is_right) for name, is_right in zip(names, right, strict=True)})
    return found


def _rows(results: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[int], list[str]]]:
    for result in results:
        yield from zip(result["rows"], result["right"], result["problems"], strict=True)
