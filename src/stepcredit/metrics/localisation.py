"""Does the largest drop in value point at the first wrong step, and is that more than the kind of step says?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stepcredit.metrics.ranking import Estimate, auc_within, ratio_estimate

ANY_KIND = ""
"""Under this name `kind_rates` keeps the rate over all kinds; no kind is called the empty text."""


class StepCredit(NamedTuple):
    """One response cut into steps: the change of value over each, which are wrong, and of what kind each is."""

    change: Sequence[float]
    wrong: Sequence[bool]
    kind: Sequence[str] = ()


def largest_drop(change: ArrayLike) -> int:
    """The step with the most negative change; the first of equals."""
    return int(np.argmin(np.asarray(change, dtype=np.float64)))


def points_at_first_wrong(response: StepCredit) -> bool:
    """Whether the largest drop of a response with a wrong step is the first wrong one."""
    return largest_drop(response.change) == list(response.wrong).index(True)


def first_wrong_step_accuracy(
    responses: Sequence[StepCredit], groups: Sequence[str], resamples: int = 2000, seed: int = 0
) -> tuple[Estimate, float]:
    """(share of responses with a wrong step whose largest drop is the first wrong one, share by chance).

    Chance picks any of a response's steps: the mean of 1 / number of steps. The interval is a bootstrap over
    prompts (`groups`). Responses without a wrong step do not count.
    """
    hits: dict[str, list[float]] = {}
    chance: list[float] = []
    for response, group in zip(responses, groups, strict=True):
        if any(response.wrong):
            hits.setdefault(group, []).append(float(points_at_first_wrong(response)))
            chance.append(1 / len(response.wrong))
    numerator = np.array([sum(h) for h in hits.values()])
    denominator = np.array([float(len(h)) for h in hits.values()])
    by_chance = float(np.mean(chance)) if chance else float("nan")
    return ratio_estimate(numerator, denominator, resamples, seed), by_chance


def up_to_first_wrong(wrong: Sequence[bool]) -> range:
    """The steps up to and including the first wrong one; all where none is wrong.

    What comes later is written on top of a mistake: it is neither plainly right nor plainly wrong.
    """
    return range(list(wrong).index(True) + 1 if any(wrong) else len(wrong))


def every_step(wrong: Sequence[bool]) -> range:
    """All steps, those after the first wrong one too."""
    return range(len(wrong))


def matched_pairs(
    responses: Sequence[StepCredit],
    groups: Sequence[str],
    steps: Callable[[Sequence[bool]], Iterable[int]] = up_to_first_wrong,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """P(change over a wrong step < change over a right step of the same kind and prompt), ties counting half.

    A signal that knows the kind of a step and nothing else gets one half.

    Args:
        responses: with their kinds; right responses give right steps too.
        groups: the prompt of each; pairs lie within one response or between two to the same prompt.
        steps: which steps of a response take part, from its flags. `up_to_first_wrong`: first wrong steps
            against right steps that come before any wrong one. `every_step`: all wrong against all right ones.
        resamples, seed: of the bootstrap over prompts.
    """
    rows = [
        (response.change[k], not response.wrong[k], group, response.kind[k])
        for response, group in zip(responses, groups, strict=True)
        for k in steps(response.wrong)
    ]
    change, right, prompt, kind = ([row[k] for row in rows] for k in range(4))
    code = np.unique(np.asarray(kind), return_inverse=True)[1]
    return auc_within(change, right, prompt, matched=[(code, 0.0)], resamples=resamples, seed=seed)


def kind_rates(steps: Iterable[tuple[Sequence[str], Sequence[bool]]]) -> dict[str, float]:
    """P(wrong | kind) for every kind of step, and over all kinds under `ANY_KIND`.

    Args:
        steps: (kinds, wrong flags) of each training response. Steps after its first wrong one do not count.

    Raises:
        ValueError: no step at all.
    """
    seen: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for kinds, wrong in steps:
        for k in up_to_first_wrong(wrong):
            seen.update((kinds[k], ANY_KIND))
            failed.update((kinds[k], ANY_KIND) if wrong[k] else ())
    if not seen:
        raise ValueError("no steps to take rates from")
    return {kind: failed[kind] / count for kind, count in seen.items()}


def kind_prior_change(kinds: Sequence[str], rates: dict[str, float]) -> list[float]:
    """A signal that sees the kind of each step and nothing else: −P(wrong | kind); shape [steps].

    Its largest drop is the first step of the kind that goes wrong most often: the control for detectors.

    Args:
        kinds: of one response's steps.
        rates: from `kind_rates`; a kind without a rate gets that over all kinds.
    """
    return [-rates.get(kind, rates[ANY_KIND]) for kind in kinds]
