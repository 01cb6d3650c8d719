"""Ctrl-C and SIGTERM: a command ends with its workers, and goes on later."""

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

from doubles.models import tiny_llama
from stepcredit import cli
from stepcredit.cli import Terminated, _ended_by_signals
from stepcredit.rollouts.work_units import PARTS
from stepcredit.tasks.fetch import Fetch


@pytest.fixture(autouse=True)
def interruptible():
    """A suite that runs in the background of a shell ignores SIGINT, and so would the commands that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def children(pid):
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found


def wait_for(holds, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for child processes in /proc")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_collection_ends_with_its_workers(number, code, word, tmp_path):
    task = Fetch()
    tokenizer = task.tokenizer()
    tokenizer.save_pretrained(tmp_path / "policy")
    tiny_llama(vocab_size=len(tokenizer) + 300).save_pretrained(tmp_path / "policy")
    flags = ["--limit", "400", "--num_generations", "16", "--max_turns", "30", "--workers", "2", "--batch_size", "8"]
    command = [sys.executable, "-m", "stepcredit.cli", "collect", "--task", "fetch", *flags]
    command += ["--model", str(tmp_path / "policy"), "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        assert wait_for(lambda: len(children(running.pid)) >= 2)
        family = children(running.pid)
        time.sleep(0.5)
        running.send_signal(number)
        err = running.communicate(timeout=60)[1]
    assert (running.returncode, err.splitlines()[-1]) == (code, f"stepcredit: {word}")
    assert "Traceback" not in err
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family), 10)
    left = {path.name for path in (tmp_path / "out").iterdir()} if (tmp_path / "out").exists() else set()
    assert not any(name.startswith(".") and name != PARTS for name in left), left


@pytest.mark.parametrize(("interrupt", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_second_interrupt_while_the_first_is_told_ends_the_process(interrupt, code, monkeypatch):
    def interrupted():
        raise interrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.console()
    assert ended.value.code == code


def test_an_interrupt_while_the_process_ends_is_no_traceback():
    code = (
        "import atexit, os, signal, sys\n"
        "from stepcredit import cli\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['stepcredit', '--version']\n"
        "cli.console()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("dropped", ["destructor", "callback of a weak reference"])
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_where_python_drops_what_is_raised_is_not_lost(number, error, dropped, capfd):
    class Dropped:
        def __del__(self):
            if dropped == "destructor":
                signal.raise_signal(number)

    def callback(_):
        if dropped != "destructor":
            signal.raise_signal(number)

    @_ended_by_signals()
    def run():
        thing = Dropped()
        reference = weakref.ref(thing, callback)
        del thing
        time.sleep(30)
        return reference

    with pytest.raises(error):
        run()
    assert capfd.readouterr().err == ""


def test_other_errors_that_python_drops_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Faulty:
        def __del__(self):
            raise ValueError("x")

    with _ended_by_signals():
        Faulty()
    assert [type(one.exc_value) for one in told] == [ValueError]
    assert sys.unraisablehook == told.append
