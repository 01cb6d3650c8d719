"""Try every malformed input: python tests/faults/run.py [--only WORD] [--table docs/reliability.md] [--show]

Each case runs in a process of its own, in a fresh copy of the materials. It holds if the command ends with exit code 2
within ten seconds, says one line that begins with `stepcredit: error:` and contains what the case asks for, shows no
traceback, and leaves the folder as it was. Exit code 1 where a case does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS)]

from faults.case import Case  # noqa: E402
from faults.cases import all_cases  # noqa: E402

SECONDS = 10.0
BEGIN, END = "<!-- malformed input -->", "<!-- end -->"


def tree(folder: Path) -> dict[str, str]:
    """What is in a folder: a digest of each file, the target of each link."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            seen[str(path)] = os.readlink(path)
        elif path.is_file():
            seen[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            seen[str(path)] = "folder"
    return seen


def tried(case: Case, materials: Path, scratch: Path) -> tuple[list[str], str]:
    """(what does not hold of a case, nothing where it holds; what it wrote on standard error)."""
    here = scratch / "case"
    shutil.copytree(materials, here, symlinks=True)
    try:
        if case.damage is not None:
            case.damage(here)
        before = tree(here)
        code, out, err, _ = run(case, here)
        return problems(case, code, out, err, before, tree(here)), err
    finally:
        shutil.rmtree(here)


def run(case: Case, here: Path) -> tuple[int, str, str, float]:
    """(exit code, output, errors, seconds) of a case, in a fork of this process."""
    pipes = [os.pipe(), os.pipe()]
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.chdir(here)
            for number, (_, end) in enumerate(pipes, 1):
                os.dup2(end, number)
            if case.file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (case.file_limit, case.file_limit))
            os._exit(outcome(case))
        finally:
            os._exit(99)
    for _, end in pipes:
        os.close(end)
    with ThreadPoolExecutor(2) as readers:
        texts = [readers.submit(read_all, end) for end, _ in pipes]
        code = None
        while code is None and time.monotonic() - start < SECONDS:
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            time.sleep(0 if ended else 0.01)
        if code is None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            code = -1
        seconds = time.monotonic() - start
        out, err = (text.result() for text in texts)
    return code, out, err, seconds


def read_all(end: int) -> str:
    """All that comes out of a pipe."""
    with os.fdopen(end, "rb") as file:
        return file.read().decode(errors="replace")


def outcome(case: Case) -> int:
    """The exit code of the command; of a call in Python that of the same error."""
    import traceback

    from stepcredit.cli import main
    from stepcredit.errors import InputError, one_line

    try:
        if case.call is None:
            return main(list(case.command))
        case.call()
    except InputError as error:
        sys.stderr.write(f"stepcredit: error: {one_line(error)}\n")
        return 2
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def problems(case: Case, code: int, out: str, err: str, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is wrong with how a case ended."""
    found = []
    if code != 2:
        found.append("took more than ten seconds" if code == -1 else f"exit code {code}")
    if "Traceback" in err or "Traceback" in out:
        found.append("traceback: " + next((x for x in reversed(err.splitlines()) if x.strip()), "")[:150])
    lines = err.splitlines()
    if len(lines) != 1 or not lines[0].startswith("stepcredit: error: "):
        found.append(f"{len(lines)} lines: {err.strip()[:200]!r}")
    found += [f"does not say {text!r}: {err.strip()[:200]!r}" for text in case.says if text not in err]
    if re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", out + err):
        found.append("raw control characters")
    if len(err) > 1000:
        found.append(f"{len(err)} characters")
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    changed = [k for k in changed if Path(k).name not in case.leaves]
    if changed:
        found.append("left behind: " + ", ".join(Path(name).name for name in changed[:4]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="cases whose kind or name contains this")
    parser.add_argument("--table", type=Path, help="the page whose table is written anew")
    parser.add_argument("--show", action="store_true", help="show the line of every case")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    cases = [case for case in all_cases() if args.only is None or args.only in f"{case.kind}: {case.name}"]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        materials = scratch / "materials"
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "faults.materials", str(materials)]
        made = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        if made.returncode:
            raise SystemExit(f"the materials cannot be made: {made.stderr[-2000:]}")
        warm()
        counts: dict[str, list[int]] = {}
        for case in cases:
            failed, err = tried(case, materials, scratch)
            count = counts.setdefault(case.kind, [0, 0])
            count[0] += 1
            count[1] += not failed
            if failed:
                print(f"{case.kind}: {case.name}\n    " + "\n    ".join(failed), flush=True)
            elif args.show:
                print(f"{case.kind}: {case.name}\n    {err.strip()[:300]}", flush=True)
    total, held = (sum(count[k] for count in counts.values()) for k in (0, 1))
    print(f"{total} malformed inputs, {held} held")
    if args.table:
        write_table(args.table, counts)
    return 0 if held == total else 1


def warm() -> None:
    """Load what the commands load, once, so that each case's own seconds are the command's."""
    import torch

    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    import stepcredit.evaluation.evaluate
    import stepcredit.experiments.compare
    import stepcredit.experiments.iteration.iterate
    import stepcredit.experiments.quickstart
    import stepcredit.experiments.reproduce
    import stepcredit.logs.grade_logs
    import stepcredit.rollouts.collect
    import stepcredit.training.train  # noqa: F401


def write_table(page: Path, counts: dict[str, Sequence[int]]) -> None:
    """The table of kinds into the page, between its marks."""
    rows = [f"| {kind} | {count[0]} | {count[1]} |" for kind, count in sorted(counts.items())]
    total = [sum(count[k] for count in counts.values()) for k in (0, 1)]
    table = ["| kind | tried | held |", "| --- | ---: | ---: |", *rows, f"| all | {total[0]} | {total[1]} |"]
    write_between(page, BEGIN, END, "\n".join(table))


def write_between(page: Path, begin: str, end: str, table: str) -> None:
    """A table into a page, between two marks."""
    text = page.read_text(encoding="utf-8")
    start, stop = text.index(begin) + len(begin), text.index(end, text.index(begin))
    page.write_text(f"{text[:start]}\n\n{table}\n\n{text[stop:]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
