"""Generation for the user's own prompts: greedy, sampled, or guided by a value model; no gold answers needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from stepcredit.engines.engine import Engine, Generation, Request, SamplingParams, check_prompts
from stepcredit.episodes.alignment import TokenTexts, align
from stepcredit.episodes.delimiters import step_rule
from stepcredit.episodes.encoding import prompt_ids, response_text
from stepcredit.episodes.episode import Episode, Message, StopReason, Tokens
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.files import why_not_written
from stepcredit.flags import flag
from stepcredit.hashes import content_of
from stepcredit.logs.formats import read_rows
from stepcredit.logs.messages import turns
from stepcredit.logs.writers import RowWriter, output_path
from stepcredit.models.scoring import step_starts
from stepcredit.models.states import MAX_STEP_TOKENS
from stepcredit.progress import track
from stepcredit.rollouts.models import Models
from stepcredit.rollouts.multi_turn import stepping
from stepcredit.rollouts.task_settings import HOW_ASKED, SamplingSettings
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
    """Generate responses to your own prompts: greedy, sampled, or guided by a value model, which then also gives V
    after every step."""

    prompts: list[str] = field(
        metadata={
            "help": "Texts, or one file: .txt with one prompt per line, or rows (.jsonl, .json, .csv, .parquet) with a "
            "column prompt (text or chat messages).",
            "positional": True,
        }
    )
    model: Annotated[str, Limits(not_empty=True)] = field(metadata=flag("model"))
    value_model: str | None = field(default=None, metadata=flag("value_model"))
    value_base_url: Annotated[list[str] | None, Limits(not_empty=True)] = field(
        default=None, metadata=flag("value_base_url")
    )
    reward_model: str | None = field(default=None, metadata=flag("reward_model"))
    chat: bool | None = field(
        default=None,
        metadata={
            "help": "Whether to format a text prompt as a user message with the chat template; default: if the policy "
            "has one, and did not learn from plain text. Chat messages always use it."
        },
    )
    output: Annotated[str | None, Limits(not_empty=True)] = field(
        default=None,
        metadata={"help": "New .jsonl or .jsonl.gz file for the responses; the same command goes on after a kill."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a file that is there."})
    search: str = field(
        default="greedy",
        metadata={
            "help": "How a response is generated: greedy; sample (outputs all --num_generations); best-of (the sample "
            "of highest value among --width); or beam (step beam search with --width beams).",
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
    """Response to one of the user's prompts.

    Attributes:
        prompt: text or chat messages.
        text: the response without its end token.
        stop_reason: `STOP`, or `LENGTH` for a truncated response.
        tokens: number of tokens of the response, end token included.
        value: V of the finished response, or its reward model score; None if truncated or without such a model.
        steps: text of each step, if there is a value model.
        values: V before the first step and after each, [steps + 1]; None after the last step of a truncated response,
            and after all steps if V was trained on prompts only.
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
        """Converts the answer to a JSON row."""
        completion = completion_of(self.prompt, self.text)
        row = {"prompt": self.prompt, "completion": completion, "stop_reason": str(self.stop_reason)}
        steps = [{"text": text, "value": v} for text, v in zip(self.steps, self.values[1:], strict=True)]
        by_step = {"value_initial": self.values[0], "steps": steps} if self.values else {}
        return {**row, "tokens": self.tokens, "value": self.value, **by_step}


def read_prompts(sources: Sequence[str]) -> list[Prompt]:
    """Reads the prompts of a file, or returns the texts themselves.

    Raises:
        InputError: the file cannot be read, or a row has no prompt; with file and line.
    """
    name = sources[0] if len(sources) == 1 else ""
    if not name.lower().endswith(_FILES) or (any(c.isspace() for c in name) and not Path(name).is_file()):
        return list(sources)
    if name.lower().endswith(".txt"):
        try:
            lines = Path(name).read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read ({error})", name) from error
        return [line.removesuffix("\r") for line in lines if line.strip()]
    prompts: list[Prompt] = []
    for row in read_rows(name):
        if row.data is None or row.data.get("prompt") in (None, ""):
            raise row.error or InputError("no prompt; add a column prompt", row.where)
        try:
            prompts.append(turns(row.data["prompt"], "prompt"))
        except InputError as error:
            raise InputError(str(error), row.where) from error
    return prompts


