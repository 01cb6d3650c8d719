"""Conversations with an environment: the policy replies, the environment answers, until one of them ends it.

A turn draws one reply of each conversation, or K and the most valued of them. All conversations run beside each other
in one batch, and none changes what another comes to. Policy and value model read every token once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stepcredit.engines.decoding import Draw, Piece
from stepcredit.engines.noise import stream_key, uniform
from stepcredit.engines.stepping import TurnStepper
from stepcredit.episodes.conversation import Conversation
from stepcredit.episodes.episode import Episode, Message, StopReason
from stepcredit.episodes.turns import Tokenizer, TurnEnds
from stepcredit.errors import InputError
from stepcredit.search.scorers import Reading, Scorer, Scoring
from stepcredit.tasks.environment import Crash, Environments, Observation
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict


@dataclass(frozen=True)
class ActingParams:
    """How long, and how a reply is chosen.

    Attributes:
        max_turns: replies of one conversation.
        max_new_tokens: tokens of one reply.
        replies: drawn a turn, K; one of them is said.
        choose: "value", the most valued one; or "random", any of them.
        seed: of the noise.
        max_length: positions that the models can read; None is no limit.

    Raises:
        InputError: a setting out of range.
    """

    max_turns: int
    max_new_tokens: int
    replies: int = 1
    choose: str = "value"
    seed: int = 0
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_new_tokens", "replies", "max_length"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise InputError(f"{given} must be 1 or more", name)
        if self.choose not in ("value", "random"):
            raise InputError(f"{self.choose!r} is neither value nor random", "choose")

    @property
    def by_value(self) -> bool:
        """Whether there is anything for a scorer to choose from."""
        return self.replies > 1 and self.choose == "value"

    def room(self, conversation: Conversation) -> int:
        """Tokens that the next reply may have; none are left at 0 or less."""
        if self.max_length is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, self.max_length - len(conversation.ids))


@dataclass(frozen=True)
class Play:
    """One conversation to be had: the problem, and which of its samples."""

    problem: Problem
    sample: int = 0


@dataclass
class Played:
    """What a conversation came to.

    Attributes:
        play: what was asked for.
        conversation: its messages and ids; None where the environment could not begin.
        rewards: one a reply that the environment has answered.
        stop_reason: `STOP` where the environment ended it, `LENGTH` where a limit on turns or tokens did.
        error: why it has no outcome.
        tokens_generated: drawn by the policy, those of replies that were not said included.
        tokens_scored: read by the scorer.
        values: V of each reply that was said, where it was chosen by value.
    """

    play: Play
    conversation: Conversation | None = None
    rewards: list[float] = field(default_factory=list)
    stop_reason: StopReason = StopReason.UNKNOWN
    error: str | None = None
    tokens_generated: int = 0
    tokens_scored: int = 0
    values: list[float] = field(default_factory=list)


def act(
    plays: Sequence[Play],
    stepper: TurnStepper,
    tokenizer: Tokenizer,
    scorer: Scorer | None,
    environments: Environments,
    params: ActingParams,
    ends: TurnEnds | None = None,
) -> list[Played]:
    """The conversations, in the order of the plays.

    Whatever goes wrong with one (its environment dies, its value or reward is no number) is its `error` alone.

    Args:
        plays: problems whose prompts are chat messages. Equal plays come to the same.
        stepper: draws the replies; its rule must have no delimiters: a reply is drawn until it ends.
        tokenizer: of the policy, with a chat template.
        scorer: says which replies are best, where K > 1 and `choose` is "value"; else it reads nothing.
        environments: conversation k is that of play k.
        params: how long, and how to choose.
        ends: what ends a reply; by default what the tokenizer says of it.

    Raises:
        InputError: no scorer where one is needed; a chat template that is missing or rewrites earlier turns.
    """
    if params.by_value and scorer is None:
        raise InputError("needs a scorer; or choose random", "choose")
    everyone = [Played(play) for play in plays]
    running = _begun(everyone, tokenizer, environments, params, ends)
    if running:
        stepper.start([talk.conversation.ids for talk in running])
        scoring = None
        if params.by_value and scorer is not None:
            scoring, _, read = scorer.start([talk.conversation.ids for talk in running])
            for talk, tokens in zip(running, read, strict=True):
                talk.played.tokens_scored += tokens
        while running:
            running = _turn(running, stepper, scoring, environments, params)
    return everyone


@dataclass(frozen=True)
class _Talk:
    """A conversation that goes on; its row in stepper and scoring is its place among them."""

    number: int
    played: Played
    conversation: Conversation


@dataclass(frozen=True)
class _Reply:
    """A reply that may be said: its number among the draws, and where it was scored, its number there and its value."""

    draw: int
    piece: Piece
    reading: int = -1
    value: float = float("nan")

    @property
    def cut(self) -> bool:
        """Whether a limit on its tokens ended it."""
        return self.piece.stop_reason is StopReason.LENGTH


def _begun(
    everyone: Sequence[Played],
    tokenizer: Tokenizer,
    environments: Environments,
    params: ActingParams,
    ends: TurnEnds | None,
) -> list[_Talk]:
    """The conversations that the environments have opened, with their first words in the prompt."""
    answers = environments.reset({number: played.play.problem for number, played in enumerate(everyone)})
    running = []
    for number, played in enumerate(everyone):
        answer, given = answers[number], played.play.problem.prompt
        assert not isinstance(given, str), "the prompts of an interactive task are chat messages"
        if isinstance(answer, Crash):
            played.error = answer.reason
            continue
        conversation = Conversation([*given, {"role": "user", "content": answer.text}], tokenizer, ends)
        played.conversation = conversation
        if answer.done:
            played.error = "the environment was over before the first reply"
        elif params.room(conversation) < 1:
            played.error = f"the prompt has {len(conversation.ids)} tokens, the model reads {params.max_length}"
        else:
            running.append(_Talk(number, played, conversation))
    return running


def _turn(
    running: Sequence[_Talk],
    stepper: TurnStepper,
    scoring: Scoring | None,
    environments: Environments,
    params: ActingParams,
) -> list[_Talk]:
    """One reply of each conversation and its answer; those that go on, whose rows are kept."""
    candidates = _drawn(running, stepper, params)
    if scoring is not None:
        candidates = _scored(running, candidates, scoring)
    said = {
        talk.number: _chosen(talk, several, params)
        for talk, several in zip(running, candidates, strict=True)
        if talk.played.error is None
    }
    heard = _answered([talk for talk in running if talk.number in said], said, environments, params)
    going = [talk for talk in running if talk.number in heard]
    if going:
        more = [heard[talk.number] for talk in going]
        stepper.keep([said[talk.number].draw for talk in going])
        stepper.extend(more)
        if scoring is not None:
            scoring.keep([said[talk.number].reading for talk in going])
            for talk, tokens in zip(going, scoring.extend(more), strict=True):
                talk.played.tokens_scored += tokens
    return going


def _drawn(running: Sequence[_Talk], stepper: TurnStepper, params: ActingParams) -> list[list[_Reply]]:
    """The replies of each conversation that no limit cut; where it cut all, the first of them.

    Equal ones are scored once; at random each of them counts, so that the choice is the policy's own.
    """
    pieces = stepper.draw(
        [_draw(row, talk, k, params) for row, talk in enumerate(running) for k in range(params.replies)]
    )
    candidates = []
    for row, talk in enumerate(running):
        first = row * params.replies
        own = pieces[first : first + params.replies]
        talk.played.tokens_generated += sum(piece.drawn for piece in own)
        replies = [_Reply(first + k, piece) for k, piece in enumerate(own)]
        if params.by_value:
            different: dict[tuple[int, ...], _Reply] = {}
            for reply in replies:
                different.setdefault(reply.piece.ids, reply)
            replies = list(different.values())
        candidates.append([reply for reply in replies if not reply.cut] or replies[:1])
    return candidates


def _draw(row: int, talk: _Talk, k: int, params: ActingParams) -> Draw:
    play, room = talk.played.play, params.room(talk.conversation)
    number = (play.sample * 10_000 + talk.conversation.turns) * 10_000 + k
    key = stream_key(params.seed, play.problem.prompt_id, number)
    return Draw(row=row, key=key, written=0, left=room)


def _scored(running: Sequence[_Talk], candidates: Sequence[Sequence[_Reply]], scoring: Scoring) -> list[list[_Reply]]:
    """The replies with their values; cut ones have none. A conversation with a value that is none has an error."""
    readings = [(row, reply) for row, several in enumerate(candidates) for reply in several if not reply.cut]
    found: list[list[_Reply]] = [[reply for reply in several if reply.cut] for several in candidates]
    if not readings:
        return found
    values, read = scoring.score([Reading(row, reply.piece.ids, True) for row, reply in readings])
    for number, ((row, reply), value, tokens) in enumerate(zip(readings, values.tolist(), read, strict=True)):
        found[row].append(replace(reply, reading=number, value=value))
        running[row].played.tokens_scored += tokens
        if math.isnan(value):
            running[row].played.error = "the scorer returned NaN"
    return found


def _chosen(talk: _Talk, several: Sequence[_Reply], params: ActingParams) -> _Reply:
    """The most valued reply, the first of equals; or any, by a noise that no draw uses."""
    if params.by_value:
        return max(several, key=lambda reply: reply.value)
    play = talk.played.play
    key = stream_key(params.seed, play.problem.prompt_id, -1 - play.sample)
    return several[int(uniform(np.array([key]), talk.conversation.turns)[0] * len(several))]


def _answered(
    talks: Sequence[_Talk], said: Mapping[int, _Reply], environments: Environments, params: ActingParams
) -> dict[int, list[int]]:
    """Say the replies; the observations of the conversations that go on, as ids."""
    texts = {}
    for talk in talks:
        reply = said[talk.number]
        text = talk.conversation.reply(reply.piece.ids, reply.piece.log_prob)
        if reply.cut:
            talk.played.stop_reason = StopReason.LENGTH
            continue
        texts[talk.number] = text
        talk.played.values += [reply.value] if params.by_value else []
    answers = environments.step(texts) if texts else {}
    heard = {talk.number: _heard(talk, answers[talk.number], params) for talk in talks if talk.number in texts}
    return {number: ids for number, ids in heard.items() if ids is not None}


def _heard(talk: _Talk, answer: Observation | Crash, params: ActingParams) -> list[int] | None:
    """The ids of an observation; None where the conversation ends with it."""
    played, conversation = talk.played, talk.conversation
    if isinstance(answer, Crash):
        played.error = answer.reason
        return None
    if not math.isfinite(answer.reward):
        played.error = f"the environment's reward is {answer.reward}"
        return None
    played.rewards.append(answer.reward)
    if answer.done or conversation.turns == params.max_turns:
        played.stop_reason = StopReason.STOP if answer.done else StopReason.LENGTH
        return None
    more = conversation.observation_ids(answer.text)
    if params.max_length is not None and len(conversation.ids) + len(more) >= params.max_length:
        played.stop_reason = StopReason.LENGTH
        return None
    return conversation.observe(answer.text, more)


def played_episode(played: Played) -> Episode:
    """A conversation as an episode: right if its rewards add up to 1 or more, wrong if it ended with less.

    The reward of the last reply is the outcome; if an earlier one had any, `step_rewards` has one a reply. A truncated
    conversation has no outcome and no verdict, one with an error is undecided. One without a reply has an empty
    assistant's message, and no ids.
    """
    problem, conversation = played.play.problem, played.conversation
    turns = 0 if conversation is None else conversation.turns
    prompt, completion = _messages(played)
    ended = played.error is None and played.stop_reason is StopReason.STOP
    verdict = None if played.error is None else Verdict.UNDECIDED
    if ended:
        verdict = Verdict.RIGHT if math.fsum(played.rewards) >= 1 else Verdict.WRONG
    return Episode(
        prompt=prompt,
        completion=completion,
        reward=played.rewards[-1] if ended else None,
        step_rewards=_step_rewards(played, turns, ended),
        verdict=verdict,
        prompt_id=problem.prompt_id,
        sample=played.play.sample,
        stop_reason=played.stop_reason,
        tokens=conversation.tokens() if conversation is not None and turns else None,
        metadata={
            "answer": problem.answer,
            **problem.metadata,
            "turns": turns,
            "tokens_generated": played.tokens_generated,
            "tokens_scored": played.tokens_scored,
            **({} if played.error is None else {"error": played.error}),
        },
    )


def _messages(played: Played) -> tuple[list[Message], list[Message]]:
    """(prompt, completion), neither of them empty."""
    conversation, given = played.conversation, played.play.problem.prompt
    assert not isinstance(given, str)
    prompt = list(given) if conversation is None else conversation.prompt
    if conversation is None or not conversation.turns:
        return prompt or [{"role": "user", "content": ""}], [{"role": "assistant", "content": ""}]
    return prompt, conversation.completion


def _step_rewards(played: Played, turns: int, ended: bool) -> tuple[float, ...] | None:
    """One number a reply, without the outcome; None where all would be 0, and where there is an error."""
    given = played.rewards[:-1] if ended else played.rewards
    if played.error is not None or not any(given):
        return None
    return (*given, *[0.0] * (turns - len(given)))
