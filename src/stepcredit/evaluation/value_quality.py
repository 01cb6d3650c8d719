"""Quality of a value model: ranking of right above wrong responses, and localisation of the first wrong step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.alignment import TokenTexts, Trajectory, align
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.metrics.localisation import StepCredit, first_wrong_step_accuracy
from stepcredit.metrics.ranking import Estimate, auc_within
from stepcredit.models.scoring import value_after_steps, values_of
from stepcredit.results.schema import CreditExample, StepValue, ValueRow
from stepcredit.tasks.task import Problem, Task


class Scored(NamedTuple):
    """Finished, decided response with V before its first step and after each, [steps + 1]."""

    episode: Episode
    trajectory: Trajectory
    value: NDArray[np.float32]


def score(value_model: Any, tokenizer: Any, episodes: Sequence[Episode], rule: StepRule) -> list[Scored]:
    """Computes V after every step of each finished and decided episode; omits the others."""
    pieces = TokenTexts(tokenizer)
    finished = [e for e in episodes if e.reward is not None and not e.truncated]
    rows = [align(e, tokenizer, rule, pieces) for e in finished]
    values = values_of(value_model, rows)
    return [Scored(e, t, value_after_steps(t, v)) for e, t, v in zip(finished, rows, values, strict=True)]


def value_at(scored: Scored, share: float) -> float:
    """Returns V after this share of the steps, rounded down; 1.0 is the finished response."""
    steps = len(scored.value) - 1
    return float(scored.value[int(share * steps)])


def ranking(scored: Sequence[Scored], share: float, seed: int = 0) -> Estimate:
    """Returns the AUC of V at a share of the response, right against wrong responses to the same prompt."""
    return auc_within(
        [value_at(s, share) for s in scored],
        [s.episode.reward == 1 for s in scored],
        [s.episode.prompt_id for s in scored],
        seed=seed,
    )


def localisation(
    scored: Sequence[Scored], task: Task, problems: Sequence[Problem], seed: int = 0
) -> tuple[Estimate, float]:
    """Returns the share of wrong responses whose largest drop in V is at the first wrong step, and that by chance."""
    by_id = {p.prompt_id: p for p in problems}
    credits, groups = [], []
    for s in scored:
        wrong = task.wrong_steps(by_id[s.episode.prompt_id], "".join(_turns(s.episode)))
        if s.episode.reward == 0 and wrong is not None and len(wrong) == len(s.value) - 1:
            credits.append(StepCredit(np.diff(s.value).tolist(), wrong))
            groups.append(s.episode.prompt_id)
    return first_wrong_step_accuracy(credits, groups, seed=seed)


def value_rows(
    scored: Sequence[Scored], task: Task, problems: Sequence[Problem], common: dict[str, Any], seed: int = 0
) -> list[ValueRow]:
    """Returns the rows of `value.json`: ranking at half and at the end, and localisation; rows without data are
    omitted."""
    rows = [
        _row(common, "auc_within_prompt", share, ranking(scored, share, seed), note)
        for share, note in ((0.5, "half of the steps written"), (1.0, "before the end token"))
    ]
    located, chance = localisation(scored, task, problems, seed)
    rows = [row for row in rows if row.n]
    if not located.pairs:
        return rows
    rows.append(_row(common, "first_wrong_step", None, located, "largest drop in V is the first wrong step"))
    note = "any step of the response"
    by_chance = replace(rows[-1], metric="first_wrong_step_chance", estimate=chance, low=None, high=None, note=note)
    return [*rows, by_chance]


def _row(common: dict[str, Any], metric: str, at: float | None, e: Estimate, note: str) -> ValueRow:
    numbers: dict[str, Any] = {"estimate": e.estimate, "low": e.low, "high": e.high, "n": e.pairs, "prompts": e.groups}
    return ValueRow(**common, metric=metric, at=at, **numbers, note=note)


def credit_examples(scored: Sequence[Scored], task: Task, problems: Sequence[Problem]) -> list[CreditExample]:
    """Returns the rows of `credit.json`: a right and a wrong response to one prompt, step by step."""
    by_prompt: dict[str, dict[bool, Scored]] = {}
    for s in scored:
        by_prompt.setdefault(s.episode.prompt_id, {}).setdefault(s.episode.reward == 1, s)
    both = [pair for pair in by_prompt.values() if len(pair) == 2]
    pair = max(both, key=lambda p: len(p[False].value), default={})
    by_id = {p.prompt_id: p for p in problems}
    return [credit_row(pair[right], task, by_id) for right in (True, False) if right in pair]


def _turns(episode: Episode) -> list[str]:
    """Returns the texts written by the policy, per turn; a response is one turn."""
    if isinstance(episode.completion, str):
        return [episode.completion]
    return [message["content"] or "" for message in episode.completion if message["role"] == "assistant"]


def credit_row(scored: Scored, task: Task, by_id: dict[str, Problem]) -> CreditExample:
    """Returns a response with V and correctness of each step."""
    episode = scored.episode
    problem = by_id[episode.prompt_id]
    turns = _turns(episode)
    wrong = task.wrong_steps(problem, "".join(turns))
    # In a conversation the end token of a turn is a step too: V after a turn is V before that token.
    steps = turns if len(turns) > 1 else StepRule(task.step_delimiters).split(turns[0])
    after = scored.value[1 :: 2 if len(turns) > 1 else 1].tolist()
    return CreditExample(
        task=task.name,
        prompt=problem.prompt if isinstance(problem.prompt, str) else list(problem.prompt),
        answer=problem.answer,
        extracted=episode.metadata.get("extracted"),
        verdict="right" if episode.reward == 1 else "wrong",
        value_initial=round(float(scored.value[0]), 4),
        steps=[
            StepValue(text=step, value=round(value, 4), right=None if wrong is None else not wrong[i])
            for i, (step, value) in enumerate(zip(steps, after, strict=False))
        ],
    )