def generate(
    config: GenerateConfig, prompts: Sequence[Prompt] | None = None, models: Models | None = None
) -> list[Answer]:
    """Generates responses, prompt by prompt (see `GenerateConfig`).

    Args:
        config: the settings; `output` is not used.
        prompts: prompts to use instead of `config.prompts`.
        models: models to use instead of those named in the config.

    Raises:
        InputError: inconsistent settings, prompts that cannot be read or are too long, or a model that cannot be
            loaded.
    """
    prompts = read_prompts(config.prompts) if prompts is None else prompts
    return [answer for batch in generate_batches(config, prompts, models) for answer in batch]


def generate_file(config: GenerateConfig, output: str) -> int:
    """Generates responses into a new .jsonl file and returns their number; called again after a kill, it goes on.

    Raises:
        InputError: as `generate`, or the file exists, was begun with other settings, or cannot be written.
    """
    _check(config)
    prompts = read_prompts(config.prompts)
    try:
        with RowWriter(output_path(output), _settings_of(config, prompts), overwrite=config.overwrite) as writer:
            skip, more = divmod(writer.done, _responses(config))
            for batch in generate_batches(config, prompts, skip=skip):
                writer.write([answer.row for answer in batch][more:], [])
                more = 0
            writer.finish()
            return writer.done
    except OSError as error:
        raise InputError(why_not_written(error), output) from error


def _responses(config: GenerateConfig) -> int:
    """Returns the number of responses to each prompt."""
    return config.num_generations if config.search == "sample" else 1


