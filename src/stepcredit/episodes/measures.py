"""What a summary counts of every response, as arrays over the rows of a shard.

Rows of plain text, without ids and steps of their own, are measured from their columns; of other rows the episodes are
made first. Both give the same numbers, and both refuse a row that is no valid episode.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stepcredit.episodes.episode import Episode, Message, StopReason
from stepcredit.episodes.records import turns_as_text
from stepcredit.episodes.steps import StepRule
from stepcredit.verdict import REWARD_THRESHOLD, Verdict

Outcome = Literal["right", "wrong", "undecided", "truncated"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_VERDICTS, _STOP_REASONS = (pa.array([str(word) for word in words]) for words in (Verdict, StopReason))
_NO_TEXT = ("steps", "step_rewards", "ids", "action_mask", "behavior_log_prob", "tools")
"""Columns that are null in rows of plain text."""


@dataclass(frozen=True)
class Measures:
    """Numbers of N responses; arrays have shape [N].

    Attributes:
        prompt_id, prompt, response: hashes of the prompt's id, of the prompt, and of prompt and completion.
        outcome: index in `OUTCOMES`.
        reward: NaN if there is none.
        has_step_rewards: whether a step has a reward other than 0.
        prompt_characters, completion_characters, steps: lengths; of completions only the policy's text.
        multi_turn: whether the policy has more than one turn.
        drawn: index of a response → right, wrong and other responses drawn for its prompt, of balanced collections.
    """

    prompt_id: NDArray[np.int64]
    prompt: NDArray[np.int64]
    response: NDArray[np.int64]
    outcome: NDArray[np.int8]
    reward: NDArray[np.float64]
    has_step_rewards: NDArray[np.bool_]
    prompt_characters: list[int]
    completion_characters: list[int]
    steps: list[int]
    multi_turn: int
    drawn: dict[int, tuple[int, int, int]]


def measures_of_rows(batch: Any, rule: StepRule, threshold: float = REWARD_THRESHOLD) -> Measures | None:
    """Measures the rows of a record batch by their columns; None unless all of them are valid and of plain text."""
    metadata = _plain_metadata(batch)
    if metadata is None:
        return None
    prompts, completions = (batch.column(name).to_pylist() for name in ("prompt", "completion"))
    reward = batch.column("reward").to_numpy(zero_copy_only=False).astype(np.float64)  # null is NaN
    verdict = batch.column("verdict").fill_null("").to_numpy(zero_copy_only=False)
    right = np.where(verdict == "", reward >= threshold, verdict == str(Verdict.RIGHT))
    outcome = np.where(right, 0, 1)
    outcome[np.isnan(reward)] = 2
    outcome[batch.column("stop_reason").to_numpy(zero_copy_only=False) == str(StopReason.LENGTH)] = 3
    return Measures(
        prompt_id=_hashes(batch.column("prompt_id").to_pylist()),
        prompt=_hashes(prompts),
        response=_hashes(zip(prompts, completions, strict=True)),
        outcome=outcome.astype(np.int8),
        reward=reward,
        has_step_rewards=np.zeros(len(prompts), dtype=np.bool_),
        prompt_characters=[len(text) for text in prompts],
        completion_characters=[len(text) for text in completions],
        steps=[rule.count(text) for text in completions],
        multi_turn=0,
        drawn=_drawn(metadata),
    )


def _plain_metadata(batch: Any) -> list[dict[str, Any]] | None:
    """The metadata of rows of plain text that are valid episodes; None if there may be other rows."""
    empty = {name: batch.column(name).null_count for name in batch.schema.names}
    required = ("prompt", "completion", "format", "stop_reason", "prompt_id", "sample", "metadata")
    if any(empty[name] for name in required) or any(empty[name] < batch.num_rows for name in _NO_TEXT):
        return None
    reward, verdict = batch.column("reward"), batch.column("verdict")
    valid = [
        pc.equal(batch.column("format"), "text"),
        pc.greater(pc.binary_length(batch.column("prompt")), 0),
        pc.greater_equal(batch.column("sample"), 0),
        pc.is_in(batch.column("stop_reason"), _STOP_REASONS),
        pc.or_(pc.is_null(reward), pc.is_finite(reward)),
        pc.or_(pc.is_null(verdict), pc.is_in(verdict, _VERDICTS)),
        pc.or_(pc.is_null(reward), pc.not_equal(pc.fill_null(verdict, ""), str(Verdict.UNDECIDED))),
    ]
    if not all(pc.all(pc.fill_null(one, True)).as_py() for one in valid):
        return None
    try:
        batch.validate(full=True)  # texts are UTF-8
        metadata = [json.loads(text) for text in batch.column("metadata").to_pylist()]
    except (ValueError, RecursionError, pa.ArrowException):
        return None
    return metadata if all(isinstance(one, dict) for one in metadata) else None


def measures_of_episodes(episodes: Sequence[Episode], rule: StepRule, threshold: float = REWARD_THRESHOLD) -> Measures:
    """Measures episodes one by one."""
    prompts = [turns_as_text(episode.prompt) for episode in episodes]
    turns = [policy_turns(episode.completion) for episode in episodes]
    return Measures(
        prompt_id=_hashes(episode.prompt_id for episode in episodes),
        prompt=_hashes(prompts),
        response=_hashes((p, turns_as_text(e.completion)) for p, e in zip(prompts, episodes, strict=True)),
        outcome=np.array([OUTCOMES.index(outcome_of(episode, threshold)) for episode in episodes], dtype=np.int8),
        reward=np.array([np.nan if e.reward is None else e.reward for e in episodes], dtype=np.float64),
        has_step_rewards=np.array([any(e.step_rewards or ()) for e in episodes], dtype=np.bool_),
        prompt_characters=[_characters(episode.prompt) for episode in episodes],
        completion_characters=[sum(map(len, texts)) for texts in turns],
        steps=[
            len(e.steps) if e.steps else sum(map(rule.count, texts)) for e, texts in zip(episodes, turns, strict=True)
        ],
        multi_turn=sum(len(texts) > 1 for texts in turns),
        drawn=_drawn(episode.metadata for episode in episodes),
    )


def outcome_of(episode: Episode, threshold: float = REWARD_THRESHOLD) -> Outcome:
    """Returns `truncated`, `undecided`, `right` or `wrong`; the last two by the verdict, or else by whether the reward
    is at least `threshold`."""
    if episode.truncated:
        return "truncated"
    if episode.reward is None:
        return "undecided"
    if episode.verdict is not None:
        return episode.verdict.value
    return "right" if episode.reward >= threshold else "wrong"


def policy_turns(completion: str | Iterable[Message]) -> list[str]:
    """Returns the text of each turn of the policy."""
    if isinstance(completion, str):
        return [completion]
    return [message["content"] or "" for message in completion if message["role"] == "assistant"]


def _characters(prompt: str | Iterable[Message]) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"] or "") for message in prompt)


def _hashes(values: Iterable[str | tuple[str, str]]) -> NDArray[np.int64]:
    """Python's hashes of 64 bits, which differ from process to process."""
    return np.fromiter(map(hash, values), dtype=np.int64)


def _drawn(metadata: Iterable[dict[str, Any]]) -> dict[int, tuple[int, int, int]]:
    found: dict[int, tuple[int, int, int]] = {}
    for k, one in enumerate(metadata):
        if isinstance(drawn := one.get("drawn"), dict):
            right, wrong, other = (drawn.get(name) for name in ("right", "wrong", "other"))
            found[k] = (_whole(right), _whole(wrong), _whole(other))
    return found


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
