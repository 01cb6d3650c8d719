"""The numbers that describe a set of episodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

HISTOGRAM_BINS = ("0", "0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1", "1")
"""Success of a prompt: exactly 0, five open ranges (a bound belongs to the range above it), exactly 1."""


@dataclass(frozen=True)
class Distribution:
    """Of a number per response or per prompt; quantiles are interpolated."""

    mean: float
    median: float
    p95: float
    max: float


def distribution(numbers: Iterable[int]) -> Distribution:
    """Mean, median, 95% quantile and maximum of at least one number."""
    values = np.asarray(numbers)
    median, p95 = np.quantile(values, [0.5, 0.95])
    return Distribution(float(values.mean()), float(median), float(p95), float(values.max()))


@dataclass(frozen=True)
class Summary:
    """What is in a set of episodes.

    Attributes:
        episodes, prompts: how many; prompts are told apart by `prompt_id`.
        responses_per_prompt: over prompts.
        reward_mean, reward_stderr: over all rewards; the error takes the responses to one prompt as
            dependent. None without rewards, and the error None for a single prompt.
        right, wrong, undecided, truncated: shares that add up to 1. A truncated response is only truncated.
        success: number of prompts by the share of right ones among their right and wrong responses.
        prompts_without_outcome: prompts that have neither a right nor a wrong response.
        prompts_all_right, prompts_all_wrong, prompts_single, prompts_undecided: prompts that teach nothing,
            because all their rewards are equal, or there is one, or none. Step rewards do teach.
        duplicates: responses that repeat an earlier one, prompt and all.
        prompt_id_clashes: prompt ids that stand for more than one prompt.
        prompt_characters, completion_characters: lengths; of chat the contents, in completions only what
            the policy wrote.
        completion_tokens, total_tokens: actions and all tokens, of the responses whose ids are stored or
            could be made; None where there are none.
        untokenised: responses without ids that the tokenizer does not give back; 0 without a tokenizer.
        steps: per response.
        own_ids: share of responses with the sampled ids; the others are text only.
        multi_turn: share of responses with more than one turn of the policy.
    """

    episodes: int
    prompts: int
    responses_per_prompt: Distribution
    reward_mean: float | None
    reward_stderr: float | None
    right: float
    wrong: float
    undecided: float
    truncated: float
    success: dict[str, int]
    prompts_without_outcome: int
    prompts_all_right: int
    prompts_all_wrong: int
    prompts_single: int
    prompts_undecided: int
    duplicates: int
    prompt_id_clashes: int
    prompt_characters: Distribution
    completion_characters: Distribution
    completion_tokens: Distribution | None
    total_tokens: Distribution | None
    untokenised: int
    steps: Distribution
    own_ids: float
    multi_turn: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)
