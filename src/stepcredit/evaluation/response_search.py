"""Search over responses: graded episodes of the problems of a task, with token costs.

Every problem yields an episode: the chosen response, a truncated one if none has finished, or an undecided episode with
the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stepcredit.engines.engine import Engine, Generation, Request
from stepcredit.episodes.encoding import prompt_ids, response_text
from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.evaluation.breakdown import by_problem
from stepcredit.evaluation.rows import INSTEAD
from stepcredit.grading.keys import answer_key
from stepcredit.models.states import MAX_STEP_TOKENS, ValueStates
from stepcredit.progress import Advance
from stepcredit.rollouts.multi_turn import stepping
from stepcredit.rollouts.single_turn import draw_and_grade, graded_episode
from stepcredit.rollouts.work_units import Unfinished, Unit, WorkFolder, samples_of, work_units
from stepcredit.searching.beam import beam_search
from stepcredit.searching.responses import Response, SearchResult
from stepcredit.searching.scorers import Reading, Scorer
from stepcredit.searching.selection import CHOOSERS
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.task import Problem, Task, completion_of
from stepcredit.verdict import Verdict


def step_rule(task: Task, states: ValueStates | None, max_step_tokens: int | None = None) -> StepRule:
    """Returns the step rule of a value model trained at step level, otherwise that of the task.

    Raises:
        InputError: `max_step_tokens` differs from that of the value model.
    """
    if states is None or states.level != "step":
        return StepRule(task.step_delimiters, max_step_tokens or MAX_STEP_TOKENS)
    if max_step_tokens not in (None, states.max_step_tokens):
        trained = states.max_step_tokens
        raise InputError(f"{max_step_tokens}: the value model was trained on steps of at most {trained} tokens",
                         "max_step_tokens")  # fmt: skip
    return states.rule


def search_rule(task: Task, scorer: Scorer | None, max_step_tokens: int | None = None) -> StepRule:
    """Returns the step rule of a search.

    Raises:
        InputError: as `step_rule`; or the value model was trained on prompts only.
    """
    states = getattr(scorer, "states", None)
    if states is not None:
        states.check_scores_responses()
    return step_rule(task, states, max_step_tokens)


@dataclass(frozen=True)
class ResponseSearch:
    """Resumable searches on the problems of a single-turn task, which share one pool of samples.

    Attributes:
        task, problems: the task and its problems.
        engine: loads the engine of the policy; called only if responses are missing.
        scorer: scorer of responses and steps; None if no search needs one.
        rule: step rule of beam search.
        folder: prefix of the folder of each search.
        settings: settings that determine the episodes; a folder with other settings is not resumed.
        pool: number of responses per problem, sampled, graded and scored once, for vote, weighted-vote and best-of.
            A search of width K uses the first K; "sample" of this width uses all.
    """

    task: Task
    problems: Sequence[Problem]
    engine: Callable[[], Engine]
    scorer: Scorer | None
    rule: StepRule
    folder: Path
    settings: dict[str, Any]
    pool: int = 0

    def episodes(self, spec: SearchSpec) -> list[Episode]:
        """Returns `spec.samples` episodes per problem; those of an earlier run are loaded.

        Raises:
            InputError: the folder has other settings.
        """
        if spec.name == "beam":
            return self._work(f"beam{spec.width}x{spec.steps}", spec, spec.width * spec.steps, self._beams)
        if spec.name == "greedy" or (spec.name == "sample" and spec.width != self.pool):
            return self._work(spec.label, spec, spec.samples, self._samples)
        pool_spec = replace(spec, name="sample", width=self.pool)
        pool = self._work(f"pool{self.pool}", pool_spec, self.pool, self._samples_with_values)
        return chosen_from(by_problem(pool), spec) if spec.name in CHOOSERS else pool

    def trace(self, problem: Problem, spec: SearchSpec) -> dict[str, Any]:
        """Returns the search tree of one problem, as data for the trace page."""
        (result,) = one_by_one_if_needed([problem], lambda some: self._search(some, spec))
        grades = {response.node: self.task.grade(problem, self._text(response)) for response in result.finished}
        nodes = []
        for node in result.nodes:
            grade = grades.get(node.id)
            graded = {"verdict": str(grade.verdict) if grade else None, "extracted": grade.extracted if grade else None}
            nodes.append({**asdict(node), "value": _number(node.value), **graded})
        return {
            "task": self.task.name,
            "prompt_id": problem.prompt_id,
            "prompt": problem.prompt,
            "answer": problem.answer,
            "search": spec.name,
            "width": spec.width,
            "continuations": spec.steps,
            "tokens_generated": result.tokens_generated,
            "tokens_scored": result.tokens_scored,
            "nodes": nodes,
            "chosen": None if result.chosen is None else result.chosen.node,
            "error": result.error,
        }

    def _work(
        self,
        name: str,
        spec: SearchSpec,
        responses: int,
        make: Callable[[Unit, SearchSpec, Advance, Unfinished], Iterable[Episode]],
    ) -> list[Episode]:
        """Returns the episodes of all units, of `responses` responses per problem; `make` makes the missing ones."""
        folder = self.folder.with_name(f"{self.folder.name}-{name}")
        work = WorkFolder(folder, self.settings, work_units(self.problems, responses), INSTEAD)
        if work.done() < len(work.units):  # reports an unsuitable engine before anything is written
            _ = stepping(self.engine(), "a beam") if spec.name == "beam" else self.engine()
        return list(work.finish(lambda unit, *given: make(unit, spec, *given), name, spec.samples))

    def _samples(self, problems: Unit, spec: SearchSpec, advance: Advance, there: Unfinished) -> list[Episode]:
        draw = partial(draw_and_grade, self.task, self.engine(), spec.params)
        return there.complete(samples_of(problems, spec.samples), draw, advance)

    def _samples_with_values(
        self, problems: Unit, spec: SearchSpec, advance: Advance, there: Unfinished
    ) -> list[Episode]:
        drawn = self._samples(problems, spec, advance, there)
        return drawn if self.scorer is None else with_values(drawn, self.scorer)

    def _beams(self, problems: Unit, spec: SearchSpec, advance: Advance, there: Unfinished) -> Iterator[Episode]:
        """Yields the episodes of beam search, batch by batch; a failure of engine or scorer affects one problem."""
        at_once = max(1, self.engine().batch_size // (spec.width * spec.steps))
        for start in range(0, len(problems), at_once):
            some = problems[start : start + at_once]
            results = one_by_one_if_needed(some, lambda part: self._search(part, spec))
            yield from map(self._episode, some, results)
            advance(len(some), tokens=sum(result.tokens_generated for result in results))

    def _search(self, problems: Sequence[Problem], spec: SearchSpec) -> list[SearchResult]:
        assert self.scorer is not None
        by_id = {p.prompt_id: p for p in problems}
        engine = stepping(self.engine(), "a beam")
        stepper, requests = engine.stepper(spec.params, self.rule), [self._request(p) for p in problems]

        def answer_of(prompt_id: str, response: Response) -> str | None:
            extracted = self.task.grade(by_id[prompt_id], self._text(response)).extracted
            return None if extracted is None else answer_key(extracted)

        return beam_search(requests, stepper, self.scorer, spec, answer_of, engine.max_length)

    def _request(self, problem: Problem) -> Request:
        return Request(tuple(prompt_ids(problem.prompt, self.engine().tokenizer)), problem.prompt_id)

    def _text(self, response: Response) -> str:
        return response_text(response.ids, self.engine().tokenizer, self.engine().ends)

    def _episode(self, problem: Problem, result: SearchResult) -> Episode:
        """Converts the result of a beam search to a graded episode."""
        cost = {"tokens_generated": result.tokens_generated, "tokens_scored": result.tokens_scored}
        response = result.chosen or next(iter(result.pool), None) if result.error is None else None
        if response is None:
            return no_answer(problem, result.error or "the budget was spent before a response had finished", cost)
        ids, log_prob = np.array(response.ids, dtype=np.int32), np.array(response.log_prob, dtype=np.float32)
        generation = Generation(ids, log_prob, response.stop_reason)
        episode = graded_episode(self.task, problem, self._request(problem), generation, self.engine())
        more = {**cost, "value": _number(response.value), "pool": len(result.finished)}
        return replace(episode, metadata={**episode.metadata, **more})


def one_by_one_if_needed(
    problems: Sequence[Problem], search: Callable[[Sequence[Problem]], list[SearchResult]]
) -> list[SearchResult]:
    """Searches all problems in one batch; after a failure, each problem on its own."""
    try:
        return search(problems)
    except (RuntimeError, OSError) as error:
        if len(problems) == 1:
            first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
            return [SearchResult(error=f"{type(error).__name__}: {first_line}")]
    return [result for problem in problems for result in one_by_one_if_needed([problem], search)]


def no_answer(problem: Problem, reason: str, cost: dict[str, int]) -> Episode:
    """Returns an undecided episode without a response or reward."""
    return Episode(
        prompt=problem.prompt,
        completion=completion_of(problem.prompt, ""),
        reward=None,
        verdict=Verdict.UNDECIDED,
        prompt_id=problem.prompt_id,
        metadata={"answer": problem.answer, "error": reason, **problem.metadata, **cost},
    )


def with_values(episodes: Sequence[Episode], scorer: Scorer) -> list[Episode]:
    """Adds the score and the number of tokens read to the metadata of each finished response."""
    groups = by_problem(episodes)
    prompts = [group[0].tokens.ids[: _start(group[0])].tolist() for group in groups if group[0].tokens is not None]
    finished = [(row, e) for row, group in enumerate(groups) for e in group if e.stop_reason is StopReason.STOP]
    ids = [e.tokens.ids[_start(e) :].tolist() for _, e in finished if e.tokens is not None]
    scoring, _, prompt_read = scorer.start(prompts)
    if not finished:
        return list(episodes)
    values, read = scoring.score([Reading(row, tuple(own), True) for (row, _), own in zip(finished, ids, strict=True)])
    scores: dict[tuple[str, int], dict[str, Any]] = {}
    for (row, e), value, tokens in zip(finished, values.tolist(), read, strict=True):
        score = {"value": _number(value), "tokens_read": tokens, "prompt_read": prompt_read[row]}
        scores[e.prompt_id, e.sample] = score
    return [replace(e, metadata={**e.metadata, **scores.get((e.prompt_id, e.sample), {})}) for e in episodes]


def chosen_from(pool: Sequence[Sequence[Episode]], spec: SearchSpec) -> list[Episode]:
    """Chooses one episode per problem from the first `spec.width` responses of the pool, in order of sample.

    1. Drop the responses that exceed the budget, as if they had not been sampled.
    2. Count the cost of the others.
    3. Choose among the finished responses; if none has finished, take the first response.
    """
    chosen = []
    for responses in pool:
        drawn = affordable(responses[: spec.width], spec.budget, spec.needs_scorer)  # 1.
        generated, read = cost_of(drawn, spec.needs_scorer)  # 2.
        cost = {"tokens_generated": generated, "tokens_scored": read}
        finished = [e for e in drawn if e.stop_reason is StopReason.STOP] or drawn[:1]  # 3.
        values = [e.metadata.get("value") for e in finished]
        if spec.needs_scorer and finished[0].stop_reason is StopReason.STOP and None in values:
            first = finished[0]
            problem = Problem(first.prompt_id, first.prompt, str(first.metadata.get("answer")))
            chosen.append(no_answer(problem, "the scorer returned NaN", cost))
            continue
        answers = [None if (x := e.metadata.get("extracted")) is None else answer_key(str(x)) for e in finished]
        index = CHOOSERS[spec.name]([0.0 if v is None else v for v in values], answers)
        assert index is not None
        chosen.append(replace(finished[index], metadata={**finished[index].metadata, **cost}))
    return chosen


def affordable(responses: Sequence[Episode], budget: int | None, scored: bool) -> list[Episode]:
    """Returns the longest prefix of responses within the budget, at least one."""
    prefix: list[Episode] = []
    for response in responses:
        if prefix and budget is not None and sum(cost_of([*prefix, response], scored)) > budget:
            break
        prefix.append(response)
    return prefix


def cost_of(responses: Sequence[Episode], scored: bool) -> tuple[int, int]:
    """Returns (tokens generated, tokens scored) of responses to one prompt, which is scored once."""
    generated = sum(len(e.tokens) - _start(e) for e in responses if e.tokens is not None)
    if not scored:
        return generated, 0
    read = sum(e.metadata.get("tokens_read", 0) for e in responses)
    return generated, read + max((e.metadata.get("prompt_read", 0) for e in responses), default=0)


def _start(episode: Episode) -> int:
    """Returns the index of the first response token."""
    assert episode.tokens is not None
    return int(episode.tokens.action_mask.argmax())


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
