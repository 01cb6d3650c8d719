import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stepcredit.episodes import store
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError
from stepcredit.logs import import_logs as module
from stepcredit.logs.import_logs import ImportConfig, import_logs, parse_columns

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ROLLOUTS = DATA / "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz"


def row(k, **given):
    return {"prompt": f"q{k // 2}", "completion": f"a{k}", "reward": k % 2, **given}


def write(path, rows):
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return str(path)


def outcomes(folder):
    return [(e.prompt, e.completion, e.reward, e.sample) for e in load_episodes(folder)]


EXPECTED = [
    ("q0", "a0", 0.0, 0),
    ("q0", "a1", 1.0, 1),
    ("q1", "a2", 0.0, 0),
    ("q1", "a3", 1.0, 1),
    ("q2", "a4", 0.0, 0),
]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 2)


def test_files_of_all_kinds_become_shards(tmp_path):
    lines = write(tmp_path / "a.jsonl", [row(0), row(1)])
    table = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist([row(2), row(3)]), table)
    cells = tmp_path / "c.csv"
    cells.write_text("prompt,completion,reward\nq2,a4,0\n")
    out = tmp_path / "deep" / "out"
    report = import_logs(ImportConfig([lines, str(table), str(cells)], str(out)))
    assert outcomes(out) == EXPECTED
    assert sorted(p.name for p in out.iterdir()) == [f"episodes-0000{k}.parquet" for k in range(3)]
    assert (report.rows, report.episodes, report.bad, report.shards) == (5, 5, 0, 3)
    assert (report.quarantine, report.first_error) == (None, None)
    assert report.summary().splitlines() == [
        f"5 rows read, 5 episodes written to {out}",
        f"Look at them with: stepcredit inspect {out}",
    ]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_the_same_logs_give_the_same_bytes(tmp_path):
    logs = write(tmp_path / "a.jsonl", [row(k) for k in range(5)])
    for name in ("one", "two"):
        import_logs(ImportConfig([logs], str(tmp_path / name)))
    for shard in (tmp_path / "one").iterdir():
        assert shard.read_bytes() == (tmp_path / "two" / shard.name).read_bytes()


BROKEN = [row(0), row(1), row(2, reward=3), "7\n", row(3), '{"cut', "\n", row(4), "\n", " \n"]


