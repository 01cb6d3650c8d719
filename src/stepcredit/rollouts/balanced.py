"""Balanced collection: samples of a prompt in rounds, until it has enough right and wrong ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from stepcredit.episodes.episode import Episode
from stepcredit.episodes.measures import outcome_of
from stepcredit.rollouts.work_units import Sample
from stepcredit.tasks.task import Problem

DRAWN = "drawn"
"""Metadata of a kept response: how many right, wrong and other ones were drawn of its prompt."""


def balanced_episodes(
    problems: Sequence[Problem], each: int, most: int, draw: Callable[[list[Sample]], Iterable[Episode]]
) -> list[Episode]:
    """Draws samples of every problem until it has `each` right and `each` wrong ones, or `most` in all.

    A first round draws 2 · `each` samples of a problem, and every further one `each`. How many are drawn beyond those
    that decide changes nothing: kept are the first right and the first wrong ones in the order of their numbers, and of
    a problem without any its first response.
    """
    drawn: dict[str, list[Episode]] = {problem.prompt_id: [] for problem in problems}
    open_ones, first, end = list(problems), 0, min(2 * each, most)
    while open_ones and first < most:
        for episode in draw([(problem, k) for problem in open_ones for k in range(first, end)]):
            drawn[episode.prompt_id].append(episode)
        open_ones = [p for p in open_ones if not _is_enough(map(outcome_of, drawn[p.prompt_id]), each)]
        first, end = end, min(end + each, most)
    return [episode for problem in problems for episode in kept(drawn[problem.prompt_id], each)]


def kept(drawn: Sequence[Episode], each: int) -> list[Episode]:
    """Returns the first `each` right and the first `each` wrong responses to a prompt, with counts of all up to the one
    that decided."""
    chosen: list[Episode] = []
    seen: Counter[str] = Counter()
    for episode in drawn:
        outcome = outcome_of(episode)
        seen[outcome] += 1
        if outcome in ("right", "wrong") and seen[outcome] <= each:
            chosen.append(episode)
        if _is_enough(seen.elements(), each):
            break
    counts = {"right": seen["right"], "wrong": seen["wrong"], "other": seen.total() - seen["right"] - seen["wrong"]}
    return [replace(e, metadata={**e.metadata, DRAWN: counts}) for e in chosen or drawn[:1]]


def _is_enough(outcomes: Iterable[str], each: int) -> bool:
    counts = Counter(outcomes)
    return min(counts["right"], counts["wrong"]) >= each
