"""The process that compares answers: `python -m stepcredit.grading.worker`. One JSON object a line, in and out.

Two processes: a *keeper* reads requests and passes them to a *worker*, its fork, which has math-verify loaded
and does the work. The kernel ends a worker that spends more processor time than the request allows (a profiling
timer, whose signal no Python code can hold up), the keeper one that spends too much time on the clock, and a
limit on its memory turns too much of that into an error. A new fork takes the place of an ended one within
milliseconds. When the keeper's input closes, both end.

    in:  {"gold": "\\frac{1}{2}", "answer": "0.5", "seconds": 1.0}
    out: {"equal": true, "spent": 0.013}       or       {"equal": null, "reason": "…", "spent": 1.0}

Other modules serve requests of their own in the same way (`serve`): only the seconds and the reason are common to all.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

MEMORY = 800 * 2**20
"""Bytes of address space of a worker."""
CLOCK = 4.0
"""A worker that other processes starve may take this many times its processor time on the clock."""
ANSWERS = 2_000
"""A worker makes way for a fresh fork after so many answers, because sympy's caches grow."""

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""Request → reply; a reply with a `reason` ends the worker."""


class Keeper:
    """Holds one worker and replaces it whenever it ends.

    Args:
        answer: what the worker does with a request.
        memory: bytes of its address space.
    """

    def __init__(self, answer: Answer, memory: int) -> None:
        self._answer, self._memory = answer, memory
        self._pid: int | None = None
        self._to = self._from = -1
        self._buffer = b""
        self._answered = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply, or why there is none."""
        if self._pid is None:
            self._fork()
        start, limit = time.monotonic(), float(request["seconds"])
        try:
            os.write(self._to, json.dumps(request).encode() + b"\n")
            reply = self._read(start + CLOCK * limit)
        except (BrokenPipeError, EOFError, TimeoutError):
            return {"equal": None, "reason": self.end(), "spent": min(limit, time.monotonic() - start)}
        found: dict[str, Any] = json.loads(reply)
        self._answered += 1
        if found.get("reason") or self._answered >= ANSWERS:
            self.end()
        return found

    def end(self) -> str:
        """End the worker, and say what it died of if it had ended by itself."""
        if self._pid is None:
            return ""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            time.sleep(0.002)  # its pipe closes a moment before it can be waited for
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            os.kill(self._pid, signal.SIGKILL)
            _, status = os.waitpid(self._pid, 0)
        os.close(self._to)
        os.close(self._from)
        self._pid, self._buffer, self._answered = None, b"", 0
        slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGKILL)
        return "took too long" if slow else "the comparison failed"

    def _read(self, deadline: float) -> bytes:
        """One line.

        Raises:
            TimeoutError: the time is over.
            EOFError: the worker has ended.
        """
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            chunk = os.read(self._from, 65536)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _fork(self) -> None:
        down_read, down_write = os.pipe()
        up_read, up_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(down_write)
            os.close(up_read)
            _work(self._answer, self._memory, down_read, up_write)
            os._exit(0)
        os.close(down_read)
        os.close(up_write)
        self._pid, self._to, self._from = pid, down_write, up_read


def _work(answer: Answer, memory: int, requests: int, replies: int) -> None:
    """Answers requests until the end of the input."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])
            reply = answer(request)
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(replies, json.dumps(reply).encode() + b"\n")


def _compare(request: dict[str, Any]) -> dict[str, Any]:
    from stepcredit.grading.symbolic import equivalent

    start = time.process_time()
    reason = ""
    equal = None
    try:
        equal = equivalent(request["gold"], request["answer"])
    except MemoryError:
        reason = "needs too much memory"
    except RecursionError:
        reason = "nested too deeply"
    return {"equal": equal, "reason": reason, "spent": time.process_time() - start}


def serve(answer: Answer, memory: int) -> int:
    """Answers the requests on standard input, each in a worker that may be ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keeper = Keeper(answer, memory)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(keeper.ask(json.loads(line))), flush=True)
    keeper.end()
    return 0


def main() -> int:
    """Compares answers."""
    from stepcredit.grading import symbolic  # noqa: F401  loaded once, before the first fork

    return serve(_compare, MEMORY)


if __name__ == "__main__":
    sys.exit(main())