def test_a_bad_row_stops_everything(tmp_path):
    logs = write(tmp_path / "a.jsonl", BROKEN)
    with pytest.raises(InputError, match=r"a\.jsonl:3: reward: 3 lies outside \[0, 1\]; widen it with --reward_range"):
        import_logs(ImportConfig([logs], str(tmp_path / "out")))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_bad_rows_go_to_quarantine(tmp_path):
    logs = write(tmp_path / "a.jsonl", BROKEN)
    out = tmp_path / "out"
    report = import_logs(ImportConfig([logs], str(out), skip_bad=True))
    assert [o[1] for o in outcomes(out)] == ["a0", "a1", "a3", "a4"]
    assert (report.rows, report.episodes, report.bad, report.shards) == (7, 4, 3, 2)
    kept = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert [k["where"] for k in kept] == [f"{logs}:3", f"{logs}:4", f"{logs}:6"]
    assert kept[0]["error"].startswith("reward: 3 lies outside [0, 1]")
    assert [k["error"] for k in kept[1:]] == [
        "a row must be an object, not int", "invalid JSON at column 2: Unterminated string starting at"
    ]  # fmt: skip
    assert [k["row"] for k in kept] == [json.dumps(row(2, reward=3)), "7", '{"cut']
    summary = report.summary().splitlines()
    assert summary[1].startswith(f"3 bad rows are in {out / 'quarantine.jsonl'}; the first: {logs}:3: reward: 3 lies")
    again = import_logs(
        ImportConfig([write(tmp_path / "b.jsonl", ["null\n", row(4)])], str(out), skip_bad=True, append=True)
    )
    assert (again.rows, again.bad) == (2, 1)
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("append", [False, True])
def test_only_bad_rows_leave_nothing(tmp_path, append):
    out = tmp_path / "out"
    if append:
        import_logs(ImportConfig([write(tmp_path / "a.jsonl", [row(0)])], str(out)))
    before = sorted(tmp_path.rglob("*"))
    for rows, message in [
        (["[]\n"], "1 rows, all of them bad; the first: .*x.jsonl:1: a row must be"),
        ([], "no rows"),
    ]:
        logs = write(tmp_path / "x.jsonl", rows)
        with pytest.raises(InputError, match=f"nothing to import: .*{message}"):
            import_logs(ImportConfig([logs], str(out), skip_bad=True, append=append))
        (tmp_path / "x.jsonl").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_append_goes_on_counting_in_one_shard(tmp_path):
    out = tmp_path / "out"
    first, second = (
        write(tmp_path / f"{k}.jsonl", [row(n) for n in part]) for k, part in enumerate([(0,), (1, 2, 3, 4)])
    )
    import_logs(ImportConfig([first], str(out), append=True))
    report = import_logs(ImportConfig([second], str(out), append=True))
    assert (report.shards, report.episodes, report.total) == (1, 4, 5)
    assert f"4 episodes written to {out}; it holds 5 now" in report.summary()
    assert len(load_episodes(out).shards) == 2
    assert outcomes(out) == EXPECTED
    with pytest.raises(InputError, match=r"x\.jsonl:2: "):
        import_logs(ImportConfig([write(tmp_path / "x.jsonl", [row(0), "{\n"])], str(out), append=True))
    assert len(list(out.iterdir())) == 2


@pytest.mark.long
@pytest.mark.parametrize("append", [False, True])
def test_memory_is_some_bytes_a_row(tmp_path, monkeypatch, append):
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 10_000)
    monkeypatch.setattr(store, "_ROWS_PER_GROUP", 64)

    def peak(rows):
        logs = write(tmp_path / f"{rows}.jsonl", [row(2 * k, x="x" * 500) for k in range(rows)])
        out = str(tmp_path / f"out{rows}")
        if append:
            import_logs(ImportConfig([logs], out))
        more = write(tmp_path / "more.jsonl", [row(2 * k, completion="other") for k in range(300)])
        tracemalloc.start()
        import_logs(ImportConfig([more if append else logs], out, append=append))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is imported when it is first used
    assert peak(1500) - peak(300) < 3 * 48 * 1200


def test_samples_that_stand_twice_are_told_with_both_places(tmp_path):
    out = tmp_path / "out"
    first = write(tmp_path / "1.jsonl", [row(0, sample=0), row(1, sample=1), row(2, sample=0)])
    second = write(tmp_path / "2.jsonl", ["\n", row(0, sample=2), row(1, sample=1)])
    with pytest.raises(InputError, match=r"2\.jsonl:3: sample: 1 of prompt '\w+' stands at \S+1\.jsonl:2 already"):
        import_logs(ImportConfig([first, second], str(out)))
    assert not out.exists()
    import_logs(ImportConfig([first], str(out)))
    with pytest.raises(InputError, match=r"2\.jsonl:3: sample: 1 of prompt '\w+' stands at \S+out: episode 1 already"):
        import_logs(ImportConfig([second], str(out), append=True))
    assert len(load_episodes(out)) == 3
    report = import_logs(ImportConfig([second], str(out), append=True, skip_bad=True))
    assert (report.episodes, report.bad) == (1, 1)


def test_questions_and_answers_become_chat(tmp_path):
    file = write(tmp_path / "a.jsonl", [row(0)])
    import_logs(ImportConfig([file], str(tmp_path / "out"), chat=True))
    (episode,) = load_episodes(tmp_path / "out")
    assert [m["role"] for m in (*episode.prompt, *episode.completion)] == ["user", "assistant"]


