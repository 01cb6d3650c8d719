"""Conversion of log rows to episodes, by their columns.

Three kinds of rows, tried in this order:

- stepwise: `prompt`, `completions` (the steps) and `labels` (one per step);
- plain: `prompt` and `completion` (or `response`), text or chat messages; text after chat is an assistant message;
- chat: `messages` (or `conversations`); the prompt consists of the messages before the first assistant message, or of
  the first `prompt_messages` messages.

The outcome is `reward` (a number, "undecided", right or wrong), `label` (true or false, right or wrong) or `verdict`.
`prompt_id`, `sample`, `finish_reason` (or `stop_reason`), `truncated`, `steps`, `step_rewards` and, with chat messages,
`tools` and `system` (the first message) are read; all other columns become metadata. A response cut by a filter or an
error is undecided.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stepcredit.episodes.episode import Episode, Message, StopReason
from stepcredit.episodes.records import turns_as_text
from stepcredit.errors import InputError
from stepcredit.logs.columns import (
    ImportRules,
    RowView,
    count,
    flag,
    number,
    numbers,
    of_word,
    shown,
    texts,
)
from stepcredit.logs.formats import Row
from stepcredit.logs.messages import tools, turns
from stepcredit.logs.sample_numbers import SampleNumbers
from stepcredit.logs.stop_reasons import ending, is_known, only_called
from stepcredit.verdict import Verdict


class EpisodeImporter:
    """Converter from rows to episodes; numbers the samples of each prompt in order, without duplicates.

    Args:
        rules: rules for reading rows.
        samples: samples that are already stored.
    """

    def __init__(self, rules: ImportRules, samples: SampleNumbers | None = None) -> None:
        self._rules = rules
        self._samples = samples or SampleNumbers()

    def episode(self, row: Row) -> Episode:
        """Converts a row to an episode.

        Raises:
            InputError: the row is bad, lacks a column, or repeats a sample of its prompt; with file and line.
        """
        if row.data is None:
            raise row.error or InputError("a row without data", row.where)
        try:
            episode = episode_from_row(
                row.data,
                self._rules,
                text_cells=row.text_cells,
                next_sample=self._samples.following,
            )
        except InputError as error:
            raise InputError(str(error), row.where) from error
        earlier = self._samples.add(episode.prompt_id, episode.sample, row.where)
        if earlier is not None:
            raise InputError(
                f"sample: {episode.sample} of prompt {episode.prompt_id[:40]!r} stands at {earlier} already; number "
                "the responses to a prompt apart, or leave the column out: then they are numbered as they come",
                row.where,
            )
        return episode


def episode_from_row(
    data: Mapping[str, Any],
    rules: ImportRules | None = None,
    *,
    text_cells: bool = False,
    next_sample: Callable[[str], int] = lambda prompt_id: 0,
) -> Episode:
    """Converts one row to an episode; see the module docstring for its columns.

    Args:
        data: column → value; null means absent.
        rules: column names and reward range.
        text_cells: whether values are CSV cells, in which numbers, booleans and lists are text.
        next_sample: prompt id → sample number, for rows without one.

    Raises:
        InputError: a column is missing or invalid; with its name.
    """
    rules = rules or ImportRules()
    columns = RowView(data, rules, text_cells)
    body = _body(columns, rules)
    stop_reason, is_undecided = _stop_reason(columns)
    is_undecided |= columns.peek("reward") == Verdict.UNDECIDED
    verdict = Verdict.UNDECIDED if is_undecided else _verdict(columns)
    prompt_id = _prompt_id(columns.take("prompt_id"), body)
    sample = count(columns.take("sample"), "sample")
    return Episode(
        prompt=body.prompt,
        completion=body.completion,
        reward=_outcome(columns, rules, verdict, stop_reason, body.default_reward),
        prompt_id=prompt_id,
        sample=next_sample(prompt_id) if sample is None else sample,
        step_rewards=body.step_rewards,
        steps=body.steps,
        stop_reason=stop_reason,
        verdict=verdict,
        tools=body.tools,
        metadata=columns.rest(),
    )


class _Body(NamedTuple):
    prompt: str | Sequence[Message]
    completion: str | Sequence[Message]
    steps: tuple[str, ...] | None = None
    step_rewards: tuple[float, ...] | None = None
    default_reward: float | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None


def _body(columns: RowView, rules: ImportRules) -> _Body:
    """Reads prompt and completion by the kind of row."""
    if columns.has("labels") and columns.has("completions") and columns.has("prompt"):
        return _stepwise(columns, rules)
    answer = "completion" if columns.has("completion") or not columns.has("response") else "response"
    is_answered = columns.has(answer)
    if columns.has("messages") and not (columns.has("prompt") and is_answered):
        if is_answered:
            raise InputError(f"stands beside {answer}; if it is the prompt: --columns prompt=messages", "messages")
        return _chat(columns, rules, *_split_messages(columns))
    if not columns.has("prompt") or not is_answered:
        raise InputError(_what_is_missing(columns, answer))
    return _plain(columns, answer, rules)


def _what_is_missing(columns: RowView, answer: str) -> str:
    if columns.has("chosen") and columns.has("rejected"):
        return "chosen and rejected are a pair; write them as two rows, completion with label true and with label false"
    missing = [name for name in ("prompt", answer) if not columns.has(name)]
    if not any(columns.has(name) for name in ("reward", "label", "verdict")):
        missing.append(columns.outcome_name())
    return (
        "expected columns prompt and completion (or response), or messages, or prompt, completions and labels, with "
        f"values; the row has {columns.names()} (other names: {columns.renaming(*missing)})"
    )


def _plain(columns: RowView, answer: str, rules: ImportRules) -> _Body:
    prompt, completion = turns(columns.take("prompt"), "prompt"), turns(columns.take(answer), answer)
    steps = texts(columns.take("steps"), "steps") if columns.has("steps") else None
    if isinstance(prompt, str):
        if not isinstance(completion, str):
            raise InputError(f"prompt is text but {answer} is chat messages; make both text or both chat")
        if not rules.chat or not prompt:
            return _Body(prompt, completion, steps, _step_rewards(columns, rules))
        if steps:
            raise InputError("are of plain text; import such rows without --chat", "steps")
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    return _chat(columns, rules, prompt, completion)._replace(steps=steps)


def _chat(columns: RowView, rules: ImportRules, prompt: list[Message], completion: list[Message]) -> _Body:
    """Builds a chat body with the system message and the tools."""
    system = columns.take("system")
    if system and not isinstance(system, str):
        raise InputError(f"must be text, not {shown(system)}", "system")
    if system and system.strip():
        if prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": system}, *prompt]
        elif prompt[0]["content"] != system:
            raise InputError("says otherwise than the system message", "system")
    return _Body(prompt, completion, step_rewards=_step_rewards(columns, rules), tools=tools(columns.take("tools")))


def _split_messages(columns: RowView) -> tuple[list[Message], list[Message]]:
    messages = turns(columns.take("messages"), "messages")
    if isinstance(messages, str):
        raise InputError("must be a list of messages with role and content", "messages")
    first = next((k for k, m in enumerate(messages) if m["role"] == "assistant"), None)
    if first is None:
        raise InputError("no assistant message: nothing the policy wrote", "messages")
    stated = count(columns.take("prompt_messages"), "prompt_messages")
    at = first if stated is None else stated
    if not 0 < at < len(messages):
        raise InputError(f"{at} of {len(messages)} messages cannot be the prompt", "prompt_messages")
    return messages[:at], messages[at:]


def _stepwise(columns: RowView, rules: ImportRules) -> _Body:
    prompt = columns.take("prompt")
    if not isinstance(prompt, str):
        raise InputError("rows with completions and labels need a text prompt", "prompt")
    written = texts(columns.take("completions"), "completions")
    labels = numbers(columns.take("labels"), "labels", rules)
    if not written or len(written) != len(labels):
        raise InputError(f"{len(labels)} labels for {len(written)} steps; give one a step", "labels")
    steps = (*(t if t.endswith("\n") else t + "\n" for t in written[:-1]), written[-1])
    if rules.chat:
        raise InputError("a list of steps is plain text; import such rows without --chat", "completions")
    return _Body(prompt, "".join(steps), steps, labels, default_reward=0.0)


def _step_rewards(columns: RowView, rules: ImportRules) -> tuple[float, ...] | None:
    value = columns.take("step_rewards")
    return None if value is None else numbers(value, "step_rewards", rules)


def _verdict(columns: RowView) -> Verdict | None:
    value = columns.take("verdict")
    if value is None:
        return None
    if value not in list(Verdict):
        raise InputError(f"must be one of {', '.join(Verdict)}, not {shown(value)}", "verdict")
    return Verdict(value)


def _outcome(
    columns: RowView, rules: ImportRules, verdict: Verdict | None, stop_reason: StopReason, default: float | None
) -> float | None:
    """The reward from `reward`, else from `label`, else from the verdict; None for undecided responses, and for
    truncated ones without any of them."""
    if verdict is Verdict.UNDECIDED:
        columns.take("reward")
        columns.take("label")
        return None
    reward = columns.take("reward")
    if isinstance(reward, list):
        raise InputError("a list; if it is one a step or a turn: --columns step_rewards=reward", "reward")
    if reward is not None:
        word = of_word(reward)
        return number(reward if word is None else float(word), "reward", rules)
    if columns.has("label"):
        return float(columns.label())
    if verdict is not None:
        return float(verdict is Verdict.RIGHT)
    if default is None and stop_reason is StopReason.LENGTH:
        return None
    if default is None:
        raise InputError(
            "missing: expected a column reward (a number) or label (true or false), or a verdict (right, wrong, "
            f"undecided); the row has {columns.names()} (another name: {columns.renaming(columns.outcome_name())}"
            f"{'; an answer: grade it first, stepcredit grade' if columns.has('answer') else ''})",
            "reward",
        )
    return default


def _stop_reason(columns: RowView) -> tuple[StopReason, bool]:
    """Returns (stop reason, whether the response was cut by something other than the policy or a limit)."""
    name = "finish_reason" if columns.has("finish_reason") else "stop_reason"
    given, found = columns.peek(name), ending(columns.peek(name), name)
    if name == "finish_reason" and is_known(columns.peek("stop_reason")):
        if ending(columns.peek("stop_reason"), "stop_reason") not in (found, StopReason.UNKNOWN):
            raise InputError("says otherwise than finish_reason", "stop_reason")
        columns.take("stop_reason")
    reason = StopReason.UNKNOWN if isinstance(found, Verdict) else found
    if columns.has("truncated"):
        said = StopReason.LENGTH if flag(columns.take("truncated"), "truncated") else StopReason.STOP
        if reason not in (said, StopReason.UNKNOWN) and not only_called(given):
            raise InputError(f"says otherwise than {name}", "truncated")
        reason = said
    is_undecided = isinstance(found, Verdict) and reason is not StopReason.LENGTH
    if not is_undecided:  # else the word goes into the metadata
        columns.take(name)
    return reason, is_undecided


def _prompt_id(value: Any, body: _Body) -> str:
    """The prompt id of the row as text; else a hash of the prompt and its tools."""
    if value is None or value == "":
        prompt = turns_as_text(body.prompt) + (json.dumps(body.tools, sort_keys=True) if body.tools else "")
        return hashlib.sha256(prompt.encode()).hexdigest()[:16]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int):
        return str(value)
    raise InputError(f"must be text or a whole number, not {shown(value)}", "prompt_id")
