import numpy as np
import pytest

from stepcredit.episodes.episode import Episode, StopReason, Tokens
from stepcredit.errors import InputError
from stepcredit.verdict import Verdict

TURN = [{"role": "assistant", "content": "a"}]


def make(**given):
    return Episode(**{"prompt": "q", "completion": "a", "reward": 1.0, "prompt_id": "p", **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": ""}, "prompt: the prompt is empty"),
        ({"completion": TURN}, "both be text or both be chat"),
        (
            {"prompt": TURN, "completion": [{"role": "user", "content": "x"}]},
            "completion: no assistant message",
        ),
        ({"prompt": [{"role": "bard", "content": "x"}]}, "prompt: a message needs a role"),
        ({"reward": float("nan")}, "reward: nan is not a finite number"),
        ({"reward": float("inf")}, "reward: inf"),
        ({"verdict": Verdict.UNDECIDED}, "reward: an undecided episode has no reward"),
        ({"steps": ("b",)}, "steps: the steps, joined, must be the completion"),
        ({"step_rewards": (float("nan"),)}, "step_rewards: nan"),
        ({"steps": ("a",), "step_rewards": (1.0, 2.0)}, "step_rewards: 2 rewards for 1 steps"),
    ],
)
def test_invariants(given, message):
    with pytest.raises(InputError, match=message):
        make(**given)


def test_truncated_is_a_state():
    assert make(stop_reason=StopReason.LENGTH).truncated
    assert not make(stop_reason=StopReason.STOP).truncated
    assert not make().truncated


def ids(*numbers):
    return np.array(numbers, dtype=np.int32)


@pytest.mark.parametrize(
    ("mask", "log_prob", "message"),
    [
        ([False, False], None, "no action tokens"),
        ([True, True], None, "the first token is an action"),
        ([False], None, "must both have shape"),
        ([False, True], [0.0, np.nan], "behavior_log_prob must be finite"),
        ([False, True], [0.0], "behavior_log_prob must be finite"),
    ],
)
def test_tokens_invariants(mask, log_prob, message):
    log_prob = None if log_prob is None else np.array(log_prob, dtype=np.float32)
    with pytest.raises(InputError, match=message):
        Tokens(ids(1, 2), np.array(mask), log_prob)