def test_rewards_between_right_and_wrong_are_remarked(tmp_path):
    for name, rewards, is_graded in (("binary", (0, 1), False), ("graded", (1, 0.5), True)):
        file = write(tmp_path / f"{name}.jsonl", [row(k, reward=reward) for k, reward in enumerate(rewards)])
        report = import_logs(ImportConfig([file], str(tmp_path / name)))
        assert report.graded is is_graded
        assert ("right is a reward of at least 1: give --reward_threshold" in report.summary()) is is_graded


def test_what_is_undecided_is_counted(tmp_path):
    rows = [row(0), row(1, finish_reason="content_filter"), row(2, verdict="undecided", reward=None)]
    report = import_logs(ImportConfig([write(tmp_path / "a.jsonl", rows)], str(tmp_path / "out")))
    assert report.summary().startswith(f"3 rows read, 3 episodes written to {tmp_path / 'out'}, 2 of them undecided\n")


NESTED = [
    {
        "messages": [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"city": "Paris"}}}]},
            {"role": "tool", "content": "22"},
            {"role": "assistant", "content": "It is 22."},
        ],
        "tools": [
            {"name": "f", "parameters": {"city": {"type": "string"}}},
            {"name": "g", "parameters": {"n": {"type": "integer"}}},
        ],
        "reward": 1.0,
    },
    {
        "messages": [
            {"role": "user", "content": "time?"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "g", "arguments": {"zone": "CET"}}}]},
        ],
        "reward": 0.0,
    },
]


def test_nested_chat_is_the_same_from_every_kind_of_file(tmp_path):
    """Arrow gives every call the arguments of all calls, null where a call has none."""
    lines, table, cells = tmp_path / "a.jsonl", tmp_path / "b.parquet", tmp_path / "c.csv"
    write(lines, NESTED)
    texts = [{k: v if k == "reward" else json.dumps(v) for k, v in one.items()} for one in NESTED]
    pq.write_table(pa.Table.from_pylist(NESTED), table)
    with cells.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["messages", "tools", "reward"])
        writer.writeheader()
        writer.writerows(texts)
    found = []
    for number, file in enumerate((lines, table, cells)):
        import_logs(ImportConfig([str(file)], str(tmp_path / f"out{number}")))
        found.append(list(load_episodes(tmp_path / f"out{number}")))
    for one in found:
        assert [e.completion for e in one] == [e.completion for e in found[0]]
        assert [e.tools for e in one] == [tuple(NESTED[0]["tools"]), None]
    assert found[0][0].completion[0]["tool_calls"] == [{"function": {"name": "f", "arguments": {"city": "Paris"}}}]


def test_a_folder_in_use_is_refused(tmp_path):
    logs = write(tmp_path / "a.jsonl", [row(0)])
    with pytest.raises(InputError, match=r"output_dir: .* is not empty; give another folder, or --append"):
        import_logs(ImportConfig([logs], str(tmp_path)))
    with pytest.raises(InputError, match="no shards"):
        import_logs(ImportConfig([logs], str(tmp_path), append=True))
    with pytest.raises(InputError, match=r"a\.jsonl: is a file; give a folder"):
        import_logs(ImportConfig([logs], logs))
    (tmp_path / "empty").mkdir()
    assert import_logs(ImportConfig([logs], str(tmp_path / "empty"))).episodes == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": []}, "files: must not be empty"),
        ({"files": ["no.jsonl"]}, r"no\.jsonl: no such file"),
        ({"files": ["no.txt"]}, r"no\.txt: unknown kind of file"),
        ({"columns": ["prompt"]}, "columns: 'prompt': give each of our names once"),
        ({"columns": ["prompt=a", "prompt=b"]}, "columns: 'prompt=b': give each"),
        ({"columns": ["promt=a"]}, "columns: 'promt' is none of"),
        ({"reward_range": [0.0]}, "reward_range: give the lowest"),
        ({"reward_range": [1.0, 0.0]}, "reward_range: give the lowest"),
    ],
)
def test_bad_settings(tmp_path, change, message):
    config = {"files": [write(tmp_path / "a.jsonl", [row(0)])], "output_dir": str(tmp_path / "out"), **change}
    with pytest.raises(InputError, match=message):
        import_logs(ImportConfig(**config))
    assert not (tmp_path / "out").exists()


