"""Training data: episodes encoded once, filtered by the config and the method, and counted."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from stepcredit.episodes.alignment import TokenTexts, Trajectory, align
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.trajectories import Trajectories, stored
from stepcredit.episodes.turns import TurnEnds, split_into_turns, turn_ends
from stepcredit.errors import InputError, quoted
from stepcredit.logs.columns import ImportRules, check_rewards
from stepcredit.logs.formats import Row, without_nulls
from stepcredit.logs.importers import EpisodeImporter
from stepcredit.training.batching import PADDING
from stepcredit.training.configs import LabelConfig
from stepcredit.training.items import Items
from stepcredit.training.methods import Method
from stepcredit.training.offline_config import OfflineConfig
from stepcredit.verdict import REWARD_THRESHOLD


@dataclass
class TrainingData(Dataset[dict[str, Any]]):
    """A dataset of encoded episodes grouped into items.

    Attributes:
        trajectories, items: those to train on.
        encoded: how many episodes were encoded, before balancing and filtering.
        text_prompts: how many of those have a plain-text prompt.
        left_out: how many were left out, by reason.
        quarantine: those that could not be encoded.
    """

    trajectories: Trajectories
    items: Items
    encoded: int
    text_prompts: int
    left_out: Counter[str]
    quarantine: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns item k at index k, and at ~k as padding."""
        if index >= 0:
            return {"trajectories": self.items[index]}
        return {"trajectories": self.items[~index], PADDING: True}

    def summary(self) -> dict[str, int]:
        """Counts for the log: encoded episodes, items, action tokens, and episodes left out by reason."""
        return {
            "episodes": len(self.trajectories),
            **({"items": len(self)} if len(self) != len(self.trajectories) else {}),
            **self.trajectories.counts(),
            **{f"left_out/{reason}": count for reason, count in sorted(self.left_out.items())},
        }


def prepare(
    episodes: Iterable[Any], tokenizer: Any, config: OfflineConfig, method: Method, ends: TurnEnds | None = None
) -> TrainingData:
    """Encodes episodes, or rows with `prompt`, `completion` and `reward` | `label`, as training data of a method.

    Episodes are left out, and counted by reason: `undecided` (no reward), `truncated` (if `config.truncated` is
    "drop"), `too_long` (over `config.max_length` tokens), `bad` (cannot be encoded; with `config.skip_bad` they go to
    `quarantine`), `balanced` (over `config.max_per_outcome`), `filtered` (the method does not train on them; applied
    last, so that balancing counts wrong responses too and all methods train on the same ones). The rest is grouped
    into items by `method.batch_layout`.

    `method.group_number` sees the returns of all graded responses to a prompt, also of those left out as too long, bad,
    balanced or filtered, so that it does not depend on what fits into a run. Undecided responses have no return, and a
    truncated one has none or, with `config.truncated` "zero", 0.

    Args:
        episodes: episodes or rows.
        tokenizer: the policy's tokenizer.
        config, method: the config and its method.
        ends: the end-of-turn tokens; by default those of the tokenizer.

    Raises:
        InputError: a row is invalid, no episode is left, or episodes lack data that the method needs.
    """
    encoder = _Encoder(tokenizer, config, method, ends or turn_ends(tokenizer))
    trajectories = stored(encoder.encode(episodes))
    encoded, left_out = len(trajectories), encoder.left_out
    threshold = getattr(config, "reward_threshold", REWARD_THRESHOLD)
    if config.max_per_outcome is not None or isinstance(config, LabelConfig):
        _check_outcomes(trajectories, threshold)
    if config.max_per_outcome is not None:
        trajectories = trajectories.select(balanced(trajectories, config.max_per_outcome, threshold, config.seed))
        left_out += Counter(balanced=encoded - len(trajectories))
    is_kept = np.fromiter((method.keeps(float(outcome), config) for outcome in trajectories.outcomes), np.bool_)
    left_out += Counter(filtered=len(trajectories) - int(is_kept.sum()))
    trajectories = trajectories.select(is_kept)
    if not trajectories:
        raise InputError(f"no episode is left to train on ({dict(left_out)})", "train_dataset")
    if (number := method.group_number) is not None:
        trajectories = trajectories.with_group_numbers(lambda prompt: number(encoder.returns[prompt], config))
    items = method.batch_layout.items(trajectories, config)
    return TrainingData(trajectories, items, encoded, encoder.text_prompts, left_out, encoder.quarantine)


