"""Conversations of a policy with environments, in one batch: the loop of multi-turn rollouts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stepcredit.engines.decoding import Draw, Piece
from stepcredit.engines.engine import SteppingEngine
from stepcredit.engines.noise import stream_key, uniform
from stepcredit.engines.stepping import TurnStepper
from stepcredit.episodes.conversation import Conversation
from stepcredit.episodes.episode import Episode, Message, StopReason
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.searching.scorers import Reading, Scorer, Scoring
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.environment import Crash, Environments
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict


@dataclass
class Rollout:
    """One conversation.

    Attributes:
        problem, sample: what it is about, and which of the problem's samples it is.
        conversation: its messages and ids; None where the environment could not begin.
        rewards: one per reply that the environment has answered.
        stop_reason: `STOP` where the environment ended it, `LENGTH` where a limit on turns or tokens did.
        error: why it has no outcome.
        tokens_generated: drawn by the policy, those of replies that were not chosen included.
        tokens_scored: read by the scorer.
        values: V of each reply that was chosen by value.
    """

    problem: Problem
    sample: int = 0
    conversation: Conversation | None = None
    rewards: list[float] = field(default_factory=list)
    stop_reason: StopReason = StopReason.UNKNOWN
    error: str | None = None
    tokens_generated: int = 0
    tokens_scored: int = 0
    values: list[float] = field(default_factory=list)

    @property
    def begun(self) -> Conversation:
        """The conversation, once the environment has begun it."""
        assert self.conversation is not None
        return self.conversation

    def episode(self) -> Episode:
        """As an episode: right if its rewards add up to 1 or more, wrong if it ended with less.

        The reward of the last reply is the outcome; if an earlier one had any, `step_rewards` has one per reply. A
        truncated conversation has no outcome and no verdict, one with an error is undecided. One without a reply has
        an empty assistant's message, and no ids.
        """
        conversation, metadata = self.conversation, dict(self.problem.metadata)
        turns = 0 if conversation is None else conversation.turns
        prompt: list[Message] = _messages(self.problem) if conversation is None else conversation.prompt
        completion: list[Message] = [{"role": "assistant", "content": ""}]
        if conversation is not None and turns:
            completion = conversation.completion
        ended = self.error is None and self.stop_reason is StopReason.STOP
        verdict = None if self.error is None else Verdict.UNDECIDED
        if ended:
            verdict = Verdict.RIGHT if math.fsum(self.rewards) >= 1 else Verdict.WRONG
        before_last = self.rewards[:-1] if ended else self.rewards
        has_step_rewards = self.error is None and any(before_last)
        metadata |= {"turns": turns, "tokens_generated": self.tokens_generated, "tokens_scored": self.tokens_scored}
        return Episode(
            prompt=prompt or [{"role": "user", "content": ""}],
            completion=completion,
            reward=self.rewards[-1] if ended else None,
            step_rewards=(*before_last, *[0.0] * (turns - len(before_last))) if has_step_rewards else None,
            verdict=verdict,
            prompt_id=self.problem.prompt_id,
            sample=self.sample,
            stop_reason=self.stop_reason,
            tokens=conversation.tokens() if conversation is not None and turns else None,
            metadata={
                "answer": self.problem.answer,
                **metadata,
                **({} if self.error is None else {"error": self.error}),
            },
        )


@dataclass
class _Reply:
    """A reply that may be chosen: its number among the draws; where it was scored, its number there and its value."""

    draw: int
    piece: Piece
    reading: int = -1
    value: float = float("nan")

    @property
    def cut(self) -> bool:
        """Whether a limit on its tokens ended it."""
        return self.piece.stop_reason is StopReason.LENGTH


def converse(
    samples: Sequence[tuple[Problem, int]],
    engine: SteppingEngine,
    environments: Environments,
    spec: SearchSpec,
    max_turns: int,
    scorer: Scorer | None = None,
) -> list[Rollout]:
    """One conversation for each (problem, number of the sample), in their order; none changes what another comes to.

    1. The environments begin. A conversation that cannot, or whose prompt leaves no room for a reply, has an error.
    2. The policy reads the prompts; so does the scorer, where it has replies to choose from.

    Turn after turn, until every conversation has ended:

    3. Draw the replies of each conversation. Those that a limit cut do not count, unless it cut all.
    4. Score them. A conversation with a value that is NaN has an error.
    5. Choose one of each: the most valued, the first of equals; or any, by a noise that no draw uses.
    6. Send them to the environments. A conversation ends where its environment says so or dies, at a cut reply, at
       `max_turns`, and where the observation leaves no room for another reply.
    7. Of those that go on, policy and scorer keep the chosen replies and read the observations: every token once.

    Args:
        samples: problems whose prompts are chat messages, with the numbers that key their noise.
        engine: of the policy, whose tokenizer has a chat template.
        environments: conversation k is that of sample k.
        spec: greedy, sample, best-of or random; length limit of a reply, and seed.
        max_turns: replies per conversation.
        scorer: says which replies are best.

    Raises:
        InputError: no scorer where one is needed; a chat template that is missing or rewrites earlier turns.
    """
    if spec.values_replies and scorer is None:
        raise InputError(f"{spec.name} needs a scorer", "search")
    rollouts = [Rollout(problem, sample) for problem, sample in samples]
    running = _begin(rollouts, engine, environments)  # 1.
    stepper: TurnStepper = engine.stepper(spec.params, StepRule(()))
    scoring: Scoring | None = None
    if running:  # 2.
        prompts = [rollout.begun.ids for rollout in running.values()]
        stepper.start(prompts)
        if scorer is not None and spec.values_replies:
            scoring, _, read = scorer.start(prompts)
            _count(running, read)
    while running:
        replies = _draw(running, stepper, spec, engine.max_length)  # 3.
        if scoring is not None:
            _score(running, replies, scoring)  # 4.
        chosen = _choose(running, replies, spec)  # 5.
        observed = _answer(running, chosen, environments, max_turns, engine.max_length)  # 6.
        running = {number: running[number] for number in observed}  # 7.
        if running:
            stepper.keep([chosen[number].draw for number in running])
            stepper.extend(list(observed.values()))
        if running and scoring is not None:
            scoring.keep([chosen[number].reading for number in running])
            _count(running, scoring.extend(list(observed.values())))
    return rollouts


def _messages(problem: Problem) -> list[Message]:
    assert not isinstance(problem.prompt, str), "the prompts of an interactive task are chat messages"
    return list(problem.prompt)


def _begin(rollouts: Sequence[Rollout], engine: SteppingEngine, environments: Environments) -> dict[int, Rollout]:
    """The rollouts that the environments have begun, by number; the first observation ends their prompts."""
    first = environments.reset({number: rollout.problem for number, rollout in enumerate(rollouts)})
    running = {}
    for number, rollout in enumerate(rollouts):
        answer, messages = first[number], _messages(rollout.problem)
        if isinstance(answer, Crash):
            rollout.error = answer.reason
            continue
        prompt: list[Message] = [*messages, {"role": "user", "content": answer.text}]
        rollout.conversation = Conversation(prompt, engine.tokenizer, engine.ends)
        tokens = len(rollout.conversation.ids)
        if answer.done:
            rollout.error = "the environment was over before the first reply"
        elif engine.max_length is not None and tokens >= engine.max_length:
            rollout.error = f"the prompt has {tokens} tokens, the model reads {engine.max_length}"
        else:
            running[number] = rollout
    return running


def _count(running: Mapping[int, Rollout], read: Sequence[int]) -> None:
    """Tokens that the scorer has read, one number per running conversation."""
    for rollout, tokens in zip(running.values(), read, strict=True):
        rollout.tokens_scored += tokens


def _draw(
    running: Mapping[int, Rollout], stepper: TurnStepper, spec: SearchSpec, max_length: int | None
) -> list[list[_Reply]]:
    """The replies of each conversation that may be chosen; one of them at least.

    Equal ones are scored once; at random each of them counts, so that the choice is the policy's own.
    """
    draws = []
    for row, rollout in enumerate(running.values()):
        conversation, limit = rollout.begun, spec.params.max_new_tokens
        if max_length is not None:
            limit = min(limit, max_length - len(conversation.ids))
        for k in range(spec.replies):
            sample = (rollout.sample * 10_000 + conversation.turns) * 10_000 + k
            key = stream_key(spec.params.seed, rollout.problem.prompt_id, sample)
            draws.append(Draw(row=row, key=key, written=0, left=limit))
    pieces = stepper.draw(draws)
    replies: list[list[_Reply]] = [[] for _ in running]
    for number, (draw, piece) in enumerate(zip(draws, pieces, strict=True)):
        replies[draw.row].append(_Reply(number, piece))
    for row, rollout in enumerate(running.values()):
        rollout.tokens_generated += sum(reply.piece.drawn for reply in replies[row])
        if spec.values_replies:
            different: dict[tuple[int, ...], _Reply] = {}
            for reply in replies[row]:
                different.setdefault(reply.piece.ids, reply)
            replies[row] = list(different.values())
        replies[row] = [reply for reply in replies[row] if not reply.cut] or replies[row][:1]
    return replies


def _score(running: Mapping[int, Rollout], replies: Sequence[Sequence[_Reply]], scoring: Scoring) -> None:
    """Values of the replies, the cut ones left out."""
    scored = [(row, reply) for row, several in enumerate(replies) for reply in several if not reply.cut]
    if not scored:
        return
    rollouts = list(running.values())
    values, read = scoring.score([Reading(row, reply.piece.ids, True) for row, reply in scored])
    for number, ((row, reply), value, tokens) in enumerate(zip(scored, values.tolist(), read, strict=True)):
        reply.reading, reply.value = number, value
        rollouts[row].tokens_scored += tokens
        if math.isnan(value):
            rollouts[row].error = "the scorer returned NaN"


def _choose(running: Mapping[int, Rollout], replies: Sequence[Sequence[_Reply]], spec: SearchSpec) -> dict[int, _Reply]:
    """The reply of each conversation without an error, by its number."""
    chosen = {}
    for (number, rollout), several in zip(running.items(), replies, strict=True):
        if rollout.error is not None:
            continue
        if spec.values_replies:
            chosen[number] = max(several, key=lambda reply: reply.value)
        else:
            key = stream_key(spec.params.seed, rollout.problem.prompt_id, -1 - rollout.sample)
            chosen[number] = several[int(uniform(np.array([key]), rollout.begun.turns)[0] * len(several))]
    return chosen


def _answer(
    running: Mapping[int, Rollout],
    chosen: Mapping[int, _Reply],
    environments: Environments,
    max_turns: int,
    max_length: int | None,
) -> dict[int, list[int]]:
    """Send the replies; the observations of the conversations that go on, as ids, by number."""
    texts = {}
    for number, reply in chosen.items():
        rollout = running[number]
        text = rollout.begun.reply(reply.piece.ids, reply.piece.log_prob)
        if reply.cut:
            rollout.stop_reason = StopReason.LENGTH
            continue
        texts[number] = text
        if not math.isnan(reply.value):
            rollout.values.append(reply.value)
    answers = environments.step(texts) if texts else {}
    observed = {}
    for number in texts:
        rollout, answer = running[number], answers[number]
        if isinstance(answer, Crash):
            rollout.error = answer.reason
        elif not math.isfinite(answer.reward):
            rollout.error = f"the environment's reward is {answer.reward}"
        else:
            rollout.rewards.append(answer.reward)
            conversation = rollout.begun
            if answer.done or conversation.turns == max_turns:
                rollout.stop_reason = StopReason.STOP if answer.done else StopReason.LENGTH
                continue
            more = conversation.observation_ids(answer.text)
            if len(conversation.ids) + len(more) < (max_length or math.inf):
                observed[number] = conversation.observe(answer.text, more)
            else:
                rollout.stop_reason = StopReason.LENGTH
    return observed
