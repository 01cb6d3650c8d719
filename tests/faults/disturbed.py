"""Commands that are disturbed at random: killed, told to end, on a full disk, two at once.

    python tests/faults/disturbed.py [--kills 100] [--signals 30] [--full 10] [--disk 12] [--only train] [--table PAGE]

Every command first runs undisturbed. A case disturbs it, and then calls it again until it ends by itself. It holds if
the result is the undisturbed one, byte for byte (times, and pages with times, aside), no call shows a traceback or ends
in an unexpected way, no process is left, and no temporary file. What is found is kept in `build/disturbed/`, one file
per case, so that an interrupted campaign goes on; changed sources begin a new one. Exit code 1 where a case does not
hold.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
SOURCES = TESTS.parent / "src"
sys.path[:0] = [str(TESTS)]

from faults.run import warm, write_between  # noqa: E402

MARK = "STEPCREDIT_DISTURBED"
"""Variable in the environment of all processes of a call, by which those left over are found."""
BLOCK = 4096
"""Bytes of a block of a disk."""
BEGIN, END = "<!-- disturbed -->", "<!-- end of disturbed -->"
SECONDS = 900.0
LEFT_SECONDS = 15.0
_TIMED = {"seconds", "timings.json", "report.html", "training_args.json", ".lock", ".lock.json", "cost.svg"}

_TINY = "--use_cpu true --report_to none --per_device_train_batch_size 4 --logging_steps 3 --warmup_steps 0"
_ROUND = (
    '{"oreo": {"max_steps": 3, "use_cpu": true, "save_strategy": "steps", "save_steps": 1, "report_to": "none", '
    '"truncated": "zero"}}'
)
_COLLECT = "collect --max_new_tokens 12 --batch_size 8 --output_dir out --task arithmetic --model policy --limit 60"
_SAMPLED = "--search sample --num_generations 4 --batch_size 8"
COMMANDS: dict[str, list[str]] = {
    "import": ["import", "many.jsonl", "--output_dir", "out"],
    "collect": f"{_COLLECT} --num_generations 8".split(),
    "collect --balanced": f"{_COLLECT} --num_generations 8 --balanced 1".split(),
    "collect, from a server": f"{_COLLECT} --num_generations 4 --engine openai --concurrency 4".split(),
    "collect, in environments": [
        "collect",
        "--task",
        "fetch",
        "--model",
        "player",
        "--limit",
        "12",
        "--num_generations",
        "4",
        "--max_turns",
        "4",
        "--max_new_tokens",
        "8",
        "--workers",
        "2",
        "--batch_size",
        "4",
        "--output_dir",
        "out",
    ],
    "generate": (
        f"generate asked.txt --model policy --value_model value {_SAMPLED} --max_new_tokens 12 "
        "--output out/answers.jsonl"
    ).split(),
    "grade": ["grade", "graded.jsonl", "--output", "out/graded.jsonl"],
    "train": (
        f"train --method oreo --model policy --episodes episodes --max_steps 10 --save_strategy steps --save_steps 1 "
        f"--save_total_limit 2 {_TINY} --output_dir out"
    ).split(),
    "evaluate": (
        f"evaluate --task arithmetic --model policy --value_model value --limit 60 {_SAMPLED} --max_new_tokens 8 "
        "--output_dir out"
    ).split(),
    "compare --jobs 2": [
        "compare",
        "--jobs",
        "2",
        "--task",
        "arithmetic",
        "--model",
        "policy",
        "--episodes",
        "episodes",
        "--methods",
        "rft",
        "oreo",
        "--seeds",
        "0",
        "--learning_rates",
        "1e-3",
        "--steps",
        "6",
        "--validation_prompts",
        "2",
        "--test_prompts",
        "2",
        "--searches",
        "greedy",
        "--output_dir",
        "out",
    ],
    "iterate": [
        *[
            "iterate",
            "--task",
            "arithmetic",
            "--method",
            "oreo",
            "--model",
            "policy",
            "--rounds",
            "2",
            "--limit",
            "6",
            "--num_generations",
            "4",
        ],
        *[
            "--max_new_tokens",
            "8",
            "--validation_prompts",
            "4",
            "--test_prompts",
            "4",
            "--batch_size",
            "4",
            "--output_dir",
            "out",
        ],
        *("--settings", _ROUND),
    ],
}
"""Commands to disturb, run in a folder of the materials; they write to `out`."""
SERVED = "collect, from a server"
ONCE = ("import", "grade", "generate")
"""Commands that refuse to be called again when they have ended."""
OFTEN = {"train": 4, "collect": 3, "collect --balanced": 2, "evaluate": 2, "compare --jobs 2": 1}
"""How often a command is drawn, if not twice."""
MOMENTS = ("checkpoint-*", "checkpoint-*/optimizer.pt", "checkpoint-*/rng_state.pth", ".policy.*", "policy", ".value.*",
           "curves.json")  # fmt: skip
"""Names in `out` that begin a checkpoint write or the last save; half of the kills of training aim at these moments."""


@dataclass(frozen=True)
class Call:
    """How a call ended: exit code, standard error, seconds, and the processes that were left."""

    code: int
    err: str
    seconds: float
    left: list[int]


def call(
    command: list[str], here: Path, disturb: Callable[[int], None] | None = None, limit: int | None = None
) -> Call:
    """Runs a command in a fork of this process.

    Args:
        command: arguments of `stepcredit`.
        here: where it runs.
        disturb: gets its process id, once it has started.
        limit: bytes that a file may have, as on a full disk.
    """
    mark, err, start = f"{os.getpid()}-{time.monotonic_ns()}", here.parent / "err.txt", time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: an interrupted campaign leaves nothing
            os.chdir(here)
            for number, name in ((1, "/dev/null"), (2, "../err.txt")):  # beside the folder, whose disk may be full
                os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
            os.environ[MARK] = mark
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # as `stepcredit.cli.console` does
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            from stepcredit.cli import main

            code = main(command)
            sys.stdout.flush()
            sys.stderr.flush()
            import atexit

            atexit._run_exitfuncs()  # the grader's workers
            os._exit(code)
        except BaseException as error:
            os.write(2, f"Traceback of the campaign: {error!r}".encode())
        finally:
            os._exit(99)
    if disturb is not None:
        disturb(child)
    code = waited(child, start + SECONDS)
    seconds = time.monotonic() - start
    end = time.monotonic() + LEFT_SECONDS
    while (left := processes(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return Call(code, err.read_text(errors="replace"), seconds, left)


def waited(child: int, until: float) -> int:
    """The exit code of a child; 98 where it does not end."""
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 98


def processes(mark: str) -> list[int]:
    """Processes that were started by a call."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:
            continue
    return found


