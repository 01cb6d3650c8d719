"""Scorer of states by a value model on servers: vLLM's pooling interface, which gives one number per token.

A value model that `stepcredit train` has saved is served so:

    vllm serve OUT/value --runner pooling --convert classify --pooler-config.task token_classify
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from stepcredit.engines.engine import Servers
from stepcredit.engines.server.answers import field, listed
from stepcredit.engines.server.connection import Connections, Failure, Server
from stepcredit.engines.server.recognition import named
from stepcredit.episodes.alignment import Trajectory
from stepcredit.errors import InputError, quoted
from stepcredit.models.loading import load_config
from stepcredit.models.states import ValueStates, value_states
from stepcredit.models.value_bins import value_bins
from stepcredit.searching.scorers import Reading, Scoring

_BYTES_PER_TOKEN = 64


class ServerValueScorer:
    """Scorer by a value model on servers. Costs are counted as for `ValueScorer`, every token once.

    Args:
        servers: the servers.
        value_model: folder of the value model, of which only the config is read, or its name on the hub.
        trust_remote_code: whether to run code from the model repository.

    Attributes:
        config: config of the value model.

    Raises:
        InputError: V is given by bins, which the interface has no numbers for, or a server cannot be reached or serves
            another model.
    """

    def __init__(self, servers: Servers, value_model: str, trust_remote_code: bool = False) -> None:
        self.config = load_config(value_model, trust_remote_code=trust_remote_code)
        if value_bins(self.config) is not None:
            raise InputError("a value model with bins gives several numbers per token; load it here", "value_base_url")
        self._connections = Connections(servers)

        async def begun(server: Server) -> None:
            await named(server, value_model)

        try:
            self._connections.each(begun)
        except BaseException:
            self._connections.close()
            raise

    @property
    def states(self) -> ValueStates | None:
        """States at which V was trained; None if its config does not say."""
        return value_states(self)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Scoring, Float64[np.ndarray, " P"], list[int]]:
        """See `Scorer.start`.

        Raises:
            ServerError: a server refuses a request, or all have failed.
        """
        rows = [tuple(prompt) for prompt in prompts]
        return _ServerScoring(self, rows), self.values(rows), [len(row) for row in rows]

    def values(self, rows: Sequence[tuple[int, ...]]) -> Float64[np.ndarray, " R"]:
        """Returns V of the state after each row of ids, [R]; raises as `start`."""
        return np.array([values[-1] for values in self._values_along(rows)])

    def values_of(self, trajectories: Sequence[Trajectory]) -> list[Float[np.ndarray, " T"]]:
        """See `stepcredit.models.scoring.values_of`; raises as `start`."""
        along = self._values_along([tuple(t.ids[:-1].tolist()) for t in trajectories])
        after = (np.concatenate([[np.nan], values]) for values in along)
        return [np.where(t.action_mask, v, np.nan) for t, v in zip(trajectories, after, strict=True)]

    def _values_along(self, rows: Sequence[tuple[int, ...]]) -> Iterator[Float64[np.ndarray, " I"]]:
        """Yields V of the states after each id of each row."""

        def job(row: tuple[int, ...]) -> Any:
            async def scored(server: Server) -> Float64[np.ndarray, " I"]:
                payload = {
                    "model": server.model,
                    "input": [list(row)],
                    "task": "token_classify",
                    "use_activation": False,
                }
                answer = await server.ask("/pooling", payload, 100_000 + _BYTES_PER_TOKEN * len(row))
                return _values(answer, len(row))

            return scored

        yield from self._connections.results([job(row) for row in rows])


def _values(answer: Any, tokens: int) -> Float64[np.ndarray, " I"]:
    """Returns V after each token of an answer, with one number for each token.

    Raises:
        Failure: it has others.
    """
    if len(listed(answer, "data")) != 1:
        raise Failure(f"{len(answer['data'])} rows of values, where 1 was asked for")
    numbers = listed(answer, "data", 0, "data")
    if len(numbers) != tokens:
        raise Failure(f"{len(numbers)} values for {tokens} tokens")
    return np.array([_value(number) for number in numbers], dtype=np.float64)


def _value(number: Any) -> float:
    value = field(number, 0) if isinstance(number, list) and len(number) == 1 else number
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e30 < value < 1e30:
        raise Failure(f"{quoted(number)} is no value")
    return float(value)


class _ServerScoring:
    """Token ids of the sequences."""

    def __init__(self, scorer: ServerValueScorer, rows: list[tuple[int, ...]]) -> None:
        self._scorer, self._rows = scorer, rows
        self._grown: list[tuple[int, ...]] = []
        self._unread_of_grown: list[int] = []
        self._unread = [0] * len(rows)

    def score(self, readings: Sequence[Reading]) -> tuple[Float64[np.ndarray, " R"], list[int]]:
        """See `Scoring.score`."""
        self._grown = [(*self._rows[reading.row], *reading.ids) for reading in readings]
        self._unread_of_grown = [len(reading.ids) - len(reading.read) for reading in readings]
        read = [(*self._rows[reading.row], *reading.read) for reading in readings]
        return self._scorer.values(read), [len(reading.read) for reading in readings]

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Scoring.keep`."""
        self._rows = [self._grown[k] for k in chosen]
        self._unread = [self._unread_of_grown[k] for k in chosen]

    def extend(self, more: Sequence[Sequence[int]]) -> list[int]:
        """See `Scoring.extend`; the ids are read with the next score."""
        self._rows = [(*row, *ids) for row, ids in zip(self._rows, more, strict=True)]
        read = [unread + len(ids) for unread, ids in zip(self._unread, more, strict=True)]
        self._unread = [0] * len(self._rows)
        return read
