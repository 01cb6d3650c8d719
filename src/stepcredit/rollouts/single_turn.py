"""Single-turn rollouts: responses to prompts, sampled and graded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from stepcredit.engines.engine import Engine, Generation, Request, SamplingParams
from stepcredit.episodes.encoding import prompt_ids, response_text
from stepcredit.episodes.episode import RETOKENISED, Episode, StopReason, Tokens, recorded
from stepcredit.progress import Advance, unseen
from stepcredit.rollouts.work_units import Keep, Sample, samples_of
from stepcredit.tasks.task import Problem, Task, completion_of


def sampling(config: Any, task: Task) -> SamplingParams:
    """Returns the sampling parameters of a config; the length limit defaults to that of the task."""
    return SamplingParams(
        max_new_tokens=config.max_new_tokens or task.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        stop=task.stop,
        seed=config.seed,
    )


def sample_and_grade(
    task: Task,
    problems: Sequence[Problem],
    engine: Engine,
    samples: int,
    params: SamplingParams,
    advance: Advance = unseen,
) -> list[Episode]:
    """Samples and grades `samples` episodes per problem, in order; calls `advance` after each generation."""
    return draw_and_grade(task, engine, params, samples_of(problems, samples), advance)


def draw_and_grade(
    task: Task,
    engine: Engine,
    params: SamplingParams,
    samples: Sequence[Sample],
    advance: Advance = unseen,
    keep: Keep | None = None,
) -> list[Episode]:
    """Draws and grades samples, in order; calls `advance` after each generation and `keep` after each batch."""
    encoded = {p.prompt_id: tuple(prompt_ids(p.prompt, engine.tokenizer)) for p, _ in samples}
    pairs = [(p, Request(encoded[p.prompt_id], p.prompt_id, k)) for p, k in samples]
    drawn = engine.generate([request for _, request in pairs], params)
    with ThreadPoolExecutor(1) as grading:  # while the engine draws the next batch
        graded: list[Future[Episode]] = []
        kept: list[Future[object]] = []
        for (problem, request), generation in zip(pairs, drawn, strict=True):
            graded.append(grading.submit(graded_episode, task, problem, request, generation, engine))
            advance(1, tokens=len(generation.ids))
            if keep is not None and (len(graded) % engine.batch_size == 0 or len(graded) == len(pairs)):
                for earlier in (future for future in kept if future.done()):
                    earlier.result()  # raises where the disk is full, before more is drawn
                kept.append(grading.submit(_keep, keep, graded[len(kept) * engine.batch_size :]))
        for future in kept:
            future.result()
        return [future.result() for future in graded]


def _keep(keep: Keep, batch: Sequence[Future[Episode]]) -> None:
    keep([future.result() for future in batch])


def graded_episode(
    task: Task,
    problem: Problem,
    request: Request,
    generation: Generation,
    engine: Engine,
) -> Episode:
    """Converts a generation to a graded episode; a truncated one has neither verdict nor reward."""
    text = response_text(generation.ids.tolist(), engine.tokenizer, engine.ends)
    truncated = generation.stop_reason is StopReason.LENGTH
    grade = None if truncated else task.grade(problem, text)
    prompt = np.array(request.prompt_ids, dtype=np.int32)
    zeros = np.zeros(len(prompt))
    return Episode(
        prompt=problem.prompt,
        completion=completion_of(problem.prompt, text),
        reward=None if grade is None else grade.reward,
        verdict=None if grade is None else grade.verdict,
        prompt_id=problem.prompt_id,
        sample=request.sample,
        stop_reason=generation.stop_reason,
        tokens=Tokens(
            ids=np.concatenate([prompt, generation.ids]),
            action_mask=np.concatenate([zeros, np.ones(len(generation.ids))]).astype(np.bool_),
            behavior_log_prob=recorded(np.concatenate([zeros, generation.log_prob])),
        ),
        metadata={
            "answer": problem.answer,
            "extracted": None if grade is None else grade.extracted,
            "strict": grade is not None and grade.strict,
            **({RETOKENISED: True} if generation.retokenised else {}),
            **problem.metadata,
        },
    )