def contents(folder: Path) -> dict[str, str]:
    """What a command has written: a digest per file, of JSON without times; of training no checkpoints."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name not in _TIMED and "checkpoint-" not in name and ".lock" not in name:
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(untimed(json.loads(data)), sort_keys=True).encode()
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def untimed(value: Any) -> Any:
    """JSON without its times, and without the hashes of files that have some."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in _TIMED}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def temporary(folder: Path) -> list[str]:
    """Files that a finished command should not leave."""
    return [
        str(path.relative_to(folder))
        for path in folder.parent.rglob("*")
        if path.name.startswith(".") or path.name.endswith((".part", ".partial", ".draft"))
    ]


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A disk in memory of so many bytes at an empty folder; only root may have one."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Case:
    """One command that is disturbed in one way, in a fresh folder."""

    def __init__(self, command: str, kind: str, number: int, whole: dict[str, Any], folder: Path) -> None:
        self.command, self.kind, self.whole = command, kind, whole
        self.draw = random.Random(f"{command} {kind} {number}")
        self.here, self.problems, self.count = folder, [], 0

    def run(self, times: int) -> dict[str, Any]:
        """Disturbs it so often, unless it ends before, and lets it end; returns what was found."""
        while self.count < times and not getattr(self, f"_{self.kind}")():
            self.count += 1
        self._end()
        return {"command": self.command, "kind": self.kind, "disturbed": self.count, "problems": self.problems}

    def _is_done(self) -> bool:
        """Whether the output is there, beside what a kill may have left: a command that runs once refuses it."""
        return self.command in ONCE and self.whole["contents"].items() <= contents(self.here / "out").items()

    def _call(self, expected: set[int], disturb: Any = None, limit: int | None = None) -> Call:
        expected = expected | {2} if self._is_done() else expected
        done = call(COMMANDS[self.command], self.here, disturb, limit)
        if "Traceback" in done.err:
            self.problems.append(f"traceback: {done.err[-1500:]}")
        if done.code not in expected:
            self.problems.append(f"exit code {done.code}: {done.err[-400:]}")
        if done.left:
            self.problems.append(f"{len(done.left)} processes were left")
        return done

    def _after(self) -> float:
        """A random moment of an undisturbed run."""
        return self.draw.uniform(0.02, 0.7 * float(self.whole["seconds"]))

    def _kill(self) -> bool:
        after, moment = self._after(), self.draw.choice(MOMENTS)
        aims = self.command == "train" and self.draw.random() < 0.5
        there = set((self.here / "out").glob(moment)) if aims else set()
        skip, delay = self.draw.randrange(5), self.draw.choice([0, 0.001, 0.003, 0.01])

        def disturb(child: int) -> None:
            start, new = time.monotonic(), set()
            while time.monotonic() - start < after if not aims else len(new) <= skip:
                if aims:
                    new |= set((self.here / "out").glob(moment)) - there
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    return
                time.sleep(0.0005)
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)

        return self._call({0, -signal.SIGKILL}, disturb).code in (0, 2)

    def _signal(self) -> bool:
        number = self.draw.choice([signal.SIGTERM, signal.SIGINT])
        after, again = max(0.2, self._after()), self.draw.random() < 0.3

        def disturb(child: int) -> None:
            time.sleep(after)
            os.kill(child, number)
            if again:
                time.sleep(0.05)
                os.kill(child, number)

        done = self._call({0, 128 + number, -number}, disturb)
        if (
            done.code == -number
            and not again
            and not self.whole["contents"].keys() <= contents(self.here / "out").keys()
        ):
            self.problems.append(f"{number} ended it without a word, before it had ended")
        return done.code == 0

    def _full(self) -> bool:
        limit = self.draw.randrange(1, max(2, int(self.whole["largest"])))
        return self._is_refused(self._call({0, 2}, limit=limit), f"{limit} bytes a file")

    def _disk(self) -> bool:
        """On a disk that its materials fill but for a part of what the command writes."""
        room = self.draw.uniform(0.05, 1.0) * float(self.whole["total"])
        size = sum(1 + path.stat().st_size // BLOCK for path in self.here.rglob("*")) * BLOCK + int(room)
        inputs = self.here.with_name("inputs")
        self.here.rename(inputs)
        self.here.mkdir()
        with mounted(self.here, size):
            shutil.copytree(inputs, self.here, dirs_exist_ok=True)
            ended = self._is_refused(self._call({0, 2}), f"a disk with room for {room:.0f} bytes")
            subprocess.run(["mount", "-o", f"remount,size={2**30}", str(self.here)], check=True)
            self._end()
            shutil.copytree(self.here, inputs, dirs_exist_ok=True)
        shutil.rmtree(self.here)
        inputs.rename(self.here)
        return ended

    def _is_refused(self, done: Call, what: str) -> bool:
        """Whether a call has ended by itself; otherwise it says in one line that something cannot be written."""
        lines = [line for line in done.err.splitlines() if line.startswith("stepcredit: ")]
        if done.code == 2 and (len(lines) != 1 or "cannot be written" not in lines[0]):
            self.problems.append(f"{what}: {done.err[-600:]}")
        return done.code == 0

    def _two(self) -> bool:
        """A second call while the first one runs: refused by name, or after it has ended."""
        after, second = self._after() / 2, self.here / "second.txt"

        def disturb(child: int) -> None:
            time.sleep(after)
            code = [sys.executable, "-m", "stepcredit.cli", *COMMANDS[self.command]]
            path = os.pathsep.join([str(SOURCES), str(TESTS)])
            with second.open("w") as file:
                ended = subprocess.run(code, cwd=self.here, stderr=file, stdout=file, check=False, env={
                    **os.environ, "PYTHONPATH": path}).returncode  # fmt: skip
            said = second.read_text()
            words = (
                "is being written by",
                "is writing this file",
                "is not empty",
                "is there already",
                "exists already",
                "cannot be written",
            )
            if ended not in (0, 2) or "Traceback" in said or (ended == 2 and not any(w in said for w in words)):
                self.problems.append(f"the second: exit code {ended}: {said[-600:]}")
            second.unlink()

        # where the first has ended when the second has loaded, the second may find nothing to do, or have done it
        self._call({0, 2}, disturb)
        return False

    def _end(self) -> None:
        """Calls it again until it ends, and compares."""
        out = self.here / "out"
        if self.command not in ONCE or contents(out) != self.whole["contents"]:
            self._call({0})
        found = contents(out)
        differ = sorted(
            k for k in found.keys() | self.whole["contents"].keys() if found.get(k) != self.whole["contents"].get(k)
        )
        if differ:
            self.problems.append(f"differs from an undisturbed one: {', '.join(differ[:5])}")
        if hidden := temporary(out):
            self.problems.append(f"left: {', '.join(hidden[:5])}")


def materials(folder: Path) -> None:
    """Makes what the commands read, once."""
    made = subprocess.run(
        [sys.executable, "-m", "faults.materials", str(folder)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(TESTS)])},
    )  # fmt: skip
    if made.returncode:
        raise SystemExit(f"the materials cannot be made: {made.stderr[-2000:]}")
    for name in ("trained", "collected", "results", "comparison", "rounds", "reward"):
        shutil.rmtree(folder / name)
    rows = [{"prompt": f"{k}+1=", "completion": f"{k + 1}\n" * 20, "reward": k % 2} for k in range(4000)]
    (folder / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "asked.txt").write_text("".join(f"{k % 10} + {k // 10} =\n" for k in range(60)))
    algebra = {"response": "so \\boxed{x^2 + 3/2}", "answer": "\\boxed{1.5 + x^2}"}
    plain = [{"response": f"so \\boxed{{{k}}}", "answer": f"\\boxed{{{k + k % 2}}}"} for k in range(1500)]
    rows = [{**(algebra if k % 50 == 0 else row), "id": k} for k, row in enumerate(plain)]
    (folder / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
    from stepcredit.tasks.fetch import Fetch

    tokenizer = Fetch().tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 2, 2), seed=0).save_pretrained(folder / "player")
    tokenizer.save_pretrained(folder / "player")


