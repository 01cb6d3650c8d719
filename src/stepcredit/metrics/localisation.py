"""Localisation of wrong steps by changes of value, with a control for the kind of step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stepcredit.metrics.ranking import Estimate, auc_within, ratio_estimate

ANY_KIND = ""
"""The key of the rate over all kinds in `kind_rates`; no kind has the empty name."""


class StepCredit(NamedTuple):
    """The steps of a response: the change of value over each step, whether it is wrong, and its kind."""

    change: Sequence[float]
    wrong: Sequence[bool]
    kind: Sequence[str] = ()


def largest_drop(change: ArrayLike) -> int:
    """Returns the index of the step with the most negative change, the first of equal ones."""
    return int(np.argmin(np.asarray(change, dtype=np.float64)))


def points_at_first_wrong(response: StepCredit) -> bool:
    """Whether the largest drop of a response with a wrong step is at the first wrong step."""
    return largest_drop(response.change) == list(response.wrong).index(True)


def first_wrong_step_accuracy(
    responses: Sequence[StepCredit], groups: Sequence[str], resamples: int = 2000, seed: int = 0
) -> tuple[Estimate, float]:
    """Returns (share of responses whose largest drop is at the first wrong step, share at chance).

    Chance is a uniformly random step: the mean of 1 / number of steps. The interval is a bootstrap over prompts
    (`groups`). Responses without a wrong step are ignored.
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
    """Returns the steps up to and including the first wrong one; all if none is wrong.

    Later steps build on a mistake, so they are neither clearly right nor clearly wrong.
    """
    return range(list(wrong).index(True) + 1 if any(wrong) else len(wrong))


def every_step(wrong: Sequence[bool]) -> range:
    """Returns all steps, including those after the first wrong one."""
    return range(len(wrong))


def matched_pairs(
    responses: Sequence[StepCredit],
    groups: Sequence[str],
    steps: Callable[[Sequence[bool]], Iterable[int]] = up_to_first_wrong,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimates P(change over a wrong step < change over a right step of the same kind and prompt); ties count half.

    A signal that depends only on the kind of a step gets one half.

    Args:
        responses: the responses with the kinds of their steps; right responses contribute right steps.
        groups: the prompt of each response; pairs are within one response or between two to the same prompt.
        steps: selects the steps of a response, given its flags. `up_to_first_wrong` compares first wrong steps with
            right steps before any wrong one; `every_step` compares all wrong with all right steps.
        resamples, seed: the number of bootstrap resamples over prompts, and their seed.
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
    """Returns P(wrong | kind) for every kind of step, and over all kinds under `ANY_KIND`.

    Args:
        steps: (kinds, wrong flags) of each training response; steps after the first wrong one are ignored.

    Raises:
        ValueError: there are no steps.
    """
    counts: Counter[str] = Counter()
    wrong_counts: Counter[str] = Counter()
    for kinds, wrong in steps:
        for k in up_to_first_wrong(wrong):
            counts.update((kinds[k], ANY_KIND))
            wrong_counts.update((kinds[k], ANY_KIND) if wrong[k] else ())
    if not counts:
        raise ValueError("there are no steps to compute rates from")
    return {kind: wrong_counts[kind] / count for kind, count in counts.items()}


def kind_prior_change(kinds: Sequence[str], rates: dict[str, float]) -> list[float]:
    """Returns −P(wrong | kind) for each step, a control signal that depends only on the kind; shape [steps].

    Its largest drop is at the first step of the kind that is wrong most often.

    Args:
        kinds: the kinds of one response's steps.
        rates: the result of `kind_rates`; a kind without a rate gets the rate over all kinds.
    """
    return [-rates.get(kind, rates[ANY_KIND]) for kind in kinds]


class Position(NamedTuple):
    """A place among the steps of any response: a number of steps from the start or the end, or a share of them."""

    of: Literal["start", "end", "share"]
    number: float

    def step(self, steps: int) -> int:
        """Returns the index of the step at this place in a response with so many steps."""
        places = {"start": self.number, "end": steps - 1 - self.number, "share": np.floor(self.number * (steps - 1))}
        return int(np.clip(places[self.of], 0, steps - 1))

    def change(self, steps: int) -> list[float]:
        """Returns a control signal that depends only on the position: its largest drop is at this place; [steps]."""
        return [-float(k == self.step(steps)) for k in range(steps)]


POSITIONS = (
    *(Position("start", k) for k in range(10)),
    *(Position("end", k) for k in range(10)),
    *(Position("share", k / 10) for k in range(1, 10)),
)
"""Candidates of `best_position`."""


def best_position(training: Sequence[Sequence[bool]]) -> Position:
    """Returns the place that is the first wrong step most often, the first of equal ones.

    Args:
        training: the flags of the steps of training responses; those without a wrong step are ignored.
    """
    first = [(len(wrong), list(wrong).index(True)) for wrong in training if any(wrong)]
    return max(POSITIONS, key=lambda place: sum(place.step(steps) == step for steps, step in first))


def length_sign(training: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> int:
    """Returns −1 if the longest step is the first wrong one at least as often as the shortest, else +1.

    The sign times the lengths is a control signal that depends only on the length of a step.

    Args:
        training: (lengths, wrong flags) of the steps of training responses.
    """
    found = [(StepCredit(np.negative(x).tolist(), wrong), StepCredit(list(x), wrong)) for x, wrong in training]
    longest, shortest = (sum(points_at_first_wrong(pair[k]) for pair in found if any(pair[k].wrong)) for k in (0, 1))
    return -1 if longest >= shortest else 1
