import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepcredit.episodes.episode import ROLES, Episode, StopReason, Tokens
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.errors import InputError
from stepcredit.verdict import Verdict

COLUMNS = (
    "prompt, completion, format, reward, verdict, stop_reason, prompt_id, sample, steps, step_rewards, ids, "
    "action_mask, behavior_log_prob, metadata, tools"
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def token_rows(draw):
    length = draw(st.integers(2, 9))
    rows = st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length)
    mask = [False, *draw(st.lists(st.booleans(), min_size=length - 2, max_size=length - 2)), True]
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
    log_prob = draw(st.none() | st.lists(numbers, min_size=length, max_size=length))
    return (
        np.array(draw(rows), dtype=np.int32),
        np.array(mask),
        None if log_prob is None else np.array(log_prob, dtype=np.float32),
    )


@st.composite
def fields(draw):
    """What an episode is made of; made in the test, because the type checks draw random numbers."""
    message = st.fixed_dictionaries({"role": st.sampled_from(sorted(ROLES)), "content": st.text()})
    steps = None
    if draw(st.booleans()):
        prompt = draw(st.lists(message, min_size=1, max_size=3))
        completion = [*draw(st.lists(message, max_size=2)), {"role": "assistant", "content": draw(st.text())}]
    else:
        prompt = draw(st.text(min_size=1))
        steps = draw(st.none() | st.lists(st.text(), max_size=4).map(tuple))
        completion = draw(st.text()) if steps is None else "".join(steps)
    number = st.integers(0, 4) if steps is None else st.just(len(steps))
    size = draw(number)
    verdict = draw(st.none() | st.sampled_from(Verdict))
    return {
        "prompt": prompt,
        "completion": completion,
        "reward": None if verdict is Verdict.UNDECIDED else draw(st.none() | FINITE),
        "prompt_id": draw(st.text()),
        "sample": draw(st.integers(0, 2**63 - 1)),
        "step_rewards": draw(st.none() | st.lists(FINITE, min_size=size, max_size=size).map(tuple)),
        "steps": steps,
        "stop_reason": draw(st.sampled_from(StopReason)),
        "verdict": verdict,
        "tokens": draw(st.none() | token_rows()),
        "metadata": draw(st.dictionaries(st.text(), JSON, max_size=3)),
    }


def plain(episode):
    """Everything in an episode, comparable, with the types that == does not tell apart."""
    fields = {name: getattr(episode, name) for name in episode.__dataclass_fields__}
    tokens = fields.pop("tokens")
    arrays = (tokens.ids, tokens.action_mask, tokens.behavior_log_prob) if tokens else ()
    return repr(fields["verdict"]), repr(fields["stop_reason"]), repr(fields["reward"]), fields, [
        None if a is None else (a.dtype, a.tobytes()) for a in arrays
    ]  # fmt: skip


def make(**given):
    return Episode(**{"prompt": "q", "completion": "a", "reward": 1.0, "prompt_id": "p", **given})


def numbered(count, **given):
    return [make(sample=k, **given) for k in range(count)]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.lists(fields(), min_size=1, max_size=5))
def test_round_trip_is_exact(tmp_path_factory, drawn):
    rows = [Episode(**{**d, "tokens": d["tokens"] and Tokens(*d["tokens"])}) for d in drawn]
    folder = tmp_path_factory.mktemp("store")
    append_episodes(folder, rows)
    store = load_episodes(folder)
    assert [plain(e) for e in store] == [plain(e) for e in rows]
    assert [plain(store[k]) for k in range(len(rows))] == [plain(e) for e in rows]
    again = append_episodes(folder, list(store))
    assert again.read_bytes() == (folder / "episodes-00000.parquet").read_bytes()


def test_null_and_empty_stay_apart(tmp_path):
    rows = [make(completion="", steps=(), step_rewards=()), make(steps=None, step_rewards=None)]
    append_episodes(tmp_path, rows)
    first, second = load_episodes(tmp_path)
    assert (first.steps, first.step_rewards, second.steps, second.step_rewards) == ((), (), None, None)


def test_it_is_a_sequence_over_shards_and_row_groups(tmp_path):
    append_episodes(tmp_path, numbered(2050, prompt_id="a"))
    append_episodes(tmp_path, numbered(3, prompt_id="b"))
    store = load_episodes(tmp_path)
    assert len(store) == 2053
    assert [e.sample for e in store] == [*range(2050), 0, 1, 2]
    assert [store[k].sample for k in (0, 1023, 1024, 2048, 2049, 2050, -1, -4)] == [
        0, 1023, 1024, 2048, 2049, 0, 2, 2049,
    ]  # fmt: skip
    assert [(e.prompt_id, e.sample) for e in store[2048:2052]] == [
        ("a", 2048),
        ("a", 2049),
        ("b", 0),
        ("b", 1),
    ]
    assert [e.sample for e in store[::-1][:2]] == [2, 1]
    assert store[np.int64(3)].sample == 3
    assert store.column("sample")[-3:] == [0, 1, 2]
    assert [e.sample for e in pickle.loads(pickle.dumps(store))[-2:]] == [1, 2]  # noqa: S301
    for outside in (2053, -2054):
        with pytest.raises(IndexError, match=rf"episode {outside} of 2053"):
            store[outside]