@contextmanager
def served(policy: Path) -> Iterator[str]:
    """The address of a stand-in for a server of the policy, in a process of its own."""
    command = [sys.executable, "-m", "faults.stand_in", str(policy)]
    path = os.pathsep.join([str(SOURCES), str(TESTS)])
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            assert url, "the server has not started"
            yield url
        finally:
            server.terminate()


def undisturbed(command: str, inputs: Path, folder: Path) -> dict[str, Any]:
    """Runs a command by itself: its files, its seconds, the size of its largest file."""
    shutil.copytree(inputs, folder)
    call(COMMANDS[command], folder)  # what it loads and compiles the first time
    shutil.rmtree(folder / "out", ignore_errors=True)
    done = call(COMMANDS[command], folder)
    if done.code or done.left:
        raise SystemExit(f"{command}: exit code {done.code}, {len(done.left)} processes left: {done.err[-2000:]}")
    sizes = [path.stat().st_size for path in (folder / "out").rglob("*") if path.is_file()]
    found = {"seconds": done.seconds, "largest": max(sizes), "total": sum(sizes), "contents": contents(folder / "out")}
    shutil.rmtree(folder)
    return found


TIMES = {"kill": 4, "signal": 2, "full": 1, "disk": 1, "two": 1}
"""How often a case of each kind is disturbed at most."""


