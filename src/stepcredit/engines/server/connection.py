"""Requests to servers: many at once, each with a time-out, repeated with back-off, moved away from servers that fail.

Each server has as many workers as it may have requests at a time; all workers take jobs from one list. A job whose
server has failed goes back to the list, and the workers of the other servers take it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from stepcredit.engines.engine import Servers
from stepcredit.errors import InputError, one_line, quoted

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the first repetition, doubled for each further one, and at most; each is shortened by up to a half at
random, so that requests that failed together are not repeated together."""
LONGEST_CONNECT = 30.0
"""Seconds until an address that does not answer is a failure."""
MOST_BYTES = 4_000_000
"""Size limit of an answer that has no tokens."""
_REPEATED = frozenset({408, 425, 429})
"""Refusals that pass; so do all errors of the server (500 and above, but for 501: not implemented)."""
_ABSENT = frozenset({404, 405, 501})

T = TypeVar("T")


class ServerError(InputError):
    """Servers that cannot be reached, fail, or refuse a request; names the address and what was seen."""


class NotOffered(ServerError):
    """An address that a server does not have."""


class Failure(Exception):
    """A request that failed and may be repeated, after `wait` seconds if the server says so."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        self.wait = wait
        super().__init__(what)


class UnprovedError(Failure):
    """An answer that is not what was asked for; the fault may be in the check, so its server stays in use."""


class Server:
    """A server and its state.

    Args:
        url: its address.
        client: the connections.
        time_out: seconds until a request is given up.

    Attributes:
        name: the address without user and password, for messages.
        failed: what was last seen of a server that is given up; None: it is in use.
        model: name of the policy on the server.
        dialect: the interface that it speaks.
    """

    def __init__(self, url: str, client: httpx2.AsyncClient, time_out: float) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/").removesuffix("/v1")
        self.failed: str | None = None
        self.model = ""
        self.dialect: Any = None
        self._url = url.rstrip("/").removesuffix("/v1")
        self._client, self._time_out = client, time_out

    async def ask(self, path: str, payload: Any = None, most_bytes: int = MOST_BYTES) -> Any:
        """Returns the JSON that answers a request: GET, or POST if there is a payload.

        Raises:
            Failure: no answer, an error that may pass, or an answer that is not JSON.
            ServerError: the server refuses the request.
        """
        method = "GET" if payload is None else "POST"
        try:
            async with (
                asyncio.timeout(self._time_out),
                self._client.stream(method, self._url + path, json=payload) as response,
            ):
                body = await _body(response, most_bytes)
                self._check(response, body, path)
                return _parsed(response, body)
        except TimeoutError as error:
            raise Failure(f"no answer within {self._time_out:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Failure(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error

    def _check(self, response: httpx2.Response, body: bytes, path: str) -> None:
        """Raises for every status but success."""
        status = response.status_code
        if 200 <= status < 300:
            return
        said = f"{status} {quoted(body[:2000].decode(errors='replace'), 300)}"
        if status in _REPEATED or (status >= 500 and status not in _ABSENT):
            raise Failure(f"status {said}", _seconds(response.headers.get("retry-after")))
        if 300 <= status < 400:
            to = quoted(response.headers.get("location", ""), 200)
            raise ServerError(f"redirects to {to}, which is not followed; give the address itself", self.name)
        if status in (401, 403):
            raise ServerError(f"refuses the key of OPENAI_API_KEY, or its absence (status {said})", self.name)
        kind = NotOffered if status in _ABSENT else ServerError
        raise kind(f"refuses {path} (status {said})", self.name)


async def _body(response: httpx2.Response, most_bytes: int) -> bytes:
    """Reads an answer up to a limit."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            raise Failure(f"an answer of more than {most_bytes} bytes")
    return b"".join(parts)


