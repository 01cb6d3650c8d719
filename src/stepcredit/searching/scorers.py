"""Scorers of states: a value model with its own KV cache, a reward model, or any function.

V of an unfinished response is V of the state after its last token. V of a finished response is V of the state before
its end token, because V is trained there and never after it. In a conversation the value model still reads the end
token, together with the observation that follows. Shapes: P prompts or sequences, R readings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from stepcredit.engines.kv_cache import CachedSequences, padded_left
from stepcredit.episodes.alignment import Trajectory
from stepcredit.models.heads.value_heads import values_of_logits
from stepcredit.models.scoring import values_of
from stepcredit.models.states import ValueStates, value_states


@dataclass(frozen=True)
class Reading:
    """Continuation to be scored.

    Attributes:
        row: index of the sequence that it continues.
        ids: its token ids.
        finished: whether the response ends with it.
    """

    row: int
    ids: tuple[int, ...]
    finished: bool

    @property
    def read(self) -> tuple[int, ...]:
        """Ids up to the scored state: all, or all but the end token."""
        return self.ids[:-1] if self.finished else self.ids


@runtime_checkable
class Scoring(Protocol):
    """State of the scorer during one search; its sequences are those of the stepper."""

    def score(self, readings: Sequence[Reading]) -> tuple[Float64[np.ndarray, " R"], list[int]]:
        """Returns (score, number of tokens read) per continuation."""
        ...

    def keep(self, chosen: Sequence[int]) -> None:
        """Set the sequences to those that end in these continuations of the last `score`."""
        ...

    def extend(self, more: Sequence[Sequence[int]]) -> list[int]:
        """Append ids, possibly none, to each sequence; returns the number of tokens read per sequence.

        Sequences that were finished when kept can only be continued by this method.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Interface of a scorer of states."""

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, Float64[np.ndarray, " P"], list[int]]:
        """Returns (scoring state of these prompts, score or NaN per prompt, tokens read per prompt)."""
        ...


class ValueScorer:
    """Scorer by a value model with a KV cache: every token is processed once.

    Args:
        model: an `AutoModelForTokenClassification` with one label, or one for each bin, trained with the policy.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @property
    def states(self) -> ValueStates | None:
        """States at which V was trained; None if its config does not say."""
        return value_states(self.model)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, Float64[np.ndarray, " P"], list[int]]:
        """See `Scorer.start`."""
        rows = CachedSequences.empty(self.model, len(prompts))
        ids, mask = padded_left(prompts, self.model.device)
        values = _last_values(rows, ids, mask).numpy()
        return _ValueScoring(rows, values), values, [len(prompt) for prompt in prompts]

    def values_of(self, trajectories: Sequence[Trajectory]) -> list[Float[np.ndarray, " T"]]:
        """See `stepcredit.models.scoring.values_of`."""
        return values_of(self.model, trajectories)


def _last_values(rows: CachedSequences, ids: Tensor, mask: Tensor) -> Float64[Tensor, " P"]:
    """Reads ids and returns V after the last of each row, on the CPU."""
    return values_of_logits(rows.read(ids, mask).logits[:, -1], rows.model).double().cpu()


class _ValueScoring:
    """KV cache and values of the value model, per sequence; end tokens are still unread."""

    def __init__(self, rows: CachedSequences, values: Float64[np.ndarray, " P"]) -> None:
        self._rows, self._values = rows, values
        self._grown = rows
        self._readings: list[Reading] = []
        self._unread: list[tuple[int, ...]] = [()] * len(rows)

    @torch.inference_mode()
    def score(self, readings: Sequence[Reading]) -> tuple[Float64[np.ndarray, " R"], list[int]]:
        """See `Scoring.score`."""
        parents = [reading.row for reading in readings]
        assert not any(self._unread[row] for row in parents), "a finished sequence must be continued with `extend`"
        values = self._values[parents].copy()
        self._grown = self._rows.selected(torch.tensor(parents))
        if any(reading.read for reading in readings):
            ids, mask = padded_left([reading.read for reading in readings], self._grown.model.device)
            last: Tensor = _last_values(self._grown, ids, mask)
            read_any = mask.any(-1).cpu().numpy()
            values[read_any] = last.numpy()[read_any]
        self._scored, self._readings = values, list(readings)
        return values, [len(reading.read) for reading in readings]

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Scoring.keep`."""
        self._rows = self._grown.selected(torch.tensor(chosen)).compacted()
        self._values = self._scored[list(chosen)]
        self._unread = [self._readings[k].ids[len(self._readings[k].read) :] for k in chosen]

    @torch.inference_mode()
    def extend(self, more: Sequence[Sequence[int]]) -> list[int]:
        """See `Scoring.extend`; reads the end tokens of turns in the same forward pass."""
        unread = [[*ended, *ids] for ended, ids in zip(self._unread, more, strict=True)]
        if any(unread):
            ids, mask = padded_left(unread, self._rows.model.device)
            last: Tensor = _last_values(self._rows, ids, mask)
            self._values = np.where(mask.any(-1).cpu().numpy(), last.numpy(), self._values)
        self._unread = [()] * len(unread)
        return [len(ids) for ids in unread]


ScoreRows = Callable[[list[list[int]]], Sequence[float]]
"""Function from token ids of prompt and response to one score per row."""


class FunctionScorer:
    """Scorer by any function of prompt and response, which is computed from scratch each time.

    Args:
        function: maps rows of token ids (prompt and response, end token included) to one score per row.
    """

    def __init__(self, function: ScoreRows) -> None:
        self.function = function

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, Float64[np.ndarray, " P"], list[int]]:
        """See `Scorer.start`; prompts are not scored."""
        scoring = _FunctionScoring(self.function, [list(prompt) for prompt in prompts])
        return scoring, np.full(len(prompts), np.nan), [0] * len(prompts)


class _FunctionScoring:
    """Token ids of the sequences, all of which are read again at every score."""

    def __init__(self, function: ScoreRows, rows: list[list[int]]) -> None:
        self._function, self._rows = function, rows
        self._grown: list[list[int]] = []

    def score(self, readings: Sequence[Reading]) -> tuple[Float64[np.ndarray, " R"], list[int]]:
        """See `Scoring.score`."""
        self._grown = [self._rows[reading.row] + list(reading.ids) for reading in readings]
        return np.asarray(self._function(self._grown), dtype=np.float64), [len(row) for row in self._grown]

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Scoring.keep`."""
        self._rows = [self._grown[k] for k in chosen]

    def extend(self, more: Sequence[Sequence[int]]) -> list[int]:
        """See `Scoring.extend`; reads no tokens."""
        self._rows = [[*row, *ids] for row, ids in zip(self._rows, more, strict=True)]
        return [0] * len(self._rows)


def reward_model_scorer(model: Any, batch_size: int = 32) -> FunctionScorer:
    """Returns the scorer of a reward model: an `AutoModelForSequenceClassification` with one label."""
    model = model.eval()
    if model.config.pad_token_id is None:  # transformers rejects batches of several rows without one
        model.config.pad_token_id = 0

    @torch.inference_mode()
    def score(rows: list[list[int]]) -> list[float]:
        scores: list[float] = []
        pad = model.config.pad_token_id
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch], device=model.device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
            scores += model(input_ids=ids, attention_mask=mask).logits[:, 0].double().tolist()
        return scores

    return FunctionScorer(score)
