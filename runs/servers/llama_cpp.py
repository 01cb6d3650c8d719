"""llama.cpp's server as `make llama-server` builds it, and `transformers serve`: started, awaited and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("STEPCREDIT_ASSETS") or "~/.cache/stepcredit").expanduser()
BINARY = CACHE / "llama-server" / "llama-server"
GGUF = CACHE / "smollm2-gguf" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextmanager
def llama_server(*, slots: int = 4, context: int = 1024, threads: int = 1, alias: str = "smollm2") -> Iterator[str]:
    """The address of a server of SmolLM2, with `slots` requests at a time of `context` tokens each."""
    sizes = ["--parallel", slots, "--ctx-size", slots * context, "--threads", threads, "--threads-batch", threads]
    about = ["--model", GGUF, "--alias", alias, *sizes, "--cache-ram", 0, "--no-webui"]
    with started([str(BINARY), *map(str, about)]) as url:
        yield url


@contextmanager
def started(command: Sequence[str], seconds: float = 120, **environment: str) -> Iterator[str]:
    """The address of a server, once it is healthy; `--host` and `--port` are appended to its command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        end = time.monotonic() + seconds
        while not _healthy(url):
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{command[0]} did not start (exit code {process.poll()})")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