def test_settings_are_used(tmp_path):
    logs = write(tmp_path / "a.jsonl", [{"question": "q", "completion": "a", "reward": -2}])
    config = ImportConfig([logs], str(tmp_path / "out"), columns=["prompt=question"], reward_range=[-2.0, 2.0])
    import_logs(config)
    assert outcomes(tmp_path / "out") == [("q", "a", -2.0, 0)]
    assert parse_columns(["prompt=a=b"]) == {"prompt": "a=b"}


def test_a_gzip_cut_off_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 100)
    logs = tmp_path / "a.jsonl.gz"
    logs.write_bytes(gzip.compress("".join(json.dumps(row(k)) + "\n" for k in range(1000)).encode())[:-20])
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: corrupt or truncated gzip"):
        import_logs(ImportConfig([str(logs)], str(tmp_path / "out"), skip_bad=True))
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl.gz"]


KILLED = """
import os, signal, sys
from stepcredit.logs import import_logs as module
written = []
def append_and_die(folder, episodes):
    if written:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(real(folder, episodes))
real, module.append_episodes, module.EPISODES_PER_SHARD = module.append_episodes, append_and_die, 2
module.import_logs(module.ImportConfig([sys.argv[1]], sys.argv[2]))
"""


def test_a_kill_leaves_nothing_half_written(tmp_path):
    logs, out = write(tmp_path / "a.jsonl", [row(k) for k in range(5)]), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, logs, str(out)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert [p.name[:5] + p.suffix for p in tmp_path.iterdir() if p.is_dir()] == [".out..part"]
    import_logs(ImportConfig([logs], str(out)))
    assert outcomes(out) == EXPECTED


def test_a_folder_that_cannot_be_written(tmp_path):
    logs = write(tmp_path / "a.jsonl", [row(0)])
    with pytest.raises(InputError, match=r"deeper/out: cannot be written \(Not a directory\)"):
        import_logs(ImportConfig([logs], f"{logs}/deeper/out"))


def test_stored_episodes_are_no_log(tmp_path):
    import_logs(ImportConfig([write(tmp_path / "a.jsonl", [row(0)])], str(tmp_path / "one")))
    shard = append_episodes(tmp_path / "two", load_episodes(tmp_path / "one"))
    with pytest.raises(InputError, match=r"parquet: row 1: this is a shard of stored episodes already"):
        import_logs(ImportConfig([str(shard)], str(tmp_path / "three")))


@pytest.mark.long
@pytest.mark.skipif(not ROLLOUTS.is_file(), reason=f"needs the real rollouts {ROLLOUTS.name} in ../shared/data")
def test_real_rollouts_import_in_full(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EPISODES_PER_SHARD", 10_000)
    columns = ["completion=response", "prompt_id=qid"]
    report = import_logs(ImportConfig([str(ROLLOUTS)], str(tmp_path / "out"), columns=columns))
    assert (report.rows, report.episodes, report.bad, report.shards) == (12_800, 12_800, 0, 2)
    store = load_episodes(tmp_path / "out")
    with gzip.open(ROLLOUTS, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert store.column("prompt") == [r["prompt"] for r in rows]
    assert store.column("completion") == [r["response"] for r in rows]
    assert store.column("reward") == [float(r["reward"]) for r in rows]
    assert store.column("prompt_id") == [str(r["qid"]) for r in rows]
    assert sorted(store.column("sample")) == [k for k in range(16) for _ in range(800)]
    assert store[-1].metadata == {"prompt_variant": rows[-1]["prompt_variant"]}
