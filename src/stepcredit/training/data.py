"""From episodes to what the trainer feeds on: encoded once, filtered by the method, and counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from stepcredit.episodes.alignment import PieceReader, Trajectory, align
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.turns import TurnEnds, own_turns, turn_ends
from stepcredit.errors import InputError, quoted
from stepcredit.logs.columns import ImportRules, check_rewards
from stepcredit.logs.formats import Row, without_nulls
from stepcredit.logs.importers import EpisodeImporter
from stepcredit.training.batching import Item
from stepcredit.training.configs import LabelConfig, OfflineConfig
from stepcredit.training.methods import Method
from stepcredit.training.outcome_limits import balanced


@dataclass
class TrainingData(Dataset[dict[str, Any]]):
    """Encoded episodes, laid out as the method looks at them, and what became of those that are not among them."""

    trajectories: list[Trajectory] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    quarantine: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"trajectories": self.items[index]}

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longest trajectory of each item."""
        return [max(len(t) for t in item) for item in self.items]

    def summary(self) -> dict[str, int]:
        """Counts for the log: episodes encoded, what they were laid out as, their tokens, those left out by reason."""
        return {
            "episodes": len(self.trajectories),
            **({"items": len(self)} if len(self) != len(self.trajectories) else {}),
            "action_tokens": int(sum(t.action_mask.sum() for t in self.trajectories)),
            "retokenised": sum(t.retokenised for t in self.trajectories),
            **{f"left_out/{reason}": count for reason, count in sorted(self.left_out.items())},
        }


def prepare(
    episodes: Iterable[Any], tokenizer: Any, config: OfflineConfig, method: Method, ends: TurnEnds | None = None
) -> TrainingData:
    """Episodes, or rows with `prompt`, `completion` and `reward` | `label`, as training data of a method.

    Left out, and counted by reason: `undecided` (no reward), `truncated` (if `config.truncated` is "drop"),
    `too_long` (over `config.max_length` tokens), `bad` (cannot be encoded, with `config.skip_bad`; these are kept in
    `quarantine`), `balanced` (over `config.max_per_outcome`), `filtered` (the method does not learn from it: last,
    so that a balance sees the wrong responses too, and all methods train on the same ones). What is left is laid out
    by `method.arrange`.

    Args:
        episodes: an iterable of either.
        tokenizer: of the policy.
        config, method: what is to be trained.
        ends: what ends a turn of the policy; by default what the tokenizer says of it.

    Raises:
        InputError: a bad row, nothing left to train on, or episodes that lack what the method needs.
    """
    pieces, ends = PieceReader(tokenizer), ends or turn_ends(tokenizer)
    data = TrainingData()
    for number, episode in enumerate(_training_episodes(episodes, config)):
        try:
            reason, trajectory = _encoded(episode, tokenizer, config, method, pieces, ends)
        except InputError as error:
            where = f"episode {number} (prompt {episode.prompt_id})"
            if not config.skip_bad:
                raise InputError(f"{error}; --skip_bad leaves such episodes out", where) from error
            row = json.dumps({"prompt": episode.prompt, "completion": episode.completion, "reward": episode.reward})
            data.quarantine.append({"where": where, "error": str(error), "row": row})
            reason, trajectory = "bad", None
        if trajectory is None:
            data.left_out[reason] += 1
        else:
            data.trajectories.append(trajectory)
    threshold = getattr(config, "reward_threshold", 1.0)
    if config.max_per_outcome is not None or isinstance(config, LabelConfig):
        _check_outcomes(data.trajectories, threshold)
    if config.max_per_outcome is not None:
        _keep(data, "balanced", balanced(data.trajectories, config.max_per_outcome, threshold, config.seed))
    _keep(data, "filtered", [e for e in data.trajectories if method.keeps(e.outcome, config)])
    if not data.trajectories:
        raise InputError(f"no episode is left to train on ({dict(data.left_out)})", "train_dataset")
    data.items = method.arrange.items(data.trajectories, config)
    return data


def _training_episodes(rows: Iterable[Any], config: OfflineConfig) -> Iterator[Episode]:
    """The episodes to train on; with `split_turns` those without ids turn by turn, a cut one as lost if it counts."""
    for episode in as_episodes(rows, config.import_rules, check=config.reward_range is not None):
        cut_and_left_out = episode.truncated and config.truncated == "drop"
        if not config.split_turns or not episode.is_chat or episode.tokens is not None or cut_and_left_out:
            yield episode
        else:
            yield from own_turns(_as_lost(episode) if episode.truncated else episode)


def _check_outcomes(trajectories: Sequence[Trajectory], threshold: float) -> None:
    """Labels of steps are no outcome: where nothing but steps is rewarded, nothing is known of right and wrong.

    Raises:
        InputError: there are rewards before the last action, and no outcome that is right.
    """
    has_steps = any(t.reward[: np.flatnonzero(t.action_mask)[-1]].any() for t in trajectories)
    if has_steps and not any(t.outcome >= threshold for t in trajectories):
        raise InputError(
            f"steps are rewarded, but no response has an outcome of {threshold:g} or more, so none is right; rewards "
            "of steps are no outcome: give one in a column reward or label, or lower --reward_threshold",
            "train_dataset",
        )


def _as_lost(episode: Episode) -> Episode:
    """A truncated episode that counts as lost: its return is 0, whatever its steps had earned."""
    return replace(episode, reward=0.0, outcome=None, step_rewards=None, verdict=None)


def _keep(data: TrainingData, reason: str, kept: list[Trajectory]) -> None:
    """Leaves all but some of the episodes out, and counts the others."""
    data.left_out += Counter({reason: len(data.trajectories) - len(kept)})
    data.trajectories = kept


def as_episodes(rows: Iterable[Any], rules: ImportRules, *, check: bool = False) -> Iterator[Episode]:
    """Episodes as they are; rows of a `datasets.Dataset` or list of dicts as the importers read them.

    Args:
        rows: of either kind.
        rules: how rows are read.
        check: whether the rewards of episodes, which some range held already, must lie in that of the rules too.

    Raises:
        InputError: naming the row.
    """
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


def _encoded(
    episode: Episode, tokenizer: Any, config: OfflineConfig, method: Method, pieces: PieceReader, ends: TurnEnds
) -> tuple[str, Trajectory | None]:
    """("", the encoded episode), or the reason why there is none."""
    is_cut = episode.truncated and config.truncated == "bootstrap"
    if episode.truncated:
        if config.truncated == "drop":
            return "truncated", None
        episode = replace(_as_lost(episode), step_rewards=episode.step_rewards if is_cut else None)
    if episode.reward is None:
        return "undecided", None
    trajectory = align(episode, tokenizer, config.step_rule, pieces, ends, as_written=config.split_turns)
    if method.needs_behavior and trajectory.behavior_log_prob is None:
        raise InputError(
            f"{config.method} needs the log-probabilities of the policy that wrote it", "behavior_log_prob"
        )
    if config.max_length is not None and len(trajectory) > config.max_length:
        before = int(trajectory.action_mask.argmax())
        if before >= config.max_length:
            raise InputError(f"the prompt alone has {before} tokens, max_length is {config.max_length}", "prompt")
        return "too_long", None
    return "", replace(trajectory, cut=is_cut)
