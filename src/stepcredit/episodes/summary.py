"""Summary statistics of a set of episodes, computed in one pass."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stepcredit.episodes.encoding import tokenise
from stepcredit.episodes.episode import Episode, Message
from stepcredit.episodes.records import turns_as_text
from stepcredit.episodes.steps import StepRule, preview
from stepcredit.episodes.turns import Tokenizer
from stepcredit.errors import InputError
from stepcredit.metrics.dataset import HISTOGRAM_BINS, Summary, distribution
from stepcredit.verdict import Verdict

RIGHT_ABOVE = 0.5
"""A response without a verdict counts as right if its reward is above this."""


@dataclass
class _Prompt:
    """Counts of the responses to one prompt."""

    digest: bytes
    responses: int = 0
    right: int = 0
    wrong: int = 0
    rewards: int = 0
    total: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    has_step_rewards: bool = False
    drawn: dict[str, int] | None = None
    clashes: bool = False


def summarise(episodes: Iterable[Episode], rule: StepRule, tokenizer: Tokenizer | None = None) -> Summary:
    """Summarises episodes in one pass, with a few bytes of memory per episode.

    Args:
        episodes: one or more episodes.
        rule: the rule for step boundaries, for episodes without steps of their own.
        tokenizer: counts the tokens of episodes without ids.

    Raises:
        InputError: there are no episodes.
    """
    tally = _Tally(rule, tokenizer)
    for episode in episodes:
        tally.add(episode)
    return tally.summary()


class _Tally:
    def __init__(self, rule: StepRule, tokenizer: Tokenizer | None) -> None:
        self._rule, self._tokenizer = rule, tokenizer
        self._prompts: dict[str, _Prompt] = {}
        self._responses: set[bytes] = set()
        self._lengths: dict[str, array[int]] = defaultdict(lambda: array("q"))  # one number per response
        self._outcomes = {"right": 0, "wrong": 0, "undecided": 0, "truncated": 0}
        self._own_ids = self._multi_turn = self._untokenised = 0

    def add(self, episode: Episode) -> None:
        """Adds an episode to the counts."""
        outcome = outcome_of(episode)
        self._outcomes[outcome] += 1
        digest = _digest(turns_as_text(episode.prompt).encode())
        self._responses.add(_digest(digest + turns_as_text(episode.completion).encode()))
        _add_to_prompt(self._prompts.setdefault(episode.prompt_id, _Prompt(digest)), episode, digest, outcome)
        self._add_lengths(episode)
        self._add_tokens(episode)

    def _add_lengths(self, episode: Episode) -> None:
        turns = policy_turns(episode.completion)
        self._multi_turn += len(turns) > 1
        prompt = [episode.prompt] if isinstance(episode.prompt, str) else [m["content"] or "" for m in episode.prompt]
        self._lengths["prompt_characters"].append(sum(map(len, prompt)))
        self._lengths["completion_characters"].append(sum(map(len, turns)))
        steps = len(episode.steps) if episode.steps else sum(len(self._rule.split(turn)) for turn in turns)
        self._lengths["steps"].append(steps)

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
        """Returns the summary of the episodes so far."""
        episodes, prompts, lengths = sum(self._outcomes.values()), list(self._prompts.values()), self._lengths
        if not episodes:
            raise InputError("there are no episodes to summarise")
        mean, stderr = _reward_mean(prompts)
        reasons = [_no_signal_reason(prompt) for prompt in prompts]
        bins = [_success_bin(prompt) for prompt in prompts]
        return Summary(
            episodes=episodes,
            prompts=len(prompts),
            responses_per_prompt=distribution([p.responses for p in prompts]),
            reward_mean=mean,
            reward_stderr=stderr,
            **{name: number / episodes for name, number in self._outcomes.items()},
            success={name: bins.count(name) for name in HISTOGRAM_BINS},
            prompts_without_outcome=bins.count(None),
            prompts_all_right=reasons.count("all right"),
            prompts_all_wrong=reasons.count("all wrong"),
            prompts_single=reasons.count("single"),
            prompts_undecided=reasons.count("undecided"),
            duplicates=episodes - len(self._responses),
            prompt_id_clashes=sum(p.clashes for p in prompts),
            prompt_characters=distribution(lengths["prompt_characters"]),
            completion_characters=distribution(lengths["completion_characters"]),
            completion_tokens=distribution(lengths["completion_tokens"]) if lengths["completion_tokens"] else None,
            total_tokens=distribution(lengths["total_tokens"]) if lengths["total_tokens"] else None,
            untokenised=self._untokenised,
            steps=distribution(lengths["steps"]),
            own_ids=self._own_ids / episodes,
            multi_turn=self._multi_turn / episodes,
            drawn=_sums([p.drawn for p in prompts if p.drawn is not None]),
        )


def outcome_of(episode: Episode) -> str:
    """Returns `truncated`, `undecided`, `right` or `wrong`; the last two by the verdict, or else by the reward."""
    if episode.truncated:
        return "truncated"
    if episode.reward is None:
        return "undecided"
    if episode.verdict is not None:
        return str(episode.verdict)
    return str(Verdict.RIGHT if episode.reward > RIGHT_ABOVE else Verdict.WRONG)


def policy_turns(completion: str | Iterable[Message]) -> list[str]:
    """Returns the text of each turn of the policy."""
    if isinstance(completion, str):
        return [completion]
    return [message["content"] or "" for message in completion if message["role"] == "assistant"]


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


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _add_to_prompt(prompt: _Prompt, episode: Episode, digest: bytes, outcome: str) -> None:
    prompt.responses += 1
    prompt.right += outcome == "right"
    prompt.wrong += outcome == "wrong"
    if isinstance(drawn := episode.metadata.get("drawn"), dict):
        prompt.drawn = {n: drawn[n] for n in ("right", "wrong", "other") if isinstance(drawn.get(n), int)}
    prompt.clashes |= digest != prompt.digest
    prompt.has_step_rewards |= any(episode.step_rewards or ())
    if episode.reward is not None:
        prompt.rewards += 1
        prompt.total += episode.reward
        prompt.lowest = min(prompt.lowest, episode.reward)
        prompt.highest = max(prompt.highest, episode.reward)


def _sums(counts: Sequence[Mapping[str, int]]) -> dict[str, int] | None:
    """Adds the counts of several prompts; None if there are none."""
    return {n: sum(count.get(n, 0) for count in counts) for n in ("right", "wrong", "other")} if counts else None


def _no_signal_reason(prompt: _Prompt) -> str | None:
    """Why a prompt gives no learning signal; None if it gives one."""
    if prompt.rewards == 0:
        return "undecided"
    if prompt.has_step_rewards or prompt.lowest < prompt.highest:
        return None
    if prompt.rewards == 1:
        return "single"
    return "all right" if prompt.lowest > RIGHT_ABOVE else "all wrong"


def _success_bin(prompt: _Prompt) -> str | None:
    outcomes = prompt.right + prompt.wrong
    if not outcomes:
        return None
    if prompt.right in (0, outcomes):
        return HISTOGRAM_BINS[-1 if prompt.right else 0]
    return HISTOGRAM_BINS[1 + 5 * prompt.right // outcomes]


def _reward_mean(prompts: list[_Prompt]) -> tuple[float | None, float | None]:
    """Returns the mean m of all N rewards and its standard error clustered by prompt, from the sums S_g of the n_g
    rewards of each of G prompts: stderr² = G/(G-1) Σ_g (S_g - n_g m)² / N²."""
    rated = [p for p in prompts if p.rewards]
    number = sum(p.rewards for p in rated)
    if not number:
        return None, None
    mean = math.fsum(p.total for p in rated) / number
    if len(rated) == 1:
        return mean, None
    squares = math.fsum((p.total - p.rewards * mean) ** 2 for p in rated)
    return mean, math.sqrt(len(rated) / (len(rated) - 1) * squares) / number
