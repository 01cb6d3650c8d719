"""Episodes: a prompt, a response and its reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from stepcredit.errors import InputError, quoted
from stepcredit.verdict import Verdict

Message = Mapping[str, Any]
"""A chat message with `role` (system, user, assistant, tool) and `content`, a text. Assistant messages may also have
`tool_calls` (then `content` may be None) and `reasoning_content`; tool messages name the call that they answer."""

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


RETOKENISED = "retokenised"
"""Key in `Episode.metadata`: true if the ids of `tokens` were encoded from the text of a server that gives no ids."""


class StopReason(StrEnum):
    """The reason why a response ended."""

    STOP = "stop"
    """The policy ended it with an end of sequence, an end of turn, or a stop string."""
    LENGTH = "length"
    """A limit on tokens or turns cut it. Such an episode is *truncated*: neither right nor wrong."""
    UNKNOWN = "unknown"
    """Not recorded in an imported log; treated as `STOP`."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of an episode with their action mask; arrays have shape [T].

    Attributes:
        ids: token ids of the prompt, the actions and any observations between them.
        action_mask: true where the policy sampled the token.
        behavior_log_prob: log μ(a_t|s_t) under the behaviour policy, 0 outside actions; None if not recorded.

    Raises:
        InputError: shapes differ, there is no action, or the first token is an action (it has no state).
    """

    ids: NDArray[np.int32]
    action_mask: NDArray[np.bool_]
    behavior_log_prob: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.ids.ndim != 1 or self.ids.shape != self.action_mask.shape:
            raise InputError(f"ids {self.ids.shape} and action_mask {self.action_mask.shape} must both have shape [T]")
        if self.ids.size and self.ids.min() < 0:
            raise InputError(f"{self.ids.min()} is no token id", "ids")
        if not self.action_mask.any():
            raise InputError("there are no action tokens")
        if self.action_mask[0]:
            raise InputError("the first token is an action; an action needs at least one token before it")
        log_prob = self.behavior_log_prob
        if log_prob is not None and (log_prob.shape != self.ids.shape or not np.isfinite(log_prob).all()):
            raise InputError("behavior_log_prob must be finite, one number per id")

    def __len__(self) -> int:
        return len(self.ids)


def recorded(log_prob: NDArray[Any]) -> NDArray[np.float32] | None:
    """Returns behaviour log-probabilities as episodes have them: None if one of them, NaN, is unknown."""
    return None if np.isnan(log_prob).any() else log_prob.astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """A prompt with one response and its reward.

    Attributes:
        prompt: text, or the chat messages before the first action.
        completion: text, or the chat messages from the first action on; `assistant` messages are the policy's, all
            others are observations.
        reward: the outcome reward, received at the last action; None if grading could not decide.
        step_rewards: one reward per step, received at the step's last action, in addition to `reward`.
        steps: the texts of the steps, which concatenate to `completion`; None: step delimiters decide.
        stop_reason: why the response ended; `LENGTH` means truncated.
        verdict: the grader's verdict, if there was one.
        prompt_id: identifies the prompt; equal for responses to the same prompt.
        sample: the index of this response among those to the same prompt.
        tokens: the sampled ids; None for imported logs.
        tools: the tool descriptions of a chat prompt, as passed to `apply_chat_template`; None if there are none.
        metadata: further JSON-serialisable data.
        outcome: the outcome, if `reward` differs from it because rewards were moved to steps or include them; None:
            `reward` is the outcome. Decides between right and wrong. Not stored.

    Raises:
        InputError: a field breaks an invariant; the message names it.
    """

    prompt: str | Sequence[Message]
    completion: str | Sequence[Message]
    reward: float | None
    prompt_id: str
    sample: int = 0
    step_rewards: tuple[float, ...] | None = None
    steps: tuple[str, ...] | None = None
    stop_reason: StopReason = StopReason.UNKNOWN
    verdict: Verdict | None = None
    tokens: Tokens | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    outcome: float | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _check_turns("prompt", self.prompt)
        _check_turns("completion", self.completion)
        if isinstance(self.prompt, str) != isinstance(self.completion, str):
            raise InputError("prompt and completion must both be text or both be chat messages")
        if self.tools is not None and not (self.tools and self.is_chat):
            raise InputError("must be a list of tool descriptions, with chat messages, or None", "tools")
        if not self.prompt:
            raise InputError("the prompt is empty", "prompt")
        if not isinstance(self.completion, str) and "assistant" not in {m["role"] for m in self.completion}:
            raise InputError("no assistant message", "completion")
        if self.reward is not None and not math.isfinite(self.reward):
            raise InputError(f"{quoted(self.reward)} is not a finite number", "reward")
        if (self.verdict is Verdict.UNDECIDED) and self.reward is not None:
            raise InputError("an undecided episode has no reward", "reward")
        if self.steps is not None and "".join(self.steps) != self.completion:
            raise InputError("the steps, joined, must be the completion", "steps")
        for number in self.step_rewards or ():
            if not math.isfinite(number):
                raise InputError(f"{number} is not a finite number", "step_rewards")
        if self.steps is not None and self.step_rewards is not None and len(self.steps) != len(self.step_rewards):
            raise InputError(f"{len(self.step_rewards)} rewards for {len(self.steps)} steps", "step_rewards")

    @property
    def truncated(self) -> bool:
        """Whether a length limit cut the response."""
        return self.stop_reason is StopReason.LENGTH

    @property
    def is_chat(self) -> bool:
        """Whether prompt and completion are chat messages."""
        return not isinstance(self.prompt, str)


_NUMBER, _WHOLE_NUMBER = (int, float, SupportsFloat), (int, SupportsIndex)
"""Types of numbers, the common ones first: to ask for a protocol takes microseconds."""


def _check_types(episode: Episode) -> None:
    """Refuse what Python accepts and no episode can be."""
    for name in ("prompt", "completion"):
        turns = getattr(episode, name)
        if not isinstance(turns, str) and not (
            isinstance(turns, Sequence) and all(isinstance(message, Mapping) for message in turns)
        ):
            raise InputError(f"must be text or chat messages, not {quoted(turns)}", name)
    numbers = {"reward": [episode.reward], "outcome": [episode.outcome], "step_rewards": episode.step_rewards or ()}
    for name, values in numbers.items():
        for number in values:
            if number is not None and not isinstance(number, _NUMBER):
                raise InputError(f"must be a number, not {quoted(number)}", name)
    if not isinstance(episode.sample, _WHOLE_NUMBER) or int(episode.sample) < 0:
        raise InputError(f"must be a whole number of 0 or more, not {quoted(episode.sample)}", "sample")


def _check_turns(name: str, value: str | Sequence[Message]) -> None:
    if isinstance(value, str):
        return
    for message in value:
        content, calls = message.get("content"), message.get("tool_calls")
        if message.get("role") not in ROLES or not (isinstance(content, str) or (content is None and calls)):
            raise InputError(f"a message needs a role of {sorted(ROLES)}, and a text content or tool_calls", name)
        if not isinstance(message.get("reasoning_content", ""), str):
            raise InputError("reasoning_content must be text", name)
