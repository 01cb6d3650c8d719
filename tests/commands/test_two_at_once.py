"""Two commands into one folder at once: the second is refused by the name of the first, and nothing is doubled."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from doubles.holder import held_by_another
from stepcredit.cli import main
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import AccuracyRow
from stepcredit.rollouts import work_units
from stepcredit.tasks.arithmetic import Arithmetic

TASK = Arithmetic()
RECIPE = next((Path(__file__).parents[2] / "recipes").glob("*-gsm8k.yaml"))
COMMANDS = {
    "collect": "collect --task arithmetic --model {tmp}/none --output_dir {out}",
    "train": "train --method sft --model {tmp}/none --episodes {tmp}/none --use_cpu true --output_dir {out}",
    "evaluate": "evaluate --task arithmetic --model {tmp}/none --output_dir {out}",
    "compare": "compare --task arithmetic --output_dir {out}",
    "iterate": "iterate --task arithmetic --method rft --model {tmp}/none --output_dir {out}",
    "quickstart": "quickstart --output_dir {out}",
    "reproduce": f"reproduce {RECIPE} --output_dir {{out}}",
    "credit": "credit --episodes {tmp}/none --value_model {tmp}/none --output_dir {out}",
    "import": "import {tmp}/log.jsonl --output_dir {out}",
}


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"prompt": "x", "completion": "y", "reward": 1}\n')


def refused(command, folder, capsys, by):
    """Runs a command, and sees that it is refused with one line and writes nothing."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert main(command) == 2
    said = capsys.readouterr().err
    assert re.search(rf"stepcredit: error: {folder}: is being written by `{by}` \(process \d+ on ", said)
    assert said.endswith("; wait for it, or choose another --output_dir\n")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_command_is_refused_by_name(name, log, tmp_path, capsys):
    out = tmp_path / "out"
    with held_by_another(out, f"stepcredit {name}"):
        refused(COMMANDS[name].format(tmp=tmp_path, out=out).split(), out, capsys, f"stepcredit {name}")
    assert not out.exists()


@pytest.mark.parametrize("name", ["collect", "train", "evaluate", "iterate", "credit", "import"])
def test_a_command_that_fails_leaves_no_folder(name, tmp_path):
    """No model, episodes or log of this name: found under the lock, or before."""
    assert main(COMMANDS[name].format(tmp=tmp_path, out=tmp_path / "deep" / "out").split()) == 2
    assert not list(tmp_path.iterdir())


def test_import_append_waits_for_nobody(log, tmp_path, capsys):
    out = tmp_path / "out"
    append_episodes(out, TASK.demonstrations(2, 0))
    command = f"import {tmp_path}/log.jsonl --output_dir {out} --append".split()
    with held_by_another(out):
        refused(command, out, capsys, "stepcredit collect")
    assert main(command) == 0
    assert len(load_episodes(out)) == 3


def test_alfworld_is_refused_by_name(built, tmp_path, capsys):
    out, games = tmp_path / "out", built[0]
    for verb, by in ((f"demonstrate --data {games}", "demonstrate"), ("build --train 6 --workers 1", "build")):
        with held_by_another(out, f"stepcredit alfworld {by}"):
            refused(["alfworld", *verb.split(), "--output_dir", str(out)], out, capsys, f"stepcredit alfworld {by}")


def test_dry_runs_are_not_refused(tmp_path, capsys):
    with held_by_another(tmp_path / "out"):
        for name in ("collect", "compare", "iterate", "reproduce"):
            assert main([*COMMANDS[name].format(tmp=tmp_path, out=tmp_path / "out").split(), "--dry_run"]) == 0


COLLECT = """
import sys
from stepcredit.cli import main
from stepcredit.results.row_files import read_rows
from stepcredit.results.schema import AccuracyRow
from stepcredit.rollouts import work_units
work_units.UNIT_ROWS, append = 4, work_units.append_episodes

def paused(folder, episodes, unit=None):
    if unit is not None:
        print("unit", flush=True)
        sys.stdin.readline()
    return append(folder, episodes, unit)

work_units.append_episodes = paused
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("killed", [pytest.param(False, marks=pytest.mark.long), True])
def test_two_collections_into_one_folder(killed, tmp_path, capsys, monkeypatch):
    """The first is at its second unit; then it goes on to its end, or is killed and another one goes on."""
    monkeypatch.setattr(work_units, "UNIT_ROWS", 4)
    policy, out, tokenizer = tmp_path / "policy", tmp_path / "out", TASK.tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    command = f"collect --task arithmetic --model {policy} --limit 6 --num_generations 2 --output_dir {out}".split()
    with subprocess.Popen(
        [sys.executable, "-c", COLLECT, *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as first:  # fmt: skip
        assert first.stdout.readline() == "unit\n"
        first.stdin.write("\n")
        first.stdin.flush()
        assert first.stdout.readline() == "unit\n"
        refused(command, out, capsys, "stepcredit collect")
        if killed:
            os.kill(first.pid, signal.SIGKILL)
        else:
            first.stdin.write("\n\n")
            first.stdin.flush()
            first.stdout.read()
        assert first.wait(60) == (-signal.SIGKILL if killed else 0)
    assert main(command) == 0
    found = [(e.prompt_id, e.sample) for e in load_episodes(out)]
    assert len(found) == len(set(found)) == 12
    assert sorted(p.name for p in out.iterdir()) == ["collect.json", *(f"episodes-0000{k}.parquet" for k in range(3))]


ADD = """
import sys
from pathlib import Path
from stepcredit.results.row_files import add_rows
from stepcredit.results.schema import AccuracyRow
for k in range(100):
    row = AccuracyRow(task="t", method=sys.argv[2], seed=k, search="greedy", n=1, accuracy=1.0)
    add_rows(Path(sys.argv[1]), [row])
"""


@pytest.mark.long
def test_rows_of_several_writers_are_all_kept(tmp_path):
    file = tmp_path / "out" / "results.json"
    writers = [subprocess.Popen([sys.executable, "-c", ADD, str(file), name]) for name in "abc"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert {(row.method, row.seed) for row in read_rows(file, AccuracyRow)} == {
        (m, k) for m in "abc" for k in range(100)
    }
    assert [p.name for p in file.parent.iterdir()] == ["results.json"]
