"""The alignment of tokens, actions, states and values.

A sequence of ids has positions 0 … T-1. The token at position p is an action if the policy sampled it; its state s is
the prefix ids[:p]. A causal model's output at position p-1 depends on exactly that prefix, so both log π(a|s) and V(s)
of the action at p are read from the output at **p-1**:

    ids        [ p0  p1  a0  a1  E ]         prompt p0 p1, actions a0 a1 and the end token E
    output at    0   1   2   3   4
    reads           s0  s1  sE  --           V(s0) at 1, V(s1) at 2, V(sE) at 3; 4 is never read

Tensors "over actions" have T-1 columns: column j belongs to the token at position j+1 and is read from the output at
position j. The rest of the library uses these functions and never shifts tensors itself. V of a finished response is
V(sE), at the position before its end token.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from stepcredit.episodes.encoding import tokenise
from stepcredit.episodes.episode import RETOKENISED, Episode, Tokens
from stepcredit.episodes.steps import StepRule, step_of_each_token, steps_of_tokens
from stepcredit.episodes.turns import Tokenizer, TurnEnds, turn_ends
from stepcredit.errors import InputError

Level = Literal["token", "step", "response"]
_CACHED = 1 << 18
"""Texts of tokens in context that are kept."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An encoded episode; arrays have shape [T] over positions.

    Attributes:
        ids: token ids.
        action_mask: true where the token is an action.
        step_id: the step of each action, numbered 0, 1, 2, … along the sequence, -1 elsewhere. The token that ends a
            response or turn (an end of turn, or the last token of a stop string) is a step of its own, so that the
            value of the state before it is trained at step level too.
        reward: r_t, on the last action of a step or of the episode; zero elsewhere.
        behavior_log_prob: log μ(a_t|s_t); None if it was not recorded.
        retokenised: whether the ids were encoded from text rather than sampled.
        cut: whether a length limit cut the episode, so that V of its last state replaces the missing reward.
        prompt_id: the prompt of the episode.
        outcome: the outcome reward, without step rewards; decides between right and wrong. In double precision, unlike
            `reward`, which may fall short of a threshold such as 0.7.
        group_number: a number of the prompt, from the returns of all its responses; None where no method asks for one.
    """

    ids: NDArray[np.int32]
    action_mask: NDArray[np.bool_]
    step_id: NDArray[np.int64]
    reward: NDArray[np.float32]
    behavior_log_prob: NDArray[np.float32] | None
    retokenised: bool
    cut: bool = False
    prompt_id: str = ""
    outcome: float = 0.0
    group_number: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def prompt_length(self) -> int:
        """The number of tokens before the first action."""
        return int(self.action_mask.argmax())


class TokenTexts:
    """Decodes single tokens in context, keeping leading spaces; caches what it has decoded last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        @lru_cache(_CACHED)
        def text(ids: tuple[int, ...]) -> str:
            return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

        self._text = text

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """Returns the text that each id adds to the one before it (sentencepiece drops the space of a lone token)."""
        row = [int(i) for i in ids]
        return [
            self._text((row[k - 1], row[k]))[len(self._text((row[k - 1],))) :] if k else self._text((row[0],))
            for k in range(len(row))
        ]


def align(
    episode: Episode,
    tokenizer: Tokenizer,
    rule: StepRule,
    token_texts: TokenTexts | None = None,
    ends: TurnEnds | None = None,
    *,
    as_written: bool = False,
) -> Trajectory:
    """Encodes an episode as a trajectory: ids, action mask, steps and rewards.

    If a limit cut a conversation in the middle of a turn, that turn is not an action.

    Args:
        episode: an episode with a reward.
        tokenizer: the policy's tokenizer; encodes the text of an episode without ids.
        rule: the rule for step boundaries, unless the episode has its own steps.
        token_texts: a decoder with a cache, shared between calls.
        ends: the end-of-turn tokens; by default those of the tokenizer.
        as_written: as in `encoding.tokenise`.

    Raises:
        InputError: there is no reward, the tokenizer does not round-trip the text, or step rewards do not match.
    """
    if episode.reward is None:
        raise InputError("the episode is undecided: it has no reward", "reward")
    ends = ends or turn_ends(tokenizer)
    tokens = tokenise(episode, tokenizer, ends, as_written=as_written)
    is_cut = episode.truncated and int(tokens.ids[tokens.action_mask][-1]) not in ends.stop
    if is_cut:
        tokens, is_cut = _answered_turns(tokens)
    step_id, raw_steps = _steps(episode, tokens, is_cut, rule, token_texts or TokenTexts(tokenizer))
    reward = np.zeros(len(tokens), dtype=np.float32)
    if episode.step_rewards is not None:
        _place_step_rewards(reward, episode.step_rewards, raw_steps)
    reward[np.flatnonzero(tokens.action_mask)[-1]] += episode.reward
    return Trajectory(
        ids=tokens.ids,
        action_mask=tokens.action_mask,
        step_id=step_id,
        reward=reward,
        behavior_log_prob=tokens.behavior_log_prob,
        retokenised=episode.tokens is None or bool(episode.metadata.get(RETOKENISED)),
        prompt_id=episode.prompt_id,
        outcome=episode.reward if episode.outcome is None else episode.outcome,
    )


