"""Search strategies over a task's problems: each gives one answer a problem, with what it cost.

Sampled strategies (vote, weighted-vote, best-of) choose from one pool of responses, drawn, graded and scored once; the
first K of a pool are the pool of K. A step beam draws for itself. Whatever a problem came to is an episode: the chosen
response; or one that a limit cut, where none has finished; or an undecided one that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stepcredit.engines.engine import Engine, Generation, Request, SamplingParams
from stepcredit.episodes.encoding import prompt_ids, response_text
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.evaluation.breakdown import by_problem
from stepcredit.grading.keys import answer_key
from stepcredit.progress import Advance
from stepcredit.rollouts.multi_turn import stepping
from stepcredit.rollouts.single_turn import graded_episode, sample_and_grade
from stepcredit.rollouts.work_units import WorkFolder, work_units
from stepcredit.search.beam import BeamParams, beam_search
from stepcredit.search.pool import score_responses
from stepcredit.search.responses import Asked, Found, Response
from stepcredit.search.scorers import Scorer
from stepcredit.search.selection import by_value, by_vote, by_weighted_vote
from stepcredit.tasks.task import Problem, Task, completion_of
from stepcredit.verdict import Verdict

Chooser = Callable[[Sequence[float], Sequence[str | None]], int | None]

CHOOSERS: dict[str, Chooser] = {
    "vote": lambda values, answers: by_vote(answers),
    "weighted-vote": by_weighted_vote,
    "best-of": lambda values, answers: by_value(values),
}
"""Strategies that choose from sampled responses, by name."""
NEED_SCORER = frozenset({"weighted-vote", "best-of", "beam"})


@dataclass(frozen=True)
class Strategy:
    """One way to answer: its name, and how many responses (K) or beams (B)."""

    name: str
    width: int


@dataclass(frozen=True)
class Bench:
    """What all strategies of one evaluation share.

    Attributes:
        task, problems: what is asked.
        engine: draws the responses.
        scorer: says which responses and steps are good; None where no strategy needs one.
        params: sampling.
        beam: the settings of a step beam; its width is the strategy's.
        rule: where the steps of a beam end.
        responses: where finished work is kept.
        asked: what this work depends on; other work is not gone on with.
    """

    task: Task
    problems: Sequence[Problem]
    engine: Engine
    scorer: Scorer | None
    params: SamplingParams
    beam: BeamParams
    rule: StepRule
    responses: Path
    asked: dict[str, Any]

    def answers(self, strategy: Strategy, most: int) -> list[Episode]:
        """One episode a problem.

        Args:
            strategy: what to do.
            most: the largest number of responses that any sampled strategy of this evaluation chooses from.
        """
        if strategy.name == "beam":
            return self._beam(strategy.width)
        return chosen_from(self.pool(most), strategy, self.beam.budget)

    def pool(self, samples: int) -> list[list[Episode]]:
        """`samples` graded responses to each problem, scored where there is a scorer; drawn as far as they are not."""

        def unit(problems: Sequence[Problem], advance: Advance) -> list[Episode]:
            drawn = sample_and_grade(self.task, problems, self.engine, samples, self.params, advance)
            return drawn if self.scorer is None else with_values(drawn, self.scorer)

        return by_problem(self._worked(f"pool{samples}", work_units(self.problems, samples), samples, unit))

    def _beam(self, width: int) -> list[Episode]:
        params = replace(self.beam, width=width)
        at_once = max(1, self.engine.batch_size // (width * params.each))

        def unit(problems: Sequence[Problem], advance: Advance) -> list[Episode]:
            found: list[Episode] = []
            for start in range(0, len(problems), at_once):
                chunk = problems[start : start + at_once]
                found += self.beamed(chunk, params)[0]
                advance(len(chunk))
            return found

        return self._worked(f"beam{width}x{params.each}", work_units(self.problems, width * params.each), 1, unit)

    def beamed(self, problems: Sequence[Problem], params: BeamParams) -> tuple[list[Episode], list[Found]]:
        """(the episodes, what was found) of a step beam over some problems.

        An engine or scorer that dies takes down one problem at most: the problems are searched again one by one.
        """
        found = one_by_one_if_needed(problems, lambda some: self._search(some, params))
        return [self._episode(p, f) for p, f in zip(problems, found, strict=True)], found

    def _search(self, problems: Sequence[Problem], params: BeamParams) -> list[Found]:
        assert self.scorer is not None
        engine, by_id = stepping(self.engine, "a beam"), {p.prompt_id: p for p in problems}
        stepper = engine.stepper(self.params, self.rule)
        prompts = [Asked(p.prompt_id, tuple(prompt_ids(p.prompt, engine.tokenizer))) for p in problems]

        def answer_of(prompt_id: str, response: Response) -> str | None:
            text = response_text(response.ids, engine.tokenizer, engine.ends)
            extracted = self.task.grade(by_id[prompt_id], text).extracted
            return None if extracted is None else answer_key(extracted)

        return beam_search(prompts, stepper, self.scorer, params, answer_of)

    def _episode(self, problem: Problem, found: Found) -> Episode:
        cost = {"tokens_generated": found.tokens_generated, "tokens_scored": found.tokens_scored}
        response = found.chosen or next(iter(found.pool), None) if found.error is None else None
        if response is None:
            return no_answer(problem, found.error or "the budget was spent before a response had finished", cost)
        return self.graded(problem, response, {**cost, "value": _number(response.value), "pool": len(found.finished)})

    def graded(self, problem: Problem, response: Response, more: dict[str, Any]) -> Episode:
        """A response as an episode with its verdict."""
        generation = Generation(
            np.array(response.ids, dtype=np.int32), np.array(response.log_prob, dtype=np.float32), response.stop_reason
        )
        ids = tuple(prompt_ids(problem.prompt, self.engine.tokenizer))
        request = Request(ids, problem.prompt_id)
        episode = graded_episode(self.task, problem, request, generation, self.engine)
        return replace(episode, metadata={**episode.metadata, **more})

    def _worked(
        self,
        name: str,
        units: Sequence[Sequence[Problem]],
        samples: int,
        unit: Callable[[Sequence[Problem], Advance], list[Episode]],
    ) -> list[Episode]:
        """The episodes of all units, those of an earlier run read back; so many responses to a problem."""
        folder = self.responses.with_name(f"{self.responses.name}-{name}")
        work = WorkFolder(folder, {**self.asked, "strategy": name}, units)
        return list(work.finish(unit, name, samples))


def one_by_one_if_needed(
    problems: Sequence[Problem], search: Callable[[Sequence[Problem]], list[Found]]
) -> list[Found]:
    """All problems in one search; where that dies, each in its own, so that the others come through."""
    try:
        return search(problems)
    except (RuntimeError, OSError) as error:
        if len(problems) == 1:
            return [Found(error=f"{type(error).__name__}: {_first_line(error)}")]
    return [found for problem in problems for found in one_by_one_if_needed([problem], search)]


def no_answer(problem: Problem, why: str, cost: dict[str, int]) -> Episode:
    """A problem that came to nothing: undecided, and never a reward."""
    return Episode(
        prompt=problem.prompt,
        completion=completion_of(problem.prompt, ""),
        reward=None,
        verdict=Verdict.UNDECIDED,
        prompt_id=problem.prompt_id,
        metadata={"answer": problem.answer, "error": why, **problem.metadata, **cost},
    )


def with_values(episodes: Sequence[Episode], scorer: Scorer) -> list[Episode]:
    """Episodes of some problems with the score of each finished response, and the tokens that were read for it."""
    groups = by_problem(episodes)
    prompts = [group[0].tokens.ids[: _start(group[0])].tolist() for group in groups if group[0].tokens is not None]
    finished = [[e for e in group if e.stop_reason is StopReason.STOP] for group in groups]
    ids = [[e.tokens.ids[_start(e) :].tolist() for e in group if e.tokens is not None] for group in finished]
    scores: dict[tuple[str, int], dict[str, Any]] = {}
    for group, (of_prompt, scored) in zip(finished, score_responses(prompts, ids, scorer), strict=True):
        for episode, (value, tokens) in zip(group, scored, strict=True):
            read = {"value": _number(value), "tokens_read": tokens, "prompt_read": of_prompt}
            scores[episode.prompt_id, episode.sample] = read
    return [replace(e, metadata={**e.metadata, **scores.get((e.prompt_id, e.sample), {})}) for e in episodes]


def chosen_from(pool: Sequence[Sequence[Episode]], strategy: Strategy, budget: int | None = None) -> list[Episode]:
    """One episode a problem, chosen from the first `strategy.width` of its responses.

    Args:
        pool: the responses to each problem, by sample.
        strategy: a name of `CHOOSERS`.
        budget: tokens generated and scored; responses that no longer fit are as if they had not been drawn.
    """
    scored = strategy.name in NEED_SCORER
    return [_chosen(affordable(responses[: strategy.width], budget, scored), strategy, scored) for responses in pool]


def affordable(responses: Sequence[Episode], budget: int | None, scored: bool) -> list[Episode]:
    """The first responses that a budget allows; the first one always counts."""
    kept: list[Episode] = []
    for response in responses:
        generated, read = cost_of([*kept, response], scored)
        if kept and budget is not None and generated + read > budget:
            break
        kept.append(response)
    return kept


def cost_of(responses: Sequence[Episode], scored: bool) -> tuple[int, int]:
    """(tokens generated, tokens scored) of some responses to one prompt, which is read once."""
    generated = sum(len(e.tokens) - _start(e) for e in responses if e.tokens is not None)
    if not scored:
        return generated, 0
    read = sum(e.metadata.get("tokens_read", 0) for e in responses)
    return generated, read + max((e.metadata.get("prompt_read", 0) for e in responses), default=0)


def _chosen(responses: Sequence[Episode], strategy: Strategy, scored: bool) -> Episode:
    generated, read = cost_of(responses, scored)
    cost = {"tokens_generated": generated, "tokens_scored": read}
    finished = [e for e in responses if e.stop_reason is StopReason.STOP]
    if not finished:
        return replace(responses[0], metadata={**responses[0].metadata, **cost})
    values = [e.metadata.get("value") for e in finished]
    if scored and any(value is None for value in values):
        first = finished[0]
        problem = Problem(first.prompt_id, first.prompt, str(first.metadata.get("answer")))
        return no_answer(problem, "the scorer returned NaN", cost)
    answers = [None if (x := e.metadata.get("extracted")) is None else answer_key(str(x)) for e in finished]
    index = CHOOSERS[strategy.name]([0.0 if v is None else v for v in values], answers)
    assert index is not None
    return replace(finished[index], metadata={**finished[index].metadata, **cost})


def trace_of(bench: Bench, problem: Problem, params: BeamParams) -> dict[str, Any]:
    """The tree of one problem's step beam, for the page that draws it."""
    (_,), (found,) = bench.beamed([problem], params)
    grades = {
        response.node: bench.task.grade(problem, response_text(response.ids, bench.engine.tokenizer, bench.engine.ends))
        for response in found.finished
    }
    nodes = []
    for node in found.nodes:
        grade = grades.get(node.id)
        told = {"verdict": str(grade.verdict) if grade else None, "extracted": grade.extracted if grade else None}
        nodes.append({**asdict(node), "value": _number(node.value), **told})
    return {
        "task": bench.task.name,
        "prompt_id": problem.prompt_id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "search": "beam",
        "width": params.width,
        "continuations": params.each,
        "tokens_generated": found.tokens_generated,
        "tokens_scored": found.tokens_scored,
        "nodes": nodes,
        "chosen": None if found.chosen is None else found.chosen.node,
        "error": found.error,
    }


def _start(episode: Episode) -> int:
    """Where the response begins."""
    assert episode.tokens is not None
    return int(episode.tokens.action_mask.argmax())


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
