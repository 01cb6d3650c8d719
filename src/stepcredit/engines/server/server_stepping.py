"""Step-wise generation from servers, for beam search and conversations.

Prompt and response so far are sent again with every request; servers keep what they have processed of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepcredit.engines.decoding import Continuation, ContinuationRequest
from stepcredit.engines.server.connection import Connections, Server
from stepcredit.engines.server.reading import Continuer, OpenContinuation, StoredToken


class ServerStepper:
    """Stepper of a policy on servers: a `stepping.TurnStepper`.

    Args:
        connections: the servers.
        continuer: samples the continuations.
    """

    def __init__(self, connections: Connections, continuer: Continuer) -> None:
        self._connections, self._continuer = connections, continuer
        self._rows: list[tuple[int, ...]] = []
        self._next: list[StoredToken | None] = []
        self._drawn: list[OpenContinuation] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """See `Stepper.start`."""
        self._rows = [tuple(prompt) for prompt in prompts]
        self._next = [None] * len(prompts)

    def draw(self, draws: Sequence[ContinuationRequest]) -> list[Continuation]:
        """See `Stepper.draw`.

        Raises:
            ServerError: a server refuses a request, or all have failed.
        """

        def job(draw: ContinuationRequest) -> Any:
            async def sampled(server: Server) -> OpenContinuation:
                return await self._continuer.sampled(server, self._rows[draw.row], draw, self._next[draw.row])

            return sampled

        self._drawn = list(self._connections.results([job(draw) for draw in draws]))
        return [grown.read() for grown in self._drawn]

    def keep(self, chosen: Sequence[int]) -> None:
        """See `Stepper.keep`."""
        kept = [self._drawn[index] for index in chosen]
        self._rows = [(*self._rows[grown.draw.row], *grown.ids) for grown in kept]
        self._next = [grown.next for grown in kept]

    def extend(self, more: Sequence[Sequence[int]]) -> None:
        """See `TurnStepper.extend`."""
        self._rows = [(*row, *ids) for row, ids in zip(self._rows, more, strict=True)]