def balanced(trajectories: Trajectories, limit: int, threshold: float, seed: int) -> NDArray[np.int64]:
    """Picks at most `limit` right and `limit` wrong responses of each prompt, in their original order.

    Of the right responses at most as many are kept as there are wrong ones, but at least one if there is any. OREO's
    7B runs keep at most 4 of each outcome out of 16 (arXiv 2412.16145, experiments): (right, wrong) responses (8, 8)
    give (4, 4), (13, 3) give (3, 3), (16, 0) give (1, 0), and (3, 13) give (3, 4).

    The sample is random, seeded by `seed` and the order of the episodes.

    Args:
        trajectories: encoded responses of any number of prompts.
        limit: the maximal number per outcome.
        threshold: a response is right if its outcome is at least this.
        seed: the seed of the sample.

    Returns:
        Their indices, [K], ascending.
    """
    rng = np.random.default_rng([seed, 4])
    is_right = trajectories.outcomes >= threshold
    is_kept = np.zeros(len(trajectories), dtype=np.bool_)
    for indices in trajectories.by_prompt():
        right, wrong = indices[is_right[indices]], indices[~is_right[indices]]
        is_kept[right[rng.permutation(len(right))[: min(limit, max(len(wrong), 1))]]] = True
        is_kept[wrong[rng.permutation(len(wrong))[:limit]]] = True
    return np.flatnonzero(is_kept)


def _training_episodes(rows: Iterable[Any], config: OfflineConfig) -> Iterator[Episode]:
    """Yields the episodes to train on; with `split_turns`, conversations without token ids are split into turns."""
    for episode in as_episodes(rows, config.import_rules, check=config.reward_range is not None):
        is_dropped = episode.truncated and config.truncated == "drop"
        if not config.split_turns or not episode.is_chat or episode.tokens is not None or is_dropped:
            yield episode
        else:
            yield from split_into_turns(_with_zero_return(episode) if episode.truncated else episode)


def _return_of(episode: Episode, config: OfflineConfig) -> float | None:
    """Returns the sum of an episode's rewards; None where it has none."""
    if episode.truncated:
        return 0.0 if config.truncated == "zero" else None
    return None if episode.reward is None else episode.reward + math.fsum(episode.step_rewards or ())


def _check_outcomes(trajectories: Trajectories, threshold: float) -> None:
    """Checks that data with step rewards has outcomes too: step rewards alone do not tell right from wrong responses.

    Raises:
        InputError: there are rewards before the last action, and no outcome reaches the threshold.
    """
    if (trajectories.outcomes >= threshold).any():
        return
    if any(t.reward[: np.flatnonzero(t.action_mask)[-1]].any() for t in trajectories):
        raise InputError(
            f"steps have rewards, but no response has an outcome of {threshold:g} or more, so none is right; add "
            "outcomes in a column reward or label, or lower --reward_threshold",
            "train_dataset",
        )


def _with_zero_return(episode: Episode) -> Episode:
    """Returns a truncated episode with return 0, without its step rewards."""
    return replace(episode, reward=0.0, outcome=None, step_rewards=None, verdict=None)