def test_to_read_in_order_takes_the_memory_of_a_row_group(tmp_path):
    def peak(rows):
        append_episodes(tmp_path / str(rows), numbered(rows, metadata={"text": "x" * 1000}))
        tracemalloc.start()
        store = load_episodes(tmp_path / str(rows))
        assert sum(e.reward for e in store) == rows
        assert sum(len(column) for column in (part.batch.column("prompt") for part in store.rows())) == rows
        assert all(store[k].sample == k for k in range(0, rows, 300))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)  # what is imported when it is first used
    assert peak(6144) - peak(2048) < 20 * 4096


def test_a_shard_of_one_large_row_group_is_read_in_pieces(tmp_path):
    shard = append_episodes(tmp_path, numbered(2500))
    pq.write_table(pq.read_table(shard), shard, row_group_size=2500)
    store = load_episodes(tmp_path)
    assert [(rows.first_row, rows.batch.num_rows) for rows in store.rows()] == [(0, 1024), (1024, 1024), (2048, 452)]
    assert [e.sample for e in store] == list(range(2500))
    assert (store[2499].sample, store[-2500].sample) == (2499, 0)


def test_arrays_are_writable_copies(tmp_path):
    tokens = Tokens(np.array([5, 6], dtype=np.int32), np.array([False, True]))
    append_episodes(tmp_path, [make(tokens=tokens)])
    store = load_episodes(tmp_path)
    store[0].tokens.ids[0] = 99
    assert store[0].tokens.ids.tolist() == [5, 6]


TOOLS = ({"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": None}}},)


def test_tools_come_back_as_they_were_and_older_shards_have_none(tmp_path):
    user, policy = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    shard = append_episodes(tmp_path / "new", [make(prompt=[user], completion=[policy], tools=TOOLS), make()])
    first, second = load_episodes(tmp_path / "new")
    assert json.dumps(first.tools) == json.dumps(TOOLS)  # the order of the keys is the prompt's
    assert second.tools is None
    (tmp_path / "old").mkdir()
    pq.write_table(pq.read_table(shard).drop_columns(["tools"]), tmp_path / "old" / shard.name)
    assert [(e.prompt, e.tools) for e in load_episodes(tmp_path / "old")] == [([user], None), (second.prompt, None)]


def test_others_can_read_the_columns(tmp_path):
    turn = {"role": "assistant", "content": "é"}
    chat = make(prompt=[turn], completion=[turn], metadata={"b": 1, "a": "é"})
    shard = append_episodes(tmp_path, [chat, make()])
    table = pq.read_table(shard)
    assert ", ".join(table.column_names) == COLUMNS
    row = table.to_pylist()[0]
    assert row["format"] == "chat"
    assert json.loads(row["completion"]) == [turn]
    assert row["metadata"] == '{"a": "é", "b": 1}'
    assert table.to_pylist()[1]["format"] == "text"
    assert table.schema.field("ids").type == pa.list_(pa.int32())
    assert table.schema.field("behavior_log_prob").type == pa.list_(pa.float32())


def test_leftovers_are_ignored(tmp_path):
    append_episodes(tmp_path, numbered(1))
    (tmp_path / ".episodes-1-dead.part").write_bytes(b"PAR1")
    (tmp_path / "notes.parquet").write_bytes(b"")
    assert append_episodes(tmp_path, numbered(2)).name == "episodes-00001.parquet"
    assert len(load_episodes(tmp_path)) == 3