def cases(kind: str, total: int, commands: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Runs cases of a kind until they have been disturbed so often in all; those that are there already are read."""
    turns = [name for name in commands for _ in range(1 if kind == "two" else OFTEN.get(name, 2))]
    random.Random(kind).shuffle(turns)
    done = number = 0
    while done < total and number < 10 * total + 10:
        command = turns[number % len(turns)]
        file = folder / "cases" / f"{kind}-{number}.json"
        if not file.exists():
            whole = folder / "whole" / f"{command}.json"
            if not whole.exists():
                shutil.rmtree(folder / "run", ignore_errors=True)
                whole.write_text(json.dumps(undisturbed(command, folder / "materials", folder / "run")))
            shutil.rmtree(folder / "run", ignore_errors=True)
            shutil.copytree(folder / "materials", folder / "run")
            case = Case(command, kind, number, json.loads(whole.read_text()), folder / "run")
            found = case.run(min(TIMES[kind], total - done))
            file.write_text(json.dumps(found, indent=1))
            said = "; ".join(found["problems"]) or "held"
            print(f"{kind} {number}, {command}: {found['disturbed']} times, {said}", flush=True)
        found = json.loads(file.read_text())
        yield found
        done, number = done + found["disturbed"], number + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=30)
    parser.add_argument("--full", type=int, default=10)
    parser.add_argument("--disk", type=int, default=12, help="small disks; without root there are none")
    parser.add_argument("--two", type=int, default=len(COMMANDS))
    parser.add_argument("--only", help="commands whose name contains this")
    parser.add_argument("--table", type=Path, help="the page whose table is written anew")
    parser.add_argument("--folder", type=Path, default=TESTS.parent / "build" / "disturbed")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    folder = begun(args.folder.resolve())
    warm()
    commands = [name for name in COMMANDS if args.only is None or args.only in name]
    kinds = {"kill": args.kills, "signal": args.signals, "full": args.full, "two": args.two}
    if os.geteuid() == 0:
        kinds["disk"] = args.disk
    with served(folder / "materials" / "policy") as url:
        COMMANDS[SERVED] += ["--base_url", url]
        results = [found for kind, total in kinds.items() for found in cases(kind, total, commands, folder)]
    broken = [found for found in results if found["problems"]]
    print(
        f"{len(results)} cases, {sum(r['disturbed'] for r in results)} disturbances, {len(results) - len(broken)} held"
    )
    if args.table:
        write_between(args.table, BEGIN, END, table(results))
    return 1 if broken else 0


def begun(folder: Path) -> Path:
    """The folder of the campaign of these sources, with the materials."""
    files = [*sorted(SOURCES.rglob("*.py")), Path(__file__)]
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    about = folder / "sources.txt"
    if not about.exists() or about.read_text() != sources:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "cases").mkdir(parents=True)
        (folder / "whole").mkdir()
        materials(folder / "materials")
        about.write_text(sources)
    return folder


def table(results: list[dict[str, Any]]) -> str:
    """Disturbances per command and kind, and how many cases held."""
    kinds = {
        "kill": "SIGKILL",
        "signal": "SIGTERM, SIGINT",
        "full": "limit of a file",
        "disk": "small disk",
        "two": "two at once",
    }
    lines = [f"| command | {' | '.join(kinds.values())} | cases | held |", "| --- |" + " ---: |" * (len(kinds) + 2)]
    for command in [*(c for c in COMMANDS if any(r["command"] == c for r in results)), "all"]:
        rows = [r for r in results if command in ("all", r["command"])]
        counts = [sum(r["disturbed"] for r in rows if r["kind"] == kind) for kind in kinds]
        held = sum(not r["problems"] for r in rows)
        lines.append(f"| {command} | {' | '.join(map(str, counts))} | {len(rows)} | {held} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
