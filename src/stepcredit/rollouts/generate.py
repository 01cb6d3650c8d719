"""Responses to prompts of one's own: greedy, sampled, or chosen by a value model, without gold answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from stepcredit.engines.engine import Engine, Generation, Request, SamplingParams
from stepcredit.episodes.alignment import TokenTexts, align
from stepcredit.episodes.delimiters import step_rule
from stepcredit.episodes.encoding import prompt_ids, response_text
from stepcredit.episodes.episode import Episode, Message, StopReason, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.flags import flag
from stepcredit.logs.formats import read_rows
from stepcredit.logs.messages import turns
from stepcredit.models.scoring import step_starts, values_of
from stepcredit.models.states import value_states
from stepcredit.progress import track
from stepcredit.rollouts.models import Models
from stepcredit.rollouts.multi_turn import stepping
from stepcredit.rollouts.task_settings import SamplingSettings
from stepcredit.searching.beam import beam_search
from stepcredit.searching.scorers import Reading, Scorer
from stepcredit.searching.selection import by_value
from stepcredit.searching.spec import SearchSpec
from stepcredit.settings import Limits
from stepcredit.tasks.task import completion_of

Prompt = str | list[Message]
SEARCHES = ("greedy", "sample", "best-of", "beam")
_FILES = (".txt", ".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz")


@dataclass(kw_only=True)
class GenerateConfig(SamplingSettings):
    """Answer prompts of your own: greedily, sampled, or guided by a value model, which then says V after every step."""

    prompts: list[str] = field(
        metadata={
            "help": "Texts, or one file: .txt with a prompt in each line; or rows (.jsonl, .json, .csv, .parquet) with "
            "a prompt, text or chat messages.",
            "positional": True,
        }
    )
    model: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("model"))
    value_model: str | None = field(default=None, metadata=flag("value_model"))
    reward_model: str | None = field(default=None, metadata=flag("reward_model"))
    chat: bool | None = field(
        default=None,
        metadata={
            "help": "Whether a text is put as a user's message, through the chat template; default: where the policy "
            "has one. Messages always go through it."
        },
    )
    output: str | None = field(default=None, metadata={"help": "A new .jsonl file for the responses."})
    search: str = field(
        default="greedy",
        metadata={
            "help": "How a response is found: greedy; sample (all --num_generations are given); the most valued of "
            "--width samples (best-of); or a step beam of --width (beam).",
            "choices": list(SEARCHES),
        },
    )
    width: Annotated[int, Limits(at_least=1)] = field(
        default=4, metadata={"help": "Responses (K) or beams (B) of a search."}
    )
    num_generations: Annotated[int, Limits(at_least=1)] = field(
        default=1, metadata=flag("num_generations", "With --search sample.")
    )
    max_new_tokens: Annotated[int | None, Limits(at_least=1)] = field(default=512, metadata=flag("max_new_tokens"))
    step_delimiters: list[str] | None = field(
        default=None, metadata=flag("step_delimiters", default="as V was trained, or line breaks")
    )


@dataclass(frozen=True)
class Answer:
    """One response to a prompt of one's own.

    Attributes:
        prompt: text or chat messages.
        text: the response, without its end token.
        stop_reason: `STOP`, or `LENGTH` where a limit cut it.
        tokens: of the response, its end token included.
        value: V of the finished response, or the reward model's score; None where nobody was asked, or it was cut.
        steps: its text step by step, where there is a value model.
        values: V before the first step and after each, [steps + 1]; None after the last step of one that was cut, and
            after all steps where V was trained at prompts alone.
    """

    prompt: Prompt
    text: str
    stop_reason: StopReason
    tokens: int
    value: float | None = None
    steps: tuple[str, ...] = ()
    values: tuple[float | None, ...] = ()

    @property
    def row(self) -> dict[str, Any]:
        """As a row of JSON."""
        completion = completion_of(self.prompt, self.text)
        row = {"prompt": self.prompt, "completion": completion, "stop_reason": str(self.stop_reason)}
        steps = [{"text": text, "value": v} for text, v in zip(self.steps, self.values[1:], strict=True)]
        by_step = {"value_initial": self.values[0], "steps": steps} if self.values else {}
        return {**row, "tokens": self.tokens, "value": self.value, **by_step}


def read_prompts(given: Sequence[str]) -> list[Prompt]:
    """The prompts of a file, or the given texts themselves.

    Raises:
        InputError: no such file, or a row without a prompt; with file and line.
    """
    name = given[0] if len(given) == 1 else ""
    if not name.lower().endswith(_FILES) or (any(c.isspace() for c in name) and not Path(name).is_file()):
        return list(given)
    if name.lower().endswith(".txt"):
        try:
            lines = Path(name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read ({error})", name) from error
        return [line for line in lines if line.strip()]
    prompts: list[Prompt] = []
    for row in read_rows(name):
        if row.data is None or row.data.get("prompt") in (None, ""):
            raise row.error or InputError("no prompt: expected a column prompt", row.where)
        try:
            prompts.append(turns(row.data["prompt"], "prompt"))
        except InputError as error:
            raise InputError(str(error), row.where) from error
    return prompts


def generate(
    config: GenerateConfig, prompts: Sequence[Prompt] | None = None, models: Models | None = None
) -> list[Answer]:
    """Responses to prompts, prompt by prompt (see `GenerateConfig`).

    Args:
        config: how.
        prompts: in place of those that the config names.
        models: likewise.

    Raises:
        InputError: settings that make no sense, prompts that cannot be read or are too long, or a model that does not
            load.
    """
    _check(config)
    models = models or Models(config)
    prompts = read_prompts(config.prompts) if prompts is None else prompts
    if config.chat or (config.chat is None and models.tokenizer.chat_template):
        prompts = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
    rule = _rule(config, models)
    engine, scorer = models.engine, models.scorer
    limit = 512 if config.max_new_tokens is None else config.max_new_tokens
    params = SamplingParams(limit, config.temperature, config.top_p, config.top_k, seed=config.seed)
    width = {"greedy": 1, "sample": config.num_generations}.get(config.search, config.width)
    spec = SearchSpec(config.search, width, params)
    requests = [Request(tuple(prompt_ids(p, engine.tokenizer)), str(k + 1)) for k, p in enumerate(prompts)]
    for request in requests:
        if not request.prompt_ids:
            raise InputError("the prompt has no tokens", f"prompt {request.prompt_id}")
    at_once = max(1, engine.batch_size // (width * spec.steps if spec.name == "beam" else width))
    chunks = [requests[k : k + at_once] for k in range(0, len(requests), at_once)]
    answers: list[Answer] = []
    for chunk in track(chunks, "answering", len(chunks), "batches"):
        drawn = (
            _beam(engine, scorer, chunk, spec, rule) if spec.name == "beam" else _sampled(engine, scorer, chunk, spec)
        )
        answers += _answers(models, rule, [(prompts[int(r.prompt_id) - 1], r, g) for r, g in drawn])
    return answers


def _check(config: GenerateConfig) -> None:
    if config.num_generations > 1 and config.search != "sample":
        raise InputError(f"{config.search} gives one response per prompt; choose --search sample", "num_generations")
    if config.search in ("best-of", "beam") and config.value_model is None and config.reward_model is None:
        raise InputError(f"{config.search} needs --value_model, or a --reward_model", "search")
    if config.output is not None and Path(config.output).exists():
        raise InputError("is there already; choose another", config.output)


def _rule(config: GenerateConfig, models: Models) -> StepRule:
    """Where steps end: as V was trained, where that was at step level; else by the delimiters that were given."""
    given = None if config.step_delimiters is None else step_rule(config.step_delimiters, Path())
    states = None if models.value_model is None else value_states(models.value_model)
    if states is not None and states.level == "response" and config.search in ("best-of", "beam"):
        raise InputError("was trained at prompts alone (response level), and says nothing of what was written",
                         "value_model")  # fmt: skip
    if states is None or states.level != "step":
        return StepRule(("\n",) if given is None else given.delimiters, 256)
    if given is not None and given.delimiters != states.step_delimiters:
        raise InputError(f"the value model was trained on steps that end after {list(states.step_delimiters)}",
                         "step_delimiters")  # fmt: skip
    return states.rule


def _sampled(
    engine: Engine, scorer: Scorer | None, requests: Sequence[Request], spec: SearchSpec
) -> list[tuple[Request, Generation]]:
    """Whole responses: all that were drawn, or the most valued one of each prompt."""
    several = [replace(request, sample=k) for request in requests for k in range(spec.width)]
    drawn = list(zip(several, engine.generate(several, spec.params), strict=True))
    if not spec.needs_scorer or scorer is None:
        return drawn
    groups = [drawn[k : k + spec.width] for k in range(0, len(drawn), spec.width)]
    return [_most_valued(group, scorer) for group in groups]


def _most_valued(drawn: Sequence[tuple[Request, Generation]], scorer: Scorer) -> tuple[Request, Generation]:
    """Of the responses to one prompt the finished one with the highest value; the first where none has finished."""
    finished = [(r, g) for r, g in drawn if g.stop_reason is StopReason.STOP]
    best = by_value([score_of(scorer, request, generation) for request, generation in finished])
    return drawn[0] if best is None else finished[best]


def score_of(scorer: Scorer, request: Request, generation: Generation) -> float:
    """What a scorer says of a finished response.

    Raises:
        InputError: it says NaN.
    """
    scoring, _, _ = scorer.start([request.prompt_ids])
    values, _ = scoring.score([Reading(0, tuple(generation.ids.tolist()), finished=True)])
    if np.isnan(values[0]):
        raise InputError("the model that scores says NaN", f"prompt {request.prompt_id}")
    return float(values[0])


def _beam(
    engine: Engine, scorer: Scorer | None, requests: Sequence[Request], spec: SearchSpec, rule: StepRule
) -> list[tuple[Request, Generation]]:
    """The response that a step beam chooses for each prompt; a cut one where none has finished."""
    assert scorer is not None
    stepped = stepping(engine, "a beam")
    room = min((stepped.max_length or 10**9) - len(request.prompt_ids) for request in requests)
    if room < 1:
        raise InputError(f"a prompt has more tokens than the {stepped.max_length} that the model reads", "prompts")
    spec = replace(spec, params=replace(spec.params, max_new_tokens=min(spec.params.max_new_tokens, room)))
    results = beam_search(requests, stepped.stepper(spec.params, rule), scorer, spec)
    drawn = []
    for request, found in zip(requests, results, strict=True):
        if found.error is not None:
            raise InputError(found.error, f"prompt {request.prompt_id}")
        response = found.chosen or found.pool[0]
        ids, log_prob = np.array(response.ids, np.int32), np.array(response.log_prob, np.float32)
        drawn.append((request, Generation(ids, log_prob, response.stop_reason)))
    return drawn


def _answers(models: Models, rule: StepRule, drawn: Sequence[tuple[Prompt, Request, Generation]]) -> list[Answer]:
    """The responses as answers, with what the value model or the reward model says of them."""
    tokenizer, ends, scorer = models.tokenizer, models.engine.ends, models.scorer
    answers = [
        Answer(prompt, response_text(g.ids.tolist(), tokenizer, ends), g.stop_reason, len(g.ids))
        for prompt, _, g in drawn
    ]
    if models.value_model is None:
        scores = [
            round(score_of(scorer, request, g), 4) if scorer is not None and g.stop_reason is StopReason.STOP else None
            for _, request, g in drawn
        ]
        return [replace(answer, value=score) for answer, score in zip(answers, scores, strict=True)]
    pieces, states = TokenTexts(tokenizer), value_states(models.value_model)
    rows = [align(_episode(*response), tokenizer, rule, pieces, ends) for response in drawn]
    for k, value in enumerate(values_of(models.value_model, rows)):
        starts, is_cut = step_starts(rows[k]), answers[k].stop_reason is StopReason.LENGTH
        bounds = [*starts, len(rows[k])] if is_cut else starts
        steps = [response_text(rows[k].ids[a:b].tolist(), tokenizer, ends) for a, b in pairwise(bounds)]
        read = starts[:1] if states is not None and states.level == "response" else starts
        values = [*(round(float(v), 4) for v in value[read]), *[None] * (len(steps) + 1 - len(read))]
        answers[k] = replace(answers[k], steps=tuple(steps), values=tuple(values), value=values[-1])
    return answers


def _episode(prompt: Prompt, request: Request, generation: Generation) -> Episode:
    """A response as an episode, whose reward nobody knows and nobody reads."""
    ids = np.concatenate([np.array(request.prompt_ids, np.int32), generation.ids])
    mask = np.arange(len(ids)) >= len(request.prompt_ids)
    return Episode(
        prompt=prompt,
        completion=completion_of(prompt, ""),
        reward=0.0,
        prompt_id=request.prompt_id,
        stop_reason=generation.stop_reason,
        tokens=Tokens(ids, mask),
    )
