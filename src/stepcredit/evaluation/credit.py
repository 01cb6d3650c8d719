"""Credit of every token and step of responses: V, its change, log-ratios and KL, at the states of training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.alignment import TokenTexts, Trajectory, action_runs, align
from stepcredit.episodes.episode import Episode, Message
from stepcredit.episodes.measures import Outcome, outcome_of
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.turns import turn_ends
from stepcredit.grading.equations import false_steps
from stepcredit.models.checks import check_ids
from stepcredit.models.scoring import log_ratios_and_kl_of, step_starts, values_of
from stepcredit.models.states import value_states
from stepcredit.results.credit_lines import (
    CreditEpisode,
    CreditLine,
    CreditObservation,
    CreditStep,
    CreditToken,
    Values,
)
from stepcredit.verdict import REWARD_THRESHOLD

DECIMALS = 5
_UNDECODED, _LONGEST = "\N{REPLACEMENT CHARACTER}", 4
"""What stands for bytes that are no whole character, and the most bytes that a character has."""


@dataclass(frozen=True, eq=False)
class CreditModels:
    """The models that give credit, with one vocabulary.

    Attributes:
        value_models: one or more value models, by name.
        tokenizer: their tokenizer.
        policy, reference: π and π_ref for log-ratios and KL; None: neither is computed.
    """

    value_models: dict[str, Any]
    tokenizer: Any
    policy: Any = None
    reference: Any = None


@dataclass(frozen=True, eq=False)
class TokenCredit:
    """TokenCredit of the actions of an episode over positions [T]; NaN where there is none.

    Attributes:
        value, after: V before each action, and before the next action; one row per value model, [N, T].
        log_ratio, kl: ρ and the KL at the state of each action; None without a policy.
    """

    value: NDArray[Any]
    after: NDArray[Any]
    log_ratio: NDArray[Any] | None = None
    kl: NDArray[Any] | None = None


def credit_of(trajectories: Sequence[Trajectory], models: CreditModels, batch_size: int = 32) -> list[TokenCredit]:
    """Computes the credit of every action.

    V is given where it was trained: at every action, at the start of every step, or before the first action.

    Args:
        trajectories: episodes, encoded with `encoded`.
        models: the models.
        batch_size: episodes per forward pass.

    Raises:
        InputError: an id is outside the vocabulary of a model.
    """
    for name, model in {**models.value_models, "model": models.policy, "ref_model": models.reference}.items():
        if model is not None:
            check_ids([t.ids for t in trajectories], model, name)
    columns = []
    for model in models.value_models.values():
        states = value_states(model)
        level = "token" if states is None else states.level
        values = values_of(model, trajectories, batch_size)
        columns.append([_where_trained(v, t, level) for v, t in zip(values, trajectories, strict=True)])
    shifts: list[NDArray[Any] | None] = [None] * len(trajectories)
    if models.policy is not None:
        shifts = [*log_ratios_and_kl_of(models.policy, models.reference, trajectories, batch_size)]
    numbers = []
    for k, trajectory in enumerate(trajectories):
        value, shift = np.stack([column[k] for column in columns]), shifts[k]
        both = (None, None) if shift is None else (shift[:, 0], shift[:, 1])
        numbers.append(TokenCredit(value, _after(value, trajectory), *both))
    return numbers


def encoded(episode: Episode, tokenizer: Any, rule: StepRule, texts: TokenTexts) -> Trajectory:
    """Encodes an episode for `credit_of`, also without a reward.

    Raises:
        InputError: it cannot be encoded (see `align`).
    """
    decided = episode if episode.reward is not None else replace(episode, reward=0.0, verdict=None)
    return align(decided, tokenizer, rule, texts)


def _where_trained(value: NDArray[Any], trajectory: Trajectory, level: str) -> NDArray[Any]:
    """Returns V [T] with NaN at the states where V was not trained."""
    if level == "token":
        return value
    starts = step_starts(trajectory)
    trained = np.full_like(value, np.nan)
    here = starts if level == "step" else starts[:1]
    trained[here] = value[here]
    return trained


def _after(value: NDArray[Any], trajectory: Trajectory) -> NDArray[Any]:
    """Returns V before the next action [N, T]; NaN after the last one."""
    actions, after = np.flatnonzero(trajectory.action_mask), np.full_like(value, np.nan)
    after[:, actions[:-1]] = value[:, actions[1:]]
    return after


def credit_lines(
    number: int,
    source: str,
    episode: Episode,
    trajectory: Trajectory,
    credit: TokenCredit,
    tokenizer: Any,
    threshold: float = REWARD_THRESHOLD,
) -> Iterator[CreditLine]:
    """Yields the lines of an episode: itself, and its observations, steps and tokens in the order of the text.

    Args:
        number: the number of the episode in the file.
        source: where it is from.
        episode, trajectory, credit: the episode, encoded, with its credit.
        tokenizer: the tokenizer of the models.
        threshold: the reward from which on a response without a verdict is right.
    """
    runs = action_runs(trajectory.action_mask)
    yield _episode_line(number, source, episode, outcome_of(episode, threshold), credit.value[:, runs[0][0]])
    after, cut = _messages_after_turns(episode, len(runs)), _is_cut(episode, trajectory, tokenizer)
    for turn, (first, last) in enumerate(runs):
        texts = shown_texts(trajectory.ids[first:last].tolist(), tokenizer)
        for step, group in groupby(range(first, last), key=lambda p: int(trajectory.step_id[p])):
            here = list(group)
            text, is_end = "".join(texts[p - first] for p in here), here == [last - 1] and not cut
            yield CreditStep(
                episode=number,
                turn=turn,
                step=step,
                end=is_end,
                text=text,
                value=_listed(credit.after[:, here[-1]]),
                change=_listed(credit.after[:, here[-1]] - credit.value[:, here[0]]),
                log_ratio=_sum(credit.log_ratio, here),
                kl=_sum(credit.kl, here),
                reward=_step_reward(episode, trajectory, here),
                false_equation=not is_end and false_steps([text])[0],
            )
            for p in here:
                yield _token_line(number, step, p, int(trajectory.ids[p]), texts[p - first], credit)
        for message in after[turn]:
            role = "assistant, cut" if message["role"] == "assistant" else message["role"]
            yield CreditObservation(episode=number, role=role, text=message_text(message))


def _episode_line(number: int, source: str, episode: Episode, verdict: Outcome, value: NDArray[Any]) -> CreditEpisode:
    prompt = episode.prompt if isinstance(episode.prompt, str) else [dict(message) for message in episode.prompt]
    return CreditEpisode(
        episode=number,
        source=source,
        prompt_id=episode.prompt_id,
        sample=episode.sample,
        verdict=verdict,
        reward=episode.reward,
        prompt=prompt,
        extracted=_plain(episode.metadata.get("extracted")),
        answer=_plain(episode.metadata.get("answer")),
        metadata={k: v for k, v in episode.metadata.items() if k not in ("extracted", "answer")},
        value=_listed(value),
    )


def _token_line(number: int, step: int, position: int, token: int, text: str, credit: TokenCredit) -> CreditToken:
    return CreditToken(
        episode=number,
        step=step,
        position=position,
        id=token,
        text=text,
        value=_listed(credit.value[:, position]),
        change=_listed(credit.after[:, position] - credit.value[:, position]),
        log_ratio=_sum(credit.log_ratio, [position]),
        kl=_sum(credit.kl, [position]),
    )


def _step_reward(episode: Episode, trajectory: Trajectory, here: Sequence[int]) -> float | None:
    """Returns the reward of a step, without the outcome, which the last action receives."""
    if episode.step_rewards is None:
        return None
    total = float(trajectory.reward[here].sum(dtype=np.float64))
    is_last = here[-1] == np.flatnonzero(trajectory.action_mask)[-1]
    return round(total - (episode.reward or 0.0 if is_last else 0.0), DECIMALS)


def _is_cut(episode: Episode, trajectory: Trajectory, tokenizer: Any) -> bool:
    """Whether the last token is not the end of a turn, because a limit cut the only turn (see `align`)."""
    last = int(trajectory.ids[trajectory.action_mask][-1])
    return episode.truncated and len(action_runs(trajectory.action_mask)) == 1 and last not in turn_ends(tokenizer).stop


def _messages_after_turns(episode: Episode, turns: int) -> list[list[Message]]:
    """Returns the messages that follow each turn: the observations, and after the last one a turn that was cut."""
    after: list[list[Message]] = [[] for _ in range(turns)]
    turn = -1
    for message in [] if isinstance(episode.completion, str) else episode.completion:
        turn += message["role"] == "assistant"
        if message["role"] != "assistant" or turn >= turns:
            after[min(max(turn, 0), turns - 1)].append(message)
    return after


def message_text(message: Message) -> str:
    """Returns the text of a chat message, with its tool calls as JSON."""
    calls = message.get("tool_calls")
    return (message.get("content") or "") + (json.dumps(calls, ensure_ascii=False) if calls else "")


def shown_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Returns the text that each id adds; the last of several ids that share a character has all their text."""
    texts, start = TokenTexts(tokenizer)(ids), 0
    while start < len(ids):
        context, stop, text = ids[max(start - 1, 0) : start], start + 1, texts[start]
        while text.endswith(_UNDECODED) and stop < min(len(ids), start + _LONGEST):
            stop += 1
            text = _decoded([*context, *ids[start:stop]], tokenizer)[len(_decoded(context, tokenizer)) :]
        texts[start:stop] = [""] * (stop - start - 1) + [text]
        start = stop
    return texts


def _decoded(ids: Sequence[int], tokenizer: Any) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text


def _sum(numbers: NDArray[Any] | None, here: Sequence[int]) -> float | None:
    return None if numbers is None else _rounded(numbers[here].sum(dtype=np.float64))


def _listed(numbers: NDArray[Any]) -> Values:
    return [_rounded(x) for x in numbers]


def _rounded(number: float) -> float | None:
    """Rounds a number for the file; None where there is none."""
    return None if np.isnan(number) else round(float(number), DECIMALS)


def _plain(answer: Any) -> str | int | float | None:
    return answer if answer is None or isinstance(answer, str | int | float) else str(answer)
