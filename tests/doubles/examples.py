"""The example of a docstring as a file, and a copy of the package to which something is added."""

import filecmp
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import stepcredit

PACKAGE = Path(stepcredit.__file__).parent


def example_of(kind):
    """The indented block of a class's docstring, as source."""
    text = inspect.getdoc(kind)
    (block,) = re.findall(r":\n\n((?:(?:    .*)?\n)+)", text)
    return textwrap.dedent(block).strip() + "\n"


class Copy:
    """A copy of the package, as somebody who adds to it would have one."""

    def __init__(self, folder):
        self.source = folder / "src" / "stepcredit"
        shutil.copytree(PACKAGE, self.source, ignore=shutil.ignore_patterns("__pycache__"))

    def append(self, name, text):
        with (self.source / name).open("a") as file:
            file.write(text)

    def changed(self):
        """The files that differ from the package's."""

        def of(pair, folder):
            here = [*pair.left_only, *pair.right_only, *pair.diff_files]
            yield from (folder + name for name in here if name != "__pycache__")
            for name, below in pair.subdirs.items():
                yield from of(below, f"{folder}{name}/")

        return sorted(of(filecmp.dircmp(PACKAGE, self.source), ""))

    def run(self, code, *arguments):
        """A Python program on the copy; returns what it printed."""
        environment = {**os.environ, "PYTHONPATH": str(self.source.parent), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=environment,
            check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout
