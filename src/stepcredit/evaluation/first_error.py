"""Does the largest drop of a signal point at the first error of a response? Measured on errors marked by others.

Responses are those of a real policy, their first wrong step is marked by a person or a program, and nobody can sample
continuations of them. So every signal stands beside what needs no value function: chance, the best position, the kind
of step, and its length, each fitted to training responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepcredit.metrics.localisation import (
    StepCredit,
    best_position,
    kind_prior_change,
    kind_rates,
    length_sign,
    matched_pairs,
    points_at_first_wrong,
    up_to_first_wrong,
)
from stepcredit.metrics.paired import paired_difference
from stepcredit.metrics.ranking import Estimate, auc_in_strata, mean_estimate

CHANCE, POSITION, KIND, LENGTH = "chance", "position", "kind of step", "length"
"""Signals that need no model."""


@dataclass(frozen=True, kw_only=True)
class Marked:
    """Response with marked steps; sequences have one entry per step.

    Attributes:
        problem: the problem; intervals resample whole problems.
        right: whether the response as a whole is right.
        wrong: whether each step is wrong; flags after the first wrong step are not used.
        kinds, lengths: the kind of each step, and its number of tokens.
        signals: the change over each step, by name of the signal: ΔV, β Σρ.
        about: further columns, such as the task.
        fit: responses whose signals come from the same models and fits have the same; others are not compared.
    """

    problem: str
    right: bool
    wrong: tuple[bool, ...]
    kinds: tuple[str, ...]
    lengths: tuple[int, ...]
    signals: Mapping[str, Sequence[float]]
    about: Mapping[str, Any]
    fit: str = ""

    def credit(self, signal: str) -> StepCredit:
        """Returns the steps with the changes of a signal."""
        return StepCredit([float(x) for x in self.signals[signal]], self.wrong, self.kinds)


def with_controls(
    train: Sequence[Marked], test: Sequence[Marked], controls: Sequence[str] = (POSITION, KIND, LENGTH)
) -> list[Marked]:
    """Returns the test responses with these control signals, fitted to the training responses.

    Position: the place that is the first wrong step most often (`best_position`). Kind: minus the error rate of the
    step's kind. Length: the longest, or the shortest, step.
    """
    flags = [r.wrong for r in train]
    place, rates = best_position(flags), kind_rates((r.kinds, r.wrong) for r in train)
    sign = length_sign([(r.lengths, r.wrong) for r in train])
    controlled = []
    for r in test:
        fitted = {
            POSITION: place.change(len(r.wrong)),
            KIND: kind_prior_change(r.kinds, rates),
            LENGTH: [float(sign * n) for n in r.lengths],
        }
        controlled.append(replace(r, signals={**r.signals, **{name: fitted[name] for name in controls}}))
    return controlled


def first_error_rows(responses: Sequence[Marked], common: Mapping[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    """Returns rows of estimates with 95% bootstrap intervals over problems; rows without data are omitted.

    hit: share of wrong responses with a wrong step whose largest drop is at the first one; with `of` "every mistake",
    right responses with a wrong step count too. hit_minus: the same minus that of another signal on the same responses.
    below_kind_position: how often the change over a first wrong step is below that over a right step of the same kind
    at the same place of any response of the same fit (right steps before any wrong one). below_kind_prompt: of the
    same kind and problem, at any place.
    """
    names = list(responses[0].signals) if responses else []
    rows: list[dict[str, Any]] = []
    marked = [r for r in responses if any(r.wrong)]
    rows += _hit_rows([r for r in marked if not r.right], names, {**common, "of": "wrong responses"}, seed)
    if any(r.right for r in marked):
        rows += _hit_rows(marked, names, {**common, "of": "every mistake"}, seed)
    for name in names:
        same = {**common, "signal": name, "of": "steps"}
        rows.append({**same, "metric": "below_kind_position", **_numbers(_below_kind_position(responses, name, seed))})
        pairs = matched_pairs([r.credit(name) for r in responses], [r.problem for r in responses], seed=seed)
        rows.append({**same, "metric": "below_kind_prompt", **_numbers(pairs)})
    return [row for row in rows if row["n"]]


def _hit_rows(
    marked: Sequence[Marked], names: Sequence[str], common: Mapping[str, Any], seed: int
) -> list[dict[str, Any]]:
    if not marked:
        return []
    problems = [r.problem for r in marked]
    hits: dict[str, NDArray[np.float64]] = {CHANCE: np.array([1 / len(r.wrong) for r in marked])}
    for name in names:
        hits[name] = np.array([float(points_at_first_wrong(r.credit(name))) for r in marked])
    rows = []
    for name, x in hits.items():
        same = {**common, "signal": name}
        rows.append({**same, "metric": "hit", **_numbers(mean_estimate(x, problems, 2000, seed))})
        if name in (CHANCE, POSITION, KIND, LENGTH):
            continue
        for other, y in hits.items():
            if other != name:
                difference = paired_difference(x, y, problems, seed=seed)
                rows.append({**same, "metric": "hit_minus", "minus": other, **_numbers(difference)})
    return rows


def _below_kind_position(responses: Sequence[Marked], name: str, seed: int) -> Estimate:
    """Estimates P(change over a first wrong step < change over a right step of the same kind and place)."""
    steps = [
        (r.signals[name][k], not r.wrong[k], r.problem, f"{r.fit}\x1f{k}\x1f{r.kinds[k]}")
        for r in responses
        for k in up_to_first_wrong(r.wrong)
    ]
    change, right, problem, stratum = ([step[i] for step in steps] for i in range(4))
    return auc_in_strata(change, right, problem, stratum, seed=seed)


def _numbers(e: Estimate) -> dict[str, Any]:
    """Returns an estimate as columns; None for NaN."""
    numbers = {name: None if np.isnan(x) else round(float(x), 4) for name, x in e._asdict().items()}
    ends = {name: numbers[name] for name in ("estimate", "low", "high")}
    return {**ends, "n": int(e.pairs), "problems": int(e.groups)}


def chosen_cases(responses: Sequence[Marked], signal: str, count: int) -> list[Marked]:
    """Returns wrong responses to be read: half of them found by the signal and half not, as far as there are any.

    The responses are taken in order, so shuffle them before.
    """
    marked = [r for r in responses if any(r.wrong) and not r.right]
    hits = [points_at_first_wrong(r.credit(signal)) for r in marked]
    found, missed = ([r for r, hit in zip(marked, hits, strict=True) if hit is wanted] for wanted in (True, False))
    half = max(count // 2, count - len(missed))
    return [*found[:half], *missed[: count - len(found[:half])]]
