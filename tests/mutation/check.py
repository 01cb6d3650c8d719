"""The mutation campaign: every mutant of the mathematics is killed, or listed as equivalent in docs/mutation.md.

`make mutate` runs it. mutmut makes the mutants and forks one process for each after the tests are loaded; what
is added here is one more kind of mutant (a method called without arguments is not called: a stop-gradient, a square),
the import hook of the test suite (jaxtyping's pytest option cannot be given twice in one process), a control run
without any mutant for each function, and the comparison of the survivors with the list.
"""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # autograd starts no threads without a GPU, and processes may fork

import re
import shutil
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import libcst as cst

LIST = Path("docs/mutation.md")
Change = tuple[str, str, str]  # (function, line as it is, line as mutated)


def listed() -> Counter[Change]:
    """The changes in the list's ```diff blocks: `# function`, then pairs of - and + lines."""
    changes: Counter[Change] = Counter()
    for block in re.findall(r"^```diff\n(.*?)^```", LIST.read_text(), re.M | re.S):
        function = before = ""
        for line in block.splitlines():
            if line.startswith("# "):
                function = line[2:].strip()
            elif line.startswith("-"):
                before = line[1:].strip()
            elif line.startswith("+"):
                changes[function, before, line[1:].strip()] += 1
    return changes


def change(mutant: str, diff: str) -> Change:
    """A mutant as it is listed: numbers of mutants move with the code, its lines do not."""
    lines = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("---", "+++")]
    before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    module, _, mangled = mutant.rpartition("__mutmut_")[0].rpartition(".")  # x_function, xǁClassǁmethod
    return f"{module}.{mangled[2:].replace('ǁ', '.')}", before, after


def without_call(node: cst.Call) -> Iterator[cst.BaseExpression]:
    """`x` for `x.f()`."""
    if not node.args and isinstance(node.func, cst.Attribute):
        yield node.func.value


def main() -> int:
    shutil.rmtree("mutants", ignore_errors=True)
    addopts = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    *packages, checker = re.search(r"--jaxtyping-packages=(\S+)", addopts)[1].split(",")
    jaxtyping.install_import_hook(packages, checker)

    from mutmut.__main__ import cli, collect_source_file_mutation_data
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.mutation.mutators import mutation_operators
    from mutmut.state import state
    from mutmut.stats import status_by_exit_code
    from mutmut.workers.isolation import get_mutant_runner

    mutation_operators.append((cst.Call, without_call))
    started = time.monotonic()
    cli(["run", "--max-children", "1"], standalone_mode=False)

    runner = get_mutant_runner(1)
    for function, tests in state().tests_by_mangled_function_name.items():
        runner.submit(f"{function}__mutmut_0", sorted(tests), cpu_time_limit=600, estimated_time=60)
        if runner.wait_for_result().exit_code != 0:
            print(f"{function}: its tests fail where nothing is mutated, so its mutants tell nothing")
            return 1

    mutants, _ = collect_source_file_mutation_data(mutant_names=())
    count = Counter(status_by_exit_code[code] for _, _, code in mutants)
    found: Counter[Change] = Counter()
    for data, name, code in mutants:
        if status_by_exit_code[code] not in ("killed", "timeout"):
            found[change(name, get_diff_for_mutant(name, path=data.path))] += 1
    print(f"{len(mutants)} mutants in {time.monotonic() - started:.0f} s: {dict(count)}")
    equivalent = listed()
    for title, changes in (("not listed", found - equivalent), ("listed, but killed", equivalent - found)):
        for function, before, after in sorted(changes.elements()):
            print(f"{title}\n# {function}\n-{before}\n+{after}")
    return 0 if found == equivalent else 1


if __name__ == "__main__":
    sys.exit(main())
