"""Another process that holds a folder."""

import subprocess
import sys
from contextlib import contextmanager

HOLD = """
import sys
from stepcredit.files import locked
with locked(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(folder, doing="stepcredit collect"):
    """A process that holds a folder until its input is closed, or to the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), doing], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(20)
