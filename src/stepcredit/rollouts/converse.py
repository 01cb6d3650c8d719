"""Multi-turn rollout loop: a batch of conversations between a policy and environments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stepcredit.engines.decoding import Continuation, ContinuationRequest
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
    """State of one conversation.

    Attributes:
        problem, sample: the problem and the index of the sample.
        conversation: messages and ids; None if the environment failed to reset.
        rewards: reward of each reply that the environment answered.
        stop_reason: `STOP` if the environment ended the episode, `LENGTH` if a limit on turns or tokens did.
        error: reason why there is no outcome.
        tokens_generated: number of tokens sampled by the policy, replies that were not chosen included.
        tokens_scored: number of tokens read by the scorer.
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
        """The conversation, after the environment has been reset."""
        assert self.conversation is not None
        return self.conversation

    def episode(self) -> Episode:
        """Converts the conversation to an episode: right if it ended with a return of 1 or more, wrong if less.

        The reward of the last reply is the outcome; if an earlier reward is not zero, `step_rewards` has one per reply.
        A truncated conversation has no outcome and no verdict; one with an error is undecided. A conversation without
        replies has an empty assistant message and no ids.
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
    """Candidate reply: its index among the sampled ones and, if scored, its index among those and its value."""

    draw: int
    piece: Continuation
    reading: int = -1
    value: float = float("nan")

    @property
    def cut(self) -> bool:
        """Whether the reply was truncated by the length limit."""
        return self.piece.stop_reason is StopReason.LENGTH


def converse(
    samples: Sequence[tuple[Problem, int]],
    engine: SteppingEngine,
    environments: Environments,
    spec: SearchSpec,
    max_turns: int,
    scorer: Scorer | None = None,
) -> list[Rollout]:
    """Runs one conversation per (problem, sample index), in one batch; the results do not depend on the batch.

    1. Reset the environments. A conversation whose environment fails, or whose prompt fills the context, has an error.
    2. Prefill the policy with the prompts, and the scorer if it chooses among replies.

    Repeat until every conversation has ended:

    3. Sample the replies of each conversation. Truncated ones are discarded unless all are.
    4. Score them. A conversation with a NaN score has an error.
    5. Choose one reply per conversation: the first one of highest value, or a random one (with noise of its own).
    6. Step the environments. A conversation ends if its environment is done or crashes, if the reply is truncated, at
       `max_turns`, or if the observation fills the context.
    7. Append the chosen replies and the observations of the others to the caches of policy and scorer.

    Args:
        samples: problems whose prompts are chat messages, with sample indices, which key the noise.
        engine: engine of a policy whose tokenizer has a chat template.
        environments: environments; conversation k belongs to sample k.
        spec: greedy, sample, best-of or random; length limit of a reply, and seed.
        max_turns: maximum number of replies per conversation.
        scorer: scores the replies.

    Raises:
        InputError: the search needs a scorer; the chat template is missing or rewrites earlier turns.
    """
    if spec.values_replies and scorer is None:
        raise InputError(f"{spec.name} needs a scorer; pass a value model or a reward model", "search")
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
    """Reset the environments; returns the running rollouts by index. The first observation ends the prompt."""
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
            rollout.error = "the environment was done before the first reply"
        elif engine.max_length is not None and tokens >= engine.max_length:
            rollout.error = f"the prompt has {tokens} tokens, the model reads {engine.max_length}"
        else:
            running[number] = rollout
    return running


def _count(running: Mapping[int, Rollout], read: Sequence[int]) -> None:
    """Add the number of tokens read by the scorer, one per running conversation."""
    for rollout, tokens in zip(running.values(), read, strict=True):
        rollout.tokens_scored += tokens


def _draw(
    running: Mapping[int, Rollout], stepper: TurnStepper, spec: SearchSpec, max_length: int | None
) -> list[list[_Reply]]:
    """Returns the candidate replies of each conversation, at least one.

    For best-of, identical replies are merged and scored once. For random, they are not, so that the chosen reply is
    distributed as the policy.
    """
    draws = []
    for row, rollout in enumerate(running.values()):
        conversation, limit = rollout.begun, spec.params.max_new_tokens
        if max_length is not None:
            limit = min(limit, max_length - len(conversation.ids))
        for k in range(spec.replies):
            sample = (rollout.sample * 10_000 + conversation.turns) * 10_000 + k
            key = stream_key(spec.params.seed, rollout.problem.prompt_id, sample)
            draws.append(ContinuationRequest(row=row, key=key, written=0, left=limit))
    pieces = stepper.draw(draws)
    replies: list[list[_Reply]] = [[] for _ in running]
    for number, (draw, piece) in enumerate(zip(draws, pieces, strict=True)):
        replies[draw.row].append(_Reply(number, piece))
    for row, rollout in enumerate(running.values()):
        rollout.tokens_generated += sum(reply.piece.drawn for reply in replies[row])
        if spec.values_replies:
            distinct: dict[tuple[int, ...], _Reply] = {}
            for reply in replies[row]:
                distinct.setdefault(reply.piece.ids, reply)
            replies[row] = list(distinct.values())
        replies[row] = [reply for reply in replies[row] if not reply.cut] or replies[row][:1]
    return replies


def _score(running: Mapping[int, Rollout], replies: Sequence[Sequence[_Reply]], scoring: Scoring) -> None:
    """Score the replies that were not truncated."""
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
    """Returns the chosen reply of each conversation without an error, by index."""
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
    """Step the environments; returns the observation ids of the conversations that continue, by index."""
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
