"""Breakdowns of graded responses: lenient and strict accuracy, pass@k, maj@k, and accuracy by level and type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stepcredit.episodes.episode import Episode, Message
from stepcredit.grading.keys import answer_key
from stepcredit.metrics.accuracy import mean_and_stderr
from stepcredit.metrics.samples import majority_at_k, pass_at_k, powers_of_two
from stepcredit.results.schema import AtK, GroupRow
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict

GROUPINGS = ("level", "type")
"""Metadata fields of problems that results are grouped by."""


def is_right(episode: Episode) -> bool:
    """Whether the verdict is right; truncated and undecided responses are not."""
    return episode.verdict is Verdict.RIGHT


def is_strictly_right(episode: Episode) -> bool:
    """Whether the verdict is right and the answer is in the place requested by the prompt."""
    return is_right(episode) and bool(episode.metadata.get("strict", True))


def rate(episodes: Sequence[Episode], right: Any = is_right) -> tuple[float, float | None]:
    """Returns (accuracy, standard error clustered by problem), rounded for a result file."""
    mean, stderr = mean_and_stderr([float(right(e)) for e in episodes], [e.prompt_id for e in episodes])
    return round(mean, 6), None if np.isnan(stderr) else round(stderr, 6)


def by_problem(episodes: Iterable[Episode]) -> list[list[Episode]]:
    """Groups responses by problem, in order of appearance; each group is sorted by sample."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.prompt_id, []).append(episode)
    return [sorted(responses, key=lambda e: e.sample) for responses in groups.values()]


def at_k(episodes: Sequence[Episode], samples: int) -> list[AtK]:
    """Returns pass@k and maj@k with standard errors over problems, for every power of two up to `samples`.

    Votes are for normalised answers (`stepcredit.grading.keys`); truncated responses have no vote.
    """
    problems = by_problem(episodes)
    right = np.array([[is_right(e) for e in responses] for responses in problems])
    answers = [[_vote(e) for e in responses] for responses in problems]
    has_answers = any(answer is not None for votes in answers for answer in votes)
    rows = []
    for k in powers_of_two(samples):
        mean, stderr = mean_and_stderr(pass_at_k(right, k))
        voted = mean_and_stderr(majority_at_k(answers, right, k)) if has_answers else None  # conversations have none
        votes = {} if voted is None else {"majority": round(voted[0], 6), "majority_stderr": _rounded(voted[1])}
        rows.append(AtK(k=k, pass_=round(mean, 6), pass_stderr=_rounded(stderr), **votes))
    return rows


def _vote(episode: Episode) -> str | None:
    extracted = episode.metadata.get("extracted")
    return None if episode.truncated or not extracted else answer_key(str(extracted))


def _rounded(number: float) -> float | None:
    return None if np.isnan(number) else round(number, 6)


def group_rows(episodes: Sequence[Episode], problems: Sequence[Problem], common: dict[str, Any]) -> list[GroupRow]:
    """Returns one row per level and per type of problem, if the task provides them."""
    metadata = {problem.prompt_id: problem.metadata for problem in problems}
    rows = []
    for by in GROUPINGS:
        groups: dict[Any, list[Episode]] = {}
        for episode in episodes:
            if metadata[episode.prompt_id].get(by) is not None:
                groups.setdefault(metadata[episode.prompt_id][by], []).append(episode)
        for group, members in sorted(groups.items(), key=lambda item: str(item[0])):
            accuracy, stderr = rate(members)
            strict, strict_stderr = rate(members, is_strictly_right)
            rows.append(
                GroupRow(
                    **common,
                    by=by,
                    group=group,
                    n=len({e.prompt_id for e in members}),
                    accuracy=accuracy,
                    stderr=stderr,
                    accuracy_strict=strict,
                    stderr_strict=strict_stderr,
                )
            )
    return rows


def reading_rows(episodes: Iterable[Episode]) -> Iterable[dict[str, Any]]:
    """Yields one human-readable row per response: prompt, response, extracted answer and verdict."""
    for episode in episodes:
        yield {
            "prompt_id": episode.prompt_id,
            "sample": episode.sample,
            "verdict": "truncated" if episode.truncated else str(episode.verdict or ""),
            "strict": episode.metadata.get("strict"),
            "extracted": episode.metadata.get("extracted"),
            "answer": episode.metadata.get("answer"),
            "prompt": episode.prompt,
            "response": _content(episode.completion),
        }


def _content(completion: str | Sequence[Message]) -> Any:
    """Returns the completion; for a single assistant message, its text."""
    if not isinstance(completion, str) and len(completion) == 1:
        return completion[0]["content"] or ""
    return completion
