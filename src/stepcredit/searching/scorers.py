"""Scorers say how good states are: the value function, with its own cache; a reward model; any function.

V of a response that goes on is V of the state after its last token. V of a finished response is V of the state before
its last token, the one that ends it: that state is trained, the one after it never is. In a conversation that token is
read all the same, once the reply is kept, and the observation after it. Shapes: P prompts, or rows that were kept;
R readings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from stepcredit.engines.kv_cache import CachedRows, padded_left


@dataclass(frozen=True)
class Reading:
    """A piece to be scored.

    Attributes:
        row: which of the kept sequences it goes on.
        ids: its token ids.
        finished: whether the response ends with it.
    """

    row: int
    ids: tuple[int, ...]
    finished: bool

    @property
    def read(self) -> tuple[int, ...]:
        """The ids that lead to the state whose V counts."""
        return self.ids[:-1] if self.finished else self.ids


@runtime_checkable
class Scoring(Protocol):
    """The scoring of one search: rows that grow with those of the stepper."""

    def score(self, readings: Sequence[Reading]) -> tuple[Float64[np.ndarray, " R"], list[int]]:
        """(a score for each piece, how many tokens were read for it)."""
        ...

    def keep(self, chosen: Sequence[int]) -> None:
        """From now on the rows are the sequences that end in these pieces of the last `score`."""
        ...

    def extend(self, more: Sequence[Sequence[int]]) -> list[int]:
        """Append ids to each kept row, as many as there are, also none; how many tokens were read for it.

        Rows that were finished when they were kept go on no other way.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Anything that can tell better states from worse ones."""

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, Float64[np.ndarray, " P"], list[int]]:
        """(a scoring whose rows are these prompts, a score for each prompt or NaN, tokens read for each)."""
        ...


class ValueScorer:
    """V of a value model, every token read once.

    Args:
        model: an `AutoModelForTokenClassification` with one label, trained beside the policy.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, Float64[np.ndarray, " P"], list[int]]:
        """See `Scorer.start`."""
        rows = CachedRows.empty(self.model, len(prompts))
        ids, mask = padded_left(prompts, self.model.device)
        values = rows.read(ids, mask).logits[:, -1, 0].double().cpu().numpy()
        return _ValueScoring(rows, values), values, [len(prompt) for prompt in prompts]


class _ValueScoring:
    """The value model's cache, one row a kept sequence, all of whose tokens it has read but those that ended it."""

    def __init__(self, rows: CachedRows, values: Float64[np.ndarray, " P"]) -> None:
        self._rows, self._values = rows, values
        self._grown = rows
        self._readings: list[Reading] = []
        self._unread: list[tuple[int, ...]] = [()] * len(rows)

    @torch.inference_mode()
    def score(self, readings: Sequence[Reading]) -> tuple[Float64[np.ndarray, " R"], list[int]]:
        """See `Scoring.score`."""
        parents = [reading.row for reading in readings]
        assert not any(self._unread[row] for row in parents), "a finished row goes on with `extend`"
        values = self._values[parents].copy()
        self._grown = self._rows.selected(torch.tensor(parents))
        if any(reading.read for reading in readings):
            ids, mask = padded_left([reading.read for reading in readings], self._grown.model.device)
            last: Tensor = self._grown.read(ids, mask).logits[:, -1, 0].double().cpu()
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
        """See `Scoring.extend`; ended turns are read to their end first, all in one pass."""
        unread = [[*ended, *ids] for ended, ids in zip(self._unread, more, strict=True)]
        if any(unread):
            ids, mask = padded_left(unread, self._rows.model.device)
            last: Tensor = self._rows.read(ids, mask).logits[:, -1, 0].double().cpu()
            self._values = np.where(mask.any(-1).cpu().numpy(), last.numpy(), self._values)
        self._unread = [()] * len(unread)
        return [len(ids) for ids in unread]


ScoreRows = Callable[[list[list[int]]], Sequence[float]]
"""Whole rows of ids, prompt and response, to a score each."""


class FunctionScorer:
    """Any function of prompt and response; it reads everything again each time.

    Args:
        function: rows of token ids, prompt and response together, to one score each. Of a finished response it sees
            the end token too.
    """

    def __init__(self, function: ScoreRows) -> None:
        self.function = function

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, Float64[np.ndarray, " P"], list[int]]:
        """See `Scorer.start`; the bare prompt is not scored."""
        scoring = _FunctionScoring(self.function, [list(prompt) for prompt in prompts])
        return scoring, np.full(len(prompts), np.nan), [0] * len(prompts)


class _FunctionScoring:
    """All tokens of each row, read again at every score."""

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
        """See `Scoring.extend`; nothing is read before the next score."""
        self._rows = [[*row, *ids] for row, ids in zip(self._rows, more, strict=True)]
        return [0] * len(self._rows)


def reward_model_scorer(model: Any, batch_size: int = 32) -> FunctionScorer:
    """The scorer of an outcome or process reward model: an `AutoModelForSequenceClassification` with one label."""
    model = model.eval()
    if model.config.pad_token_id is None:  # without one it reads a batch of one row only
        model.config.pad_token_id = 0

    @torch.inference_mode()
    def score(rows: list[list[int]]) -> list[float]:
        found: list[float] = []
        pad = model.config.pad_token_id
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([row + [pad] * (width - len(row)) for row in batch], device=model.device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
            found += model(input_ids=ids, attention_mask=mask).logits[:, 0].double().tolist()
        return found

    return FunctionScorer(score)
