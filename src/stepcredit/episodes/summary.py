"""Summary statistics of a set of episodes, computed in one pass.

Memory: 20 bytes a response, 28 with tokens (a hash for duplicates, and its lengths), and 58 a prompt (its hash and
counts), each three times that at the end; some 250 more a prompt of a balanced collection.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepcredit.episodes.encoding import tokenise
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.measures import (
    OUTCOMES,
    Measures,
    measures_of_episodes,
    measures_of_rows,
    policy_turns,
)
from stepcredit.episodes.steps import StepRule, preview
from stepcredit.episodes.store import StoredRows
from stepcredit.episodes.turns import Tokenizer
from stepcredit.errors import InputError
from stepcredit.metrics.dataset import HISTOGRAM_BINS, Summary, distribution
from stepcredit.progress import unseen
from stepcredit.verdict import REWARD_THRESHOLD


def summarise(
    parts: Iterable[StoredRows],
    rule: StepRule,
    tokenizer: Tokenizer | None = None,
    advance: Callable[[int], object] = unseen,
    threshold: float = REWARD_THRESHOLD,
) -> Summary:
    """Summarises stored episodes in one pass; `EpisodeStore.rows` gives them.

    Args:
        parts: rows of shards, one or more in all.
        rule: the rule for step boundaries, for episodes without steps of their own.
        tokenizer: counts the tokens of episodes without ids.
        advance: progress callback, with the number of further rows.
        threshold: the reward from which on a response without a verdict is right.

    Raises:
        InputError: there are no episodes, or one is not valid.
    """
    tally = _Tally(rule, tokenizer, threshold)
    for rows in parts:
        tally.add(rows)
        advance(rows.batch.num_rows)
    return tally.summary()


class _Tally:
    def __init__(self, rule: StepRule, tokenizer: Tokenizer | None, threshold: float) -> None:
        self._rule, self._tokenizer, self._threshold = rule, tokenizer, threshold
        self._prompts = _Prompts()
        self._responses = array("q")  # hashes
        self._lengths: dict[str, array[int]] = defaultdict(lambda: array("I"))  # one number per response
        self._outcomes = np.zeros(len(OUTCOMES), dtype=np.int64)
        self._own_ids = self._multi_turn = self._untokenised = self._graded = 0

    def add(self, rows: StoredRows) -> None:
        """Adds rows to the counts."""
        measures = measures_of_rows(rows.batch, self._rule, self._threshold) if self._tokenizer is None else None
        if measures is None:
            episodes = rows.episodes()
            measures = measures_of_episodes(episodes, self._rule, self._threshold)
            for episode in episodes:
                self._add_tokens(episode)
        self._prompts.add(measures)
        self._responses.frombytes(measures.response.tobytes())
        self._outcomes += np.bincount(measures.outcome, minlength=len(OUTCOMES))
        self._multi_turn += measures.multi_turn
        self._graded += int((~np.isin(measures.reward, (0.0, 1.0)) & ~np.isnan(measures.reward)).sum())
        for name in ("prompt_characters", "completion_characters", "steps"):
            self._lengths[name].extend(getattr(measures, name))

    def _add_tokens(self, episode: Episode) -> None:
        self._own_ids += episode.tokens is not None
        if episode.tokens is None and self._tokenizer is None:
            return
        try:
            tokens = tokenise(episode, self._tokenizer)
        except InputError:
            self._untokenised += 1
            return
        self._lengths["completion_tokens"].append(int(tokens.action_mask.sum()))
        self._lengths["total_tokens"].append(len(tokens))

    def summary(self) -> Summary:
        """Returns the summary of the rows so far."""
        episodes = len(self._responses)
        if not episodes:
            raise InputError("there are no episodes to summarise")
        lengths = {name: np.frombuffer(numbers, dtype=np.uint32) for name, numbers in self._lengths.items()}
        prompts = self._prompts.counts()
        mean, stderr = _reward_mean(prompts)
        without_signal = _without_signal(prompts, self._threshold)
        return Summary(
            episodes=episodes,
            prompts=len(prompts["prompt_id"]),
            responses_per_prompt=distribution(prompts["responses"]),
            reward_mean=mean,
            reward_stderr=stderr,
            **{name: int(number) / episodes for name, number in zip(OUTCOMES, self._outcomes, strict=True)},
            success=_success(prompts),
            prompts_without_outcome=int((prompts["right"] + prompts["wrong"] == 0).sum()),
            prompts_all_right=without_signal["all right"],
            prompts_all_wrong=without_signal["all wrong"],
            prompts_single=without_signal["single"],
            prompts_undecided=without_signal["undecided"],
            duplicates=episodes - len(np.unique(np.frombuffer(self._responses, dtype=np.int64))),
            prompt_id_clashes=int(prompts["clashes"].sum()),
            prompt_characters=distribution(lengths["prompt_characters"]),
            completion_characters=distribution(lengths["completion_characters"]),
            completion_tokens=distribution(lengths["completion_tokens"]) if "completion_tokens" in lengths else None,
            total_tokens=distribution(lengths["total_tokens"]) if "total_tokens" in lengths else None,
            untokenised=self._untokenised,
            steps=distribution(lengths["steps"]),
            own_ids=self._own_ids / episodes,
            multi_turn=self._multi_turn / episodes,
            drawn=self._prompts.drawn_in_all(),
            graded=self._graded,
            reward_threshold=self._threshold,
        )


def step_previews(episodes: Iterable[Episode], rule: StepRule) -> list[tuple[str, str]]:
    """Returns (title, numbered steps) of each response, with its own steps or those of the rule."""
    previews = []
    for episode in episodes:
        if episode.steps:
            text = "\n".join(f"[{k}] {step!r}" for k, step in enumerate(episode.steps))
        else:
            text = "\n".join(preview(turn, rule) for turn in policy_turns(episode.completion))
        previews.append((f"prompt {episode.prompt_id}, sample {episode.sample}, reward {episode.reward}", text))
    return previews


Counts = dict[str, NDArray[Any]]
"""Arrays over prompts: `prompt_id` and `prompt` (hashes of the id and of the first prompt with it), `clashes` (whether
it has another), the numbers of `responses`, of `right` and `wrong` ones and of `rewards`, their `total`, `lowest` and
`highest`, and `has_step_rewards`."""

_SUMS = ("responses", "right", "wrong", "rewards", "total")
_PENDING = 1 << 16


class _Prompts:
    """Counts per prompt. A response counts as a prompt with one response, and equal prompts are merged now and then."""

    def __init__(self) -> None:
        self._merged: Counts | None = None
        self._pending: list[Counts] = []
        self._waiting = 0
        self._drawn: dict[int, tuple[int, int, int]] = {}

    def add(self, measures: Measures) -> None:
        """Adds responses."""
        reward, is_rated = measures.reward, ~np.isnan(measures.reward)
        self._pending.append({
            "prompt_id": measures.prompt_id,
            "prompt": measures.prompt,
            "clashes": np.zeros(len(reward), dtype=np.bool_),
            "responses": np.ones(len(reward), dtype=np.int32),
            "right": (measures.outcome == OUTCOMES.index("right")).astype(np.int32),
            "wrong": (measures.outcome == OUTCOMES.index("wrong")).astype(np.int32),
            "rewards": is_rated.astype(np.int32),
            "total": np.where(is_rated, reward, 0.0),
            "lowest": np.where(is_rated, reward, np.inf),
            "highest": np.where(is_rated, reward, -np.inf),
            "has_step_rewards": measures.has_step_rewards,
        })  # fmt: skip
        self._drawn.update((int(measures.prompt_id[k]), drawn) for k, drawn in measures.drawn.items())
        self._waiting += len(reward)
        if self._waiting >= max(_PENDING, 0 if self._merged is None else len(self._merged["prompt_id"]) // 4):
            self.counts()

    def counts(self) -> Counts:
        """Returns the counts of all prompts."""
        parts = [*([] if self._merged is None else [self._merged]), *self._pending]
        if self._pending:
            self._merged, self._pending, self._waiting = None, [], 0
            self._merged = _merged(parts)
        assert self._merged is not None
        return self._merged

    def drawn_in_all(self) -> dict[str, int] | None:
        """Returns the numbers of right, wrong and other responses drawn; None where no prompt says so."""
        if not self._drawn:
            return None
        return dict(zip(("right", "wrong", "other"), map(sum, zip(*self._drawn.values(), strict=True)), strict=True))


def _merged(parts: list[Counts]) -> Counts:
    """Merges the counts of equal prompts, in order; `parts` is emptied. Sums are those of adding one by one."""
    both = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    parts.clear()
    prompt_id, first, prompt = np.unique(both.pop("prompt_id"), return_index=True, return_inverse=True)
    found: Counts = {"prompt_id": prompt_id, "prompt": both["prompt"][first]}
    others = both.pop("clashes") | (both.pop("prompt") != found["prompt"][prompt])
    found["clashes"] = np.bincount(prompt, others) > 0
    found["has_step_rewards"] = np.bincount(prompt, both.pop("has_step_rewards")) > 0
    for name in _SUMS:
        found[name] = np.bincount(prompt, both[name]).astype(both.pop(name).dtype)
    for name, limit, pick in (("lowest", np.inf, np.minimum), ("highest", -np.inf, np.maximum)):
        found[name] = np.full(len(prompt_id), limit)
        pick.at(found[name], prompt, both.pop(name))
    return found


def _without_signal(prompts: Counts, threshold: float) -> dict[str, int]:
    """The numbers of prompts that give no learning signal, by the reason."""
    rewards, lowest = prompts["rewards"], prompts["lowest"]
    equal = (rewards > 0) & ~prompts["has_step_rewards"] & ~(lowest < prompts["highest"])
    several = equal & (rewards > 1)
    return {
        "all right": int((several & (lowest >= threshold)).sum()),
        "all wrong": int((several & ~(lowest >= threshold)).sum()),
        "single": int((equal & (rewards == 1)).sum()),
        "undecided": int((rewards == 0).sum()),
    }


def _success(prompts: Counts) -> dict[str, int]:
    """The numbers of prompts by the share of right responses among right and wrong ones."""
    right, outcomes = (n.astype(np.int64) for n in (prompts["right"], prompts["right"] + prompts["wrong"]))
    within = 1 + 5 * right // np.maximum(outcomes, 1)
    bins = np.where(right == 0, 0, np.where(right == outcomes, len(HISTOGRAM_BINS) - 1, within))
    numbers = np.bincount(bins[outcomes > 0], minlength=len(HISTOGRAM_BINS))
    return {name: int(number) for name, number in zip(HISTOGRAM_BINS, numbers, strict=True)}


def _reward_mean(prompts: Counts) -> tuple[float | None, float | None]:
    """Returns the mean m of all N rewards and its standard error clustered by prompt, from the sums S_g of the n_g
    rewards of each of G prompts: stderr² = G/(G-1) Σ_g (S_g - n_g m)² / N²."""
    is_rated = prompts["rewards"] > 0
    rewards, total = prompts["rewards"][is_rated], prompts["total"][is_rated]
    number, groups = int(rewards.sum()), len(rewards)
    if not number:
        return None, None
    mean = math.fsum(total) / number
    if groups == 1:
        return mean, None
    squares = math.fsum((total - rewards * mean) ** 2)
    return mean, math.sqrt(groups / (groups - 1) * squares) / number