def splice(prompt: Trajectory, response: Trajectory) -> Trajectory:
    """Joins the prompt of one trajectory, up to its first action, and the response of another.

    The result has no reward, no outcome and no behaviour log-probabilities.
    """
    before, start = prompt.prompt_length, response.prompt_length
    outside = np.full(before, -1, dtype=np.int64)
    return Trajectory(
        ids=np.concatenate([prompt.ids[:before], response.ids[start:]]),
        action_mask=np.concatenate([prompt.action_mask[:before], response.action_mask[start:]]),
        step_id=np.concatenate([outside, response.step_id[start:]]),
        reward=np.zeros(before + len(response) - start, dtype=np.float32),
        behavior_log_prob=None,
        retokenised=response.retokenised,
        prompt_id=prompt.prompt_id,
    )


def _answered_turns(tokens: Tokens) -> tuple[Tokens, bool]:
    """Unmasks a cut last turn if there are earlier ones; returns the tokens and whether the turn is still an action."""
    runs = action_runs(tokens.action_mask)
    if len(runs) == 1:
        return tokens, True
    action_mask, log_prob = tokens.action_mask.copy(), tokens.behavior_log_prob
    action_mask[runs[-1][0] :] = False
    kept = replace(
        tokens,
        action_mask=action_mask,
        behavior_log_prob=None if log_prob is None else np.where(action_mask, log_prob, 0).astype(np.float32),
    )
    return kept, False


