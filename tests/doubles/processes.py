"""Runs of two processes on CPUs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def in_two_processes(script, *arguments, seconds=240, **variables):
    """Runs a script in two processes of one run; their printed lines, if both end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(TESTS), str(script.parent), os.environ.get("PYTHONPATH", "")])
    shared = {**os.environ, "PYTHONPATH": path, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
              "OMP_NUM_THREADS": "1", **variables}  # fmt: skip
    runs = [
        subprocess.Popen([sys.executable, str(script), *map(str, arguments)], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [run.communicate(timeout=seconds)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], "\n".join(said)[-4000:]
    return said