def test_nothing_is_written_when_an_episode_fails(tmp_path):
    def breaking():
        yield from numbered(1500)
        raise InputError("enough")

    with pytest.raises(InputError, match="enough"):
        append_episodes(tmp_path, breaking())
    for bad, message in [
        (make(metadata={"x": float("nan")}), "metadata: cannot be stored as JSON"),
        (make(metadata={"x": object()}), "metadata: cannot be stored as JSON"),
        (make(prompt="\ud800"), "not valid Unicode"),
    ]:
        with pytest.raises(InputError, match=message):
            append_episodes(tmp_path, [make(), bad])
    with pytest.raises(InputError, match="no episodes to write"):
        append_episodes(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_clear_errors(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        load_episodes(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no shards"):
        load_episodes(tmp_path)
    (tmp_path / "logs.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match=r"logs.jsonl: is a file, no folder of episodes; first: stepcredit import"):
        load_episodes(tmp_path / "logs.jsonl")
    (tmp_path / "logs.jsonl").unlink()
    shard = append_episodes(tmp_path, numbered(500, metadata={"text": "x" * 50}))
    whole = shard.read_bytes()
    middle = len(whole) // 4
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for broken in (b"", whole[:-20], whole[: len(whole) // 2]):
        shard.write_bytes(broken)
        with pytest.raises(InputError, match=r"episodes-00000\.parquet: corrupt shard"):
            load_episodes(tmp_path)
    shard.write_bytes(flipped)
    store = load_episodes(tmp_path)  # the end of the file, which is read here, is whole
    for read in (lambda: list(store), lambda: store[400]):
        with pytest.raises(InputError, match=r"episodes-00000\.parquet: corrupt shard"):
            read()
    pq.write_table(pa.table({"prompt": ["q"], "completion": ["a"]}), shard)
    with pytest.raises(InputError, match=r"episodes-00000\.parquet: not a shard of episodes: no column format"):
        load_episodes(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("stop_reason", "tired"), ("metadata", "{"), ("format", "xml"), ("reward", float("nan"))],
)
def test_a_row_that_is_no_episode_is_named(tmp_path, column, value):
    table = pq.read_table(append_episodes(tmp_path, numbered(1100)))
    values = table[column].to_pylist()
    values[1050] = value
    table = table.set_column(table.column_names.index(column), table.schema.field(column), [values])
    pq.write_table(table, tmp_path / "episodes-00000.parquet", row_group_size=1000)
    store = load_episodes(tmp_path)
    assert store[1049].sample == 1049
    for read in (lambda: list(store), lambda: store[1050]):
        with pytest.raises(InputError, match=r"episodes-00000\.parquet: row 1051: not a valid episode"):
            read()


WRITER = """
import sys, time
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes
folder, name, count, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
def rows(k):
    for sample in range(1500):
        if sample == 1400 and pause:
            print("writing", flush=True)
            time.sleep(pause)
        yield Episode(prompt="q", completion="a", reward=1.0, prompt_id=f"{name}-{k}", sample=sample)
for k in range(count):
    append_episodes(folder, rows(k) if pause else list(rows(k))[:3])
"""


def writer(folder, name, count, pause=0.0):
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("name", ["prompt", "completion", "metadata"])
def test_numbers_are_no_text(tmp_path, name):
    append_episodes(tmp_path, [Episode(prompt="2?", completion="2", reward=1.0, prompt_id="a")])
    (shard,) = tmp_path.glob("*.parquet")
    read = pq.read_table(shard)
    pq.write_table(read.set_column(read.column_names.index(name), name, pa.array([3])), shard)
    with pytest.raises(InputError, match=f"not a shard of episodes: column {name} is not text"):
        load_episodes(tmp_path)


def test_concurrent_appends_lose_nothing(tmp_path):
    processes = [writer(tmp_path, name, 15) for name in "abc"]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    store = load_episodes(tmp_path)
    expected = {(f"{name}-{k}", sample) for name in "abc" for k in range(15) for sample in range(3)}
    assert len(store) == 135
    assert {(e.prompt_id, e.sample) for e in store} == expected
    assert len(store.shards) == 45
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_kill_in_the_middle_of_a_write(tmp_path):
    append_episodes(tmp_path, numbered(2))
    process = writer(tmp_path, "killed", 1, pause=60)
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert [p.suffix for p in tmp_path.iterdir() if p.name.startswith(".")] == [".part"]
    assert len(load_episodes(tmp_path)) == 2
    append_episodes(tmp_path, numbered(3))
    assert len(load_episodes(tmp_path)) == 5


def test_kill_where_a_shard_gets_its_name(tmp_path):
    dying = "import os; os.link = lambda *_: os.kill(os.getpid(), 9)\n" + WRITER
    command = [sys.executable, "-c", dying, str(tmp_path), "killed", "1", "0"]
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]
    assert append_episodes(tmp_path, numbered(1)).name == "episodes-00000.parquet"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_number_that_another_writer_takes_in_the_meantime_is_left_to_it(tmp_path, monkeypatch, has_links):
    def no_links(*_):
        raise PermissionError("no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr("stepcredit.episodes.store._numbered", lambda folder: [])
    first = append_episodes(tmp_path, numbered(1))
    kept = first.read_bytes()
    second = append_episodes(tmp_path, numbered(2))
    assert [first.name, second.name] == ["episodes-00000.parquet", "episodes-00001.parquet"]
    assert first.read_bytes() == kept
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_kill_at_any_time(tmp_path):
    for attempt in range(3):
        process = writer(tmp_path, f"w{attempt}", 10_000)
        while len(list(tmp_path.glob("episodes-*"))) < 5 * (attempt + 1):
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        store = load_episodes(tmp_path)
        assert len(list(store)) == 3 * len(store.shards)