def _steps(
    episode: Episode, tokens: Tokens, is_cut: bool, rule: StepRule, token_texts: TokenTexts
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns (step ids without gaps, step ids of the text with -1 on end tokens); both are -1 outside actions.

    A turn that consists of its end token counts as one step of the text, on that token. A last turn that was cut has
    no end token.
    """
    dense = np.full(len(tokens), -1, dtype=np.int64)
    raw = np.full(len(tokens), -1, dtype=np.int64)
    next_dense = next_raw = 0
    runs = action_runs(tokens.action_mask)
    for start, stop in runs:
        has_end = not (is_cut and stop == runs[-1][1])
        body = slice(start, stop - has_end)
        texts = token_texts(tokens.ids[body].tolist())
        ends = list(itertools.accumulate(map(len, episode.steps))) if episode.steps else rule.ends("".join(texts))
        if texts:
            in_text = step_of_each_token(texts, ends)
            steps = np.unique(in_text, return_inverse=True)[1] if episode.steps else steps_of_tokens(texts, rule)
            raw[body] = next_raw + in_text
            dense[body] = next_dense + steps
            next_dense = int(dense[body].max()) + 1
            next_raw += len(ends)
        else:
            raw[stop - 1] = next_raw
            next_raw += 1
        if has_end:
            dense[stop - 1] = next_dense
            next_dense += 1
    return dense, raw


def action_runs(action_mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns the maximal runs of actions as (start, stop) positions, one per turn."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], action_mask, [False]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _place_step_rewards(
    reward: NDArray[np.float32], step_rewards: Sequence[float], raw_steps: NDArray[np.int64]
) -> None:
    """Adds each step's reward to the step's last token; a step without tokens uses the token before it."""
    positions = np.flatnonzero(raw_steps >= 0)
    if int(raw_steps.max()) >= len(step_rewards):
        raise InputError(
            f"{len(step_rewards)} step rewards for {int(raw_steps.max()) + 1} steps; "
            "give one per step, or check the step delimiters",
            "step_rewards",
        )
    for step, number in enumerate(step_rewards):
        upto = positions[raw_steps[positions] <= step]
        if len(upto):
            reward[upto[-1]] += number
        elif number:
            raise InputError(f"step {step} has a reward but no token", "step_rewards")


def segments(level: Level, action_mask: Bool[Tensor, "B T"], step_id: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Returns the segment ids of a level, numbered along each row; -1 outside actions.

    Levels: token, one segment per action; step, the steps of `step_id`; response, one segment.
    """
    if level == "token":
        return torch.where(action_mask, action_mask.cumsum(-1) - 1, -1)
    if level == "step":
        return step_id
    if level == "response":
        return torch.where(action_mask, 0, -1)
    raise InputError(f"unknown level {level!r}; choose from token, step, response", "level")


@dataclass(frozen=True)
class Batch:
    """Trajectories padded on the right. `input_ids` and `attention_mask` are over positions [B, T]; the other tensors
    are over actions [B, T-1] (see the module docstring)."""

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    action: Int[Tensor, "B A"]
    action_mask: Bool[Tensor, "B A"]
    step_id: Int[Tensor, "B A"]
    reward: Float[Tensor, "B A"]
    cut: Bool[Tensor, " B"]
    outcome: Float[Tensor, " B"]
    behavior_log_prob: Float[Tensor, "B A"]
    """log μ(a_t|s_t); NaN where it was not recorded."""
    prompt_id: tuple[str, ...]
    """The prompt of each row."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, the form of a batch in `transformers.Trainer`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def collate(trajectories: Sequence[Trajectory], pad_token_id: int) -> Batch:
    """Collates trajectories into one batch, padded on the right to the longest."""
    shape = (len(trajectories), max(len(t) for t in trajectories))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    action_mask = np.zeros(shape, dtype=np.bool_)
    step_id = np.full(shape, -1, dtype=np.int64)
    reward = np.zeros(shape, dtype=np.float32)
    behavior = np.zeros(shape, dtype=np.float32)
    for row, trajectory in enumerate(trajectories):
        here = np.s_[row, : len(trajectory)]
        input_ids[here] = trajectory.ids
        attention_mask[here] = 1
        action_mask[here] = trajectory.action_mask
        step_id[here] = trajectory.step_id
        reward[here] = trajectory.reward
        behavior[here] = np.nan if trajectory.behavior_log_prob is None else trajectory.behavior_log_prob
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        action=torch.from_numpy(input_ids[:, 1:].copy()),
        action_mask=torch.from_numpy(action_mask[:, 1:].copy()),
        step_id=torch.from_numpy(step_id[:, 1:].copy()),
        reward=torch.from_numpy(reward[:, 1:].copy()),
        cut=torch.tensor([t.cut for t in trajectories]),
        outcome=torch.tensor([t.outcome for t in trajectories]),
        prompt_id=tuple(t.prompt_id for t in trajectories),
        behavior_log_prob=torch.from_numpy(behavior[:, 1:].copy()),
    )


def at_states(output: Shaped[Tensor, "B T *rest"]) -> Shaped[Tensor, "B A *rest"]:
    """Returns a model's output over positions [B, T, …] at the states of the actions, [B, T-1, …]."""
    return output[:, :-1]


def add_bootstrap_value(
    reward: Float[Tensor, "B A"], value: Float[Tensor, "B T"], action_mask: Bool[Tensor, "B A"], cut: Bool[Tensor, " B"]
) -> Float[Tensor, "B A"]:
    """Adds V of the state after the last action to the rewards of cut episodes.

    If the last action is in column j, that state is read at position j+1; V enters as a constant. Episodes that are
    not cut keep their rewards.
    """
    column = torch.arange(action_mask.shape[1], device=action_mask.device)
    last = torch.where(action_mask, column, -1).max(-1).values
    after = value.detach().gather(-1, (last + 1)[:, None])[:, 0]
    return reward.index_put(
        (torch.arange(len(last), device=last.device), last), torch.where(cut, after, 0.0).to(reward), accumulate=True
    )
