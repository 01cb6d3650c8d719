"""Conversations in the objectives: what was observed carries no loss, and V goes on where the next turn begins."""

from itertools import pairwise

import pytest
import torch

from doubles.words import END, GO, LEFT, RIGHT, WALL, word_tokenizer
from stepcredit.episodes.alignment import action_runs, align, at_states, collate, segments
from stepcredit.episodes.conversation import Conversation
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.steps import StepRule
from stepcredit.objectives.bellman import gather_segments, path_residual
from stepcredit.objectives.dqo import lambda_return
from stepcredit.objectives.oreo import oreo_policy_loss, oreo_value_loss

F = torch.float64
LEVELS = ("token", "step")
BETA = 0.5


@pytest.fixture(scope="module")
def batch():
    """Three turns of 2, 1 and 2 words, and one of two turns; every reply but the last is rewarded."""
    rows = []
    for replies, step_rewards in (
        ([[GO, LEFT, END], [RIGHT, END], [GO, GO, END]], (0.25, 0.5, 0.0)),
        ([[LEFT, END], [WALL, END]], (-1.0, 0.0)),
    ):
        talk = Conversation([{"role": "user", "content": "wall"}], word_tokenizer())
        for k, ids in enumerate(replies):
            if k:
                talk.observe("wall door!")
            talk.reply(ids, [-1.0] * len(ids))
        episode = Episode(
            prompt=talk.prompt, completion=talk.completion, reward=1.0, step_rewards=step_rewards, prompt_id="p",
            tokens=talk.tokens(),
        )  # fmt: skip
        rows.append(align(episode, word_tokenizer(), StepRule(())))
    return rows, collate(rows, pad_token_id=0)


def numbers(batch, seed=0):
    """Random V and ρ at every position, observations and padding included."""
    generator = torch.Generator().manual_seed(seed)
    output, log_ratio = (torch.randn(batch.input_ids.shape, generator=generator, dtype=F) for _ in range(2))
    return at_states(output).clone().requires_grad_(), at_states(log_ratio).clone().requires_grad_()


def given_of(batch, level, value, log_ratio):
    segment_id = segments(level, batch.action_mask, batch.step_id)
    return {"value": value, "log_ratio": log_ratio, "reward": batch.reward.to(F), "segment_id": segment_id}


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_that_was_observed_reaches_loss_or_gradient(batch, level):
    _, batch = batch
    value, log_ratio = numbers(batch)

    def losses():
        given = given_of(batch, level, value, log_ratio)
        policy, critic = oreo_policy_loss(**given, beta=BETA), oreo_value_loss(**given, beta=BETA)
        d_log_ratio = torch.autograd.grad(policy.sum(), log_ratio)[0]
        return policy, critic, d_log_ratio, torch.autograd.grad(critic.sum(), value)[0]

    before = losses()
    with torch.no_grad():
        value[~batch.action_mask] = 1e6
        log_ratio[~batch.action_mask] = -1e6
    for one, other in zip(before, losses()):
        assert torch.equal(one, other)
    _, _, d_log_ratio, d_value = before
    assert not d_log_ratio[~batch.action_mask].any()
    assert not d_value[~batch.action_mask].any()
    assert (d_log_ratio[batch.action_mask] != 0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_the_state_before_each_end_of_turn_is_trained(batch, level):
    rows, batch = batch
    value, log_ratio = numbers(batch)
    oreo_value_loss(**given_of(batch, level, value, log_ratio), beta=BETA).sum().backward()
    for row, trajectory in enumerate(rows):
        for start, stop in action_runs(trajectory.action_mask):
            assert trajectory.ids[stop - 1] == END
            read = [start, stop - 1] if level == "step" else range(start, stop)
            trained = [p for p in range(start, stop) if value.grad[row, p - 1] != 0]
            assert trained == list(read)


@pytest.mark.parametrize("level", LEVELS)
def test_the_first_state_of_a_turn_follows_the_end_of_the_turn_before(batch, level):
    """By hand: the target of an end token of a turn is V of the state before the next turn's first token."""
    rows, batch = batch
    value, log_ratio = numbers(batch)
    at = gather_segments(**given_of(batch, level, value, log_ratio))
    delta, target = path_residual(at, BETA), lambda_return(at, BETA, lam=0.0)
    for row, trajectory in enumerate(rows):
        runs = action_runs(trajectory.action_mask)
        number = -1
        for (start, stop), (following, _) in pairwise(runs):
            number += 2 if level == "step" else stop - start
            end, begin = stop - 2, following - 1  # columns
            assert following - stop > 3
            assert batch.reward[row, end] == 0
            assert (at.value[row, number], at.value[row, number + 1]) == (value[row, end], value[row, begin])
            expected = value[row, begin] - BETA * log_ratio[row, end]
            torch.testing.assert_close(target[row, number], expected)
            step = value[row, end] - value[row, begin] + BETA * log_ratio[row, end]
            torch.testing.assert_close(delta[row, number] - delta[row, number + 1], step)
            assert start < end + 1