def as_episodes(rows: Iterable[Any], rules: ImportRules, *, check: bool = False) -> Iterator[Episode]:
    """Yields episodes unchanged and converts rows of a `datasets.Dataset` or list of dicts as the importers do.

    Args:
        rows: episodes or rows.
        rules: how rows are imported.
        check: whether to check the rewards of episodes, too, against the range of the rules.

    Raises:
        InputError: a row is invalid; the message names it.
    """
    if isinstance(rows, str | Path):
        raise InputError(
            f"must be episodes (load_episodes({quoted(rows)})), a datasets.Dataset or rows", "train_dataset"
        )
    importer, is_table = EpisodeImporter(rules), hasattr(rows, "column_names")
    for k, row in enumerate(rows):
        if not isinstance(row, Episode):
            if not isinstance(row, Mapping):
                raise InputError(
                    f"must be an episode or a mapping of columns, not {quoted(row)}", f"train_dataset row {k}"
                )
            data = {name: without_nulls(value) if is_table else value for name, value in dict(row).items()}
            yield importer.episode(Row(where=f"train_dataset row {k}", data=data))
            continue
        if check:
            check_rewards(row, rules, f"episode {k} (prompt {row.prompt_id})")
        yield row


class _Encoder:
    """Encodes the episodes of a run.

    Attributes:
        left_out: how many episodes were left out, by reason.
        quarantine: those that cannot be encoded.
        text_prompts: how many prompts of those that were encoded are plain text.
        returns: the returns of the graded responses to each prompt, where the method has a number of each prompt.
    """

    def __init__(self, tokenizer: Any, config: OfflineConfig, method: Method, ends: TurnEnds) -> None:
        self._tokenizer, self._config, self._method, self._ends = tokenizer, config, method, ends
        self._texts = TokenTexts(tokenizer)
        self.left_out: Counter[str] = Counter()
        self.quarantine: list[dict[str, Any]] = []
        self.text_prompts = 0
        self.returns: dict[str, list[float]] = defaultdict(list)

    def encode(self, episodes: Iterable[Any]) -> Iterator[Trajectory]:
        """Yields the trajectories of episodes or rows."""
        for number, episode in enumerate(_training_episodes(episodes, self._config)):
            if self._method.group_number is not None and (total := _return_of(episode, self._config)) is not None:
                self.returns[episode.prompt_id].append(total)
            try:
                reason, trajectory = self._encode(episode)
            except InputError as error:
                where = f"episode {number} (prompt {episode.prompt_id})"
                if not self._config.skip_bad:
                    raise InputError(f"{error}; --skip_bad leaves such episodes out", where) from error
                row = json.dumps({"prompt": episode.prompt, "completion": episode.completion, "reward": episode.reward})
                self.quarantine.append({"where": where, "error": str(error), "row": row})
                reason, trajectory = "bad", None
            if trajectory is None:
                self.left_out[reason] += 1
            else:
                self.text_prompts += isinstance(episode.prompt, str)
                yield trajectory

    def _encode(self, episode: Episode) -> tuple[str, Trajectory | None]:
        """Returns ("", trajectory), or (reason, None) where the episode is left out."""
        config = self._config
        is_cut = episode.truncated and config.truncated == "bootstrap"
        if episode.truncated:
            if config.truncated == "drop":
                return "truncated", None
            episode = replace(_with_zero_return(episode), step_rewards=episode.step_rewards if is_cut else None)
        if episode.reward is None:
            return "undecided", None
        trajectory = align(
            episode, self._tokenizer, config.step_rule, self._texts, self._ends, as_written=config.split_turns
        )
        if self._method.needs_behavior and trajectory.behavior_log_prob is None:
            raise InputError(f"{config.method} needs log-probabilities of the behaviour policy", "behavior_log_prob")
        if config.max_length is not None and len(trajectory) > config.max_length:
            if trajectory.prompt_length >= config.max_length:
                raise InputError(
                    f"the prompt has {trajectory.prompt_length} tokens, which leaves no room for a response within "
                    f"max_length {config.max_length}",
                    "prompt",
                )
            return "too_long", None
        return "", replace(trajectory, cut=is_cut)