def _settings_of(config: GenerateConfig, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Returns the settings that determine the responses, with hashes of the prompts and of the models."""
    settings = {name: value for name, value in asdict(config).items() if name not in _UNBOUND}
    contents = {f"content of {name}": content_of(settings[name]) for name in ("model", "value_model", "reward_model")}
    asked = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    return {**settings, **contents, "prompts": asked}


_UNBOUND = ("prompts", "output", "overwrite", "batch_size", "value_base_url", *HOW_ASKED)
"""Settings that do not determine the responses; `prompts` is replaced by a hash."""


def generate_batches(
    config: GenerateConfig, prompts: Sequence[Prompt], models: Models | None = None, skip: int = 0
) -> Iterator[list[Answer]]:
    """Yields the responses batch by batch, without those to the first `skip` prompts; otherwise as `generate`."""
    _check(config)
    models = models or Models(config)
    if models.asks_in_chat if config.chat is None else config.chat:
        prompts = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
    rule = _rule(config, models)
    engine, scorer = models.engine, models.scorer
    limit = 512 if config.max_new_tokens is None else config.max_new_tokens
    params = SamplingParams(limit, config.temperature, config.top_p, config.top_k, seed=config.seed)
    width = {"greedy": 1, "sample": config.num_generations}.get(config.search, config.width)
    spec = SearchSpec(config.search, width, params)
    requests = [Request(tuple(prompt_ids(p, engine.tokenizer)), str(k + 1)) for k, p in enumerate(prompts)]
    check_prompts(requests, getattr(engine, "max_length", None))
    requests = requests[skip:]
    at_once = max(1, engine.batch_size // (width * spec.steps if spec.name == "beam" else width))
    chunks = [requests[k : k + at_once] for k in range(0, len(requests), at_once)]
    for chunk in track(chunks, "answering", len(chunks), "batches"):
        drawn = (
            _beam(engine, scorer, chunk, spec, rule) if spec.name == "beam" else _sampled(engine, scorer, chunk, spec)
        )
        yield _answers(models, rule, [(prompts[int(r.prompt_id) - 1], r, g) for r, g in drawn])


def _check(config: GenerateConfig) -> None:
    if config.num_generations > 1 and config.search != "sample":
        raise InputError(f"{config.search} gives one response per prompt; choose --search sample", "num_generations")
    if config.search in ("best-of", "beam") and config.value_model is None and config.reward_model is None:
        raise InputError(f"{config.search} needs --value_model or --reward_model", "search")


def _rule(config: GenerateConfig, models: Models) -> StepRule:
    """Returns the step rule: that of the value model if it was trained at step level, otherwise `--step_delimiters`."""
    requested = None if config.step_delimiters is None else step_rule(config.step_delimiters, Path())
    states = None if models.value_scorer is None else models.value_scorer.states
    if states is not None and config.search in ("best-of", "beam"):
        states.check_scores_responses()
    if states is None or states.level != "step":
        return StepRule(("\n",) if requested is None else requested.delimiters, MAX_STEP_TOKENS)
    if requested is not None and requested.delimiters != states.step_delimiters:
        raise InputError(f"the value model was trained on steps that end after {list(states.step_delimiters)}",
                         "step_delimiters")  # fmt: skip
    return states.rule


def _sampled(
    engine: Engine, scorer: Scorer | None, requests: Sequence[Request], spec: SearchSpec
) -> list[tuple[Request, Generation]]:
    """Returns sampled responses: all of them, or the one of highest value per prompt."""
    several = [replace(request, sample=k) for request in requests for k in range(spec.width)]
    drawn = list(zip(several, engine.generate(several, spec.params), strict=True))
    if not spec.needs_scorer or scorer is None:
        return drawn
    groups = [drawn[k : k + spec.width] for k in range(0, len(drawn), spec.width)]
    return [_best_of(group, scorer) for group in groups]


def _best_of(drawn: Sequence[tuple[Request, Generation]], scorer: Scorer) -> tuple[Request, Generation]:
    """Returns the finished response with the highest value, or the first response if none has finished."""
    finished = [(r, g) for r, g in drawn if g.stop_reason is StopReason.STOP]
    best = by_value(scores_of(scorer, finished))
    return drawn[0] if best is None else finished[best]


def scores_of(scorer: Scorer, finished: Sequence[tuple[Request, Generation]]) -> list[float]:
    """Returns the scores of finished responses; each prompt is read once.

    Raises:
        InputError: a score is NaN.
    """
    if not finished:
        return []
    prompts = {request.prompt_id: request.prompt_ids for request, _ in finished}
    row = {prompt_id: k for k, prompt_id in enumerate(prompts)}
    scoring, _, _ = scorer.start(list(prompts.values()))
    values, _ = scoring.score([Reading(row[r.prompt_id], tuple(g.ids.tolist()), True) for r, g in finished])
    for (request, _), value in zip(finished, values, strict=True):
        if np.isnan(value):
            raise InputError("the scorer returned NaN; check the weights of the value or reward model",
                             f"prompt {request.prompt_id}")  # fmt: skip
    return [float(value) for value in values]


def _beam(
    engine: Engine, scorer: Scorer | None, requests: Sequence[Request], spec: SearchSpec, rule: StepRule
) -> list[tuple[Request, Generation]]:
    """Returns the response of a step beam search per prompt; a truncated one if none has finished."""
    assert scorer is not None
    stepped = stepping(engine, "a beam")
    results = beam_search(requests, stepped.stepper(spec.params, rule), scorer, spec, max_length=stepped.max_length)
    drawn = []
    for request, result in zip(requests, results, strict=True):
        if result.error is not None:
            raise InputError(result.error, f"prompt {request.prompt_id}")
        response = result.chosen or result.pool[0]
        ids, log_prob = np.array(response.ids, np.int32), np.array(response.log_prob, np.float32)
        drawn.append((request, Generation(ids, log_prob, response.stop_reason)))
    return drawn


def _answers(models: Models, rule: StepRule, drawn: Sequence[tuple[Prompt, Request, Generation]]) -> list[Answer]:
    """Converts the responses to answers, with V per step or the score of the reward model."""
    tokenizer, ends, scorer = models.tokenizer, models.engine.ends, models.scorer
    answers = [
        Answer(prompt, response_text(g.ids.tolist(), tokenizer, ends), g.stop_reason, len(g.ids))
        for prompt, _, g in drawn
    ]
    if models.value_scorer is None:
        if scorer is None:
            return answers
        scores = iter(scores_of(scorer, [(r, g) for _, r, g in drawn if g.stop_reason is StopReason.STOP]))
        return [replace(a, value=round(next(scores), 4)) if a.stop_reason is StopReason.STOP else a for a in answers]
    pieces, states = TokenTexts(tokenizer), models.value_scorer.states
    rows = [align(_episode(*response), tokenizer, rule, pieces, ends) for response in drawn]
    for k, value in enumerate(models.value_scorer.values_of(rows)):
        starts, is_cut = step_starts(rows[k]), answers[k].stop_reason is StopReason.LENGTH
        bounds = [*starts, len(rows[k])] if is_cut else starts
        steps = [response_text(rows[k].ids[a:b].tolist(), tokenizer, ends) for a, b in pairwise(bounds)]
        read = starts[:1] if states is not None and states.level == "response" else starts
        values = [*(round(float(v), 4) for v in value[read]), *[None] * (len(steps) + 1 - len(read))]
        answers[k] = replace(answers[k], steps=tuple(steps), values=tuple(values), value=values[-1])
    return answers


def _episode(prompt: Prompt, request: Request, generation: Generation) -> Episode:
    """Converts a response to an episode with a placeholder reward."""
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
