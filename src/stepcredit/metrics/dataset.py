"""Summary statistics of a set of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepcredit.verdict import REWARD_THRESHOLD

HISTOGRAM_BINS = ("0", "0 to 0.2", "0.2 to 0.4", "0.4 to 0.6", "0.6 to 0.8", "0.8 to 1", "1")
"""Bins of a prompt's success rate: exactly 0, five ranges (a bound belongs to the range above it), exactly 1."""


@dataclass(frozen=True)
class Distribution:
    """Statistics of a number per response or per prompt; quantiles are interpolated."""

    mean: float
    median: float
    p95: float
    max: float


def distribution(numbers: Sequence[int] | NDArray[np.integer[Any]]) -> Distribution:
    """Returns mean, median, 95% quantile and maximum of one or more numbers, shape [N]."""
    values = np.asarray(numbers)
    median, p95 = np.quantile(values, [0.5, 0.95])
    return Distribution(float(values.mean()), float(median), float(p95), float(values.max()))


@dataclass(frozen=True)
class Summary:
    """A summary of a set of episodes.

    Attributes:
        episodes, prompts: the numbers of episodes and of distinct `prompt_id`s.
        responses_per_prompt: the number of responses, over prompts.
        reward_mean, reward_stderr: over all rewards, with the error clustered by prompt; None without rewards, and
            the error None for a single prompt.
        right, wrong, undecided, truncated: shares that sum to 1; a truncated response counts only as truncated.
        success: the number of prompts by the share of right responses among their right and wrong ones.
        prompts_without_outcome: prompts with neither a right nor a wrong response.
        prompts_all_right, prompts_all_wrong, prompts_single, prompts_undecided: prompts without a learning signal,
            because all rewards are equal, or there is only one, or none. Prompts with step rewards do not count.
        duplicates: responses equal to an earlier one to the same prompt.
        prompt_id_clashes: prompt ids with more than one prompt.
        prompt_characters, completion_characters: lengths of the texts, or of the contents of chat messages; of
            completions only the policy's text.
        completion_tokens, total_tokens: action tokens and all tokens of the responses with ids, sampled or encoded
            from text; None if there are none.
        untokenised: responses without ids that the tokenizer does not round-trip; 0 without a tokenizer.
        steps: steps per response.
        own_ids: the share of responses with sampled ids; the others are text only.
        multi_turn: the share of responses with more than one turn of the policy.
        drawn: right, wrong and other responses that balanced collection drew, of which the episodes are the kept ones;
            None where all were kept.
        graded: responses whose reward is neither 0 nor 1.
        reward_threshold: the reward from which on a response without a verdict counts as right.
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
    drawn: dict[str, int] | None = None
    graded: int = 0
    reward_threshold: float = REWARD_THRESHOLD

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-serialisable values."""
        return asdict(self)