def _parsed(response: httpx2.Response, body: bytes) -> Any:
    kind = response.headers.get("content-type", "")
    if "json" not in kind.lower():
        raise Failure(f"an answer of type {quoted(kind)} instead of JSON: {quoted(body[:60].decode(errors='replace'))}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Failure(f"an answer that is not JSON ({one_line(error, 200)})") from error


def _seconds(retry_after: str | None) -> float | None:
    """Returns the seconds of a Retry-After header; None if it is absent or a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


Job = Callable[[Server], Awaitable[T]]
"""What is done with a server: requests, and checks of their answers, which raise `Failure`."""


class Connections:
    """Connections to servers, in an event loop of their own thread.

    Args:
        servers: the addresses, and how they are asked.

    Attributes:
        servers: the servers.

    Raises:
        InputError: the key in OPENAI_API_KEY cannot be sent.
    """

    def __init__(self, servers: Servers) -> None:
        self._asked = servers
        headers = {"accept-encoding": "identity", **_authorization()}
        most = servers.concurrency * len(servers.base_url)
        client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(servers.request_timeout, connect=min(LONGEST_CONNECT, servers.request_timeout)),
            limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=60),
        )
        self.servers = [Server(url, client, servers.request_timeout) for url in servers.base_url]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop, client), name="servers", daemon=True)
        self._thread.start()
        self._stop = weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def close(self) -> None:
        """Ends all requests, the connections and the thread.

        Connections that nobody has any more are closed too, without waiting: the garbage collector may run in any
        thread, and what a signal raises in it is lost.
        """
        self._stop()
        self._thread.join(timeout=10)

    def each(self, job: Job[T]) -> list[T]:
        """Does a job with every server; returns the results.

        Raises:
            ServerError: a server refuses or fails.
        """

        async def all_done() -> list[T]:
            return await asyncio.gather(*(self._tried(server, job) for server in self.servers))

        try:
            return self._run(all_done()).result()
        except _GivenUp as error:
            raise ServerError(str(error)) from error

    def results(self, jobs: Sequence[Job[T]]) -> Iterator[T]:
        """Does jobs with any server, many at a time; yields the results in order.

        Raises:
            ServerError: a server refuses a job, or all servers have failed.
        """
        todo: deque[tuple[Job[T], Future[T]]] = deque((job, Future()) for job in jobs)
        futures = [future for _, future in todo]
        working = self._run(self._work(todo, futures))
        try:
            for future in futures:
                yield future.result()
        finally:
            working.cancel()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _work(self, todo: deque[tuple[Job[T], Future[T]]], futures: Sequence[Future[T]]) -> None:
        """Works until every job is done, or all servers have failed."""
        try:
            while todo:
                alive = [server for server in self.servers if server.failed is None]
                if not alive:
                    raise ServerError("; ".join(f"{server.name}: {server.failed}" for server in self.servers))
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._asked.concurrency, len(todo))):  # servers in turn: all have a share of few
                        for server in alive:
                            group.create_task(self._take(server, todo))
        except BaseException as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, ServerError):
                raise

    async def _take(self, server: Server, todo: deque[tuple[Job[T], Future[T]]]) -> None:
        """Does jobs with one server until there are none, or it has failed."""
        while todo and server.failed is None:
            job, future = todo.popleft()
            try:
                future.set_result(await self._tried(server, job))
            except _GivenUp as error:
                server.failed = server.failed or error.seen
                todo.appendleft((job, future))
            except Exception as error:  # noqa: BLE001  whatever it is, it is raised where the result is wanted
                future.set_exception(error)

    async def _tried(self, server: Server, job: Job[T]) -> T:
        """Does a job, again after each failure.

        Raises:
            _GivenUp: it failed as often as is allowed, or the server is given up.
        """
        for attempt in range(self._asked.retries + 1):
            try:
                return await job(server)
            except Failure as error:
                failure, attempts = error, attempt + 1
            if attempt < self._asked.retries:
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1)
                if failure.wait is not None:
                    wait = max(wait, min(failure.wait, self._asked.request_timeout))
                await asyncio.sleep(wait)
                if server.failed is not None:
                    break
        if isinstance(failure, UnprovedError) and server.failed is None:
            raise ServerError(f"{failure} ({attempts} attempts)", server.name)
        raise _GivenUp(server, f"{failure} ({attempts} attempts)")


class _GivenUp(Exception):
    """A server that failed too often."""

    def __init__(self, server: Server, seen: str) -> None:
        self.seen = seen
        super().__init__(f"{server.name}: {seen}")


def _authorization() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError("has characters that no key has", "OPENAI_API_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def _serve(loop: asyncio.AbstractEventLoop, client: httpx2.AsyncClient) -> None:
    """Runs the loop until it is stopped; then ends all requests and the connections."""

    async def ended() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await client.aclose()

    loop.run_forever()
    loop.run_until_complete(ended())
    loop.close()
