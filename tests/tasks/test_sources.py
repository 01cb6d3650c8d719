import gzip
import hashlib
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from stepcredit.errors import InputError
from stepcredit.tasks.sources import HubDataset, Source, SourceRow, Sources, find_files, load_rows, text_of

HUB = HubDataset("owner/set", "test", ("q",), ("test", "set_test"))
MANY = HubDataset("owner/set", "test", ("q",), ("test", "set_test"), ("algebra", "geometry"))


def rows(*questions):
    return [{"q": q} for q in questions]


def write(path, items):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(item) + "\n" for item in items)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(items), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(items))
    elif path.suffix == ".csv":
        path.write_text("q\n" + "".join(item["q"] + "\n" for item in items))
    else:
        path.write_text(text)
    return path


def questions(source):
    return [row.data["q"] for row in source.rows]


@pytest.mark.parametrize("name", ["any.jsonl", "any.jsonl.gz", "any.parquet", "any.json", "any.csv"])
def test_a_file_is_read_whatever_its_name(tmp_path, name):
    path = write(tmp_path / name, rows("a", "b"))
    source = load_rows(HUB, str(path))
    assert questions(source) == ["a", "b"]
    assert source.version == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert str(path) in source.rows[0].where


def test_rows_know_their_line(tmp_path):
    path = write(tmp_path / "any.jsonl", rows("a", "b"))
    assert load_rows(HUB, str(path)).rows == (
        SourceRow(f"{path}:1", {"q": "a"}),
        SourceRow(f"{path}:2", {"q": "b"}),
    )


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["test.jsonl", "train.jsonl", "set_test.jsonl"], ["test.jsonl"]),
        (["set_test.jsonl.gz", "set_test_rollouts.jsonl.gz", "set_train.jsonl.gz"], ["set_test.jsonl.gz"]),
        (["set_test_rollouts_k16.jsonl.gz", "set_test.json.gz", "README.md"], ["set_test.json.gz"]),
        (["test-00001-of-00002.parquet", "test-00000-of-00002.parquet"],
         ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]),
        (["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"], ["test-00000-of-00001.parquet"]),
        (["TEST.JSONL", "train.jsonl"], ["TEST.JSONL"]),
        (["set-test.csv"], ["set-test.csv"]),
        (["set_test4500.jsonl", "contest.jsonl", "test_set.jsonl"], ["set_test4500.jsonl"]),
        (["test_500.jsonl"], ["test_500.jsonl"]),
        (["test12k.jsonl"], ["test12k.jsonl"]),
        (["test500.jsonl", "set_test.jsonl"], ["set_test.jsonl"]),
    ],
)  # fmt: skip
def test_the_file_of_a_split_in_a_folder(tmp_path, names, found):
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in find_files(tmp_path, HUB.stems)] == found


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["test.jsonl", "test.parquet"], "several files fit: test.jsonl, test.parquet; give --data FILE"),
        (["test.jsonl", "test.jsonl.gz"], "several files fit: test.jsonl, test.jsonl.gz; give --data FILE"),
        (["set-test.jsonl", "set_test.jsonl"], "several files fit: set-test.jsonl, set_test.jsonl; give --data FILE"),
        (["test500.csv", "test_7k.csv"], "several files fit: test500.csv, test_7k.csv; give --data FILE"),
        (["test-00000-of-00001.parquet", "test.parquet"],
         "several files fit: test-00000-of-00001.parquet, test.parquet; give --data FILE"),
        (["test-00000-of-00003.parquet", "test-00002-of-00003.parquet"],
         "shards are missing; there is test-00000-of-00003.parquet, test-00002-of-00003.parquet"),
        (["test-00000-of-00001.parquet", "test-00000-of-00002.parquet"],
         "several files fit: test-00000-of-00001.parquet, test-00000-of-00002.parquet; give --data FILE"),
        (["contest.jsonl", "set_test_rollouts.jsonl", "test.txt"],
         "no test.*, set_test.* here (contest.jsonl, set_test_rollouts.jsonl); give --data FILE"),
        (["notes.txt"], "no test.*, set_test.* here (no data files); give --data FILE"),
        ([f"{k:02}.csv" for k in range(12)],
         "no test.*, set_test.* here (00.csv, 01.csv, 02.csv, 03.csv, 04.csv, 05.csv, 06.csv, 07.csv, 08.csv, 09.csv, "
         "…); give --data FILE"),
    ],
)  # fmt: skip
def test_a_folder_without_the_one_file_is_refused(tmp_path, names, what):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError) as error:
        find_files(tmp_path, HUB.stems)
    assert str(error.value) == f"{tmp_path}: {what}"


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "test.jsonl").mkdir()
    with pytest.raises(InputError, match="no data files"):
        find_files(tmp_path, HUB.stems)


def test_shards_are_joined_in_order(tmp_path):
    first = write(tmp_path / "test-00000-of-00002.parquet", rows("a", "b"))
    second = write(tmp_path / "test-00001-of-00002.parquet", rows("c"))
    source = load_rows(HUB, str(tmp_path))
    assert questions(source) == ["a", "b", "c"]
    digest = hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert source.version == f"sha256:{digest[:12]}"


def test_a_clone_with_a_folder_for_each_configuration(tmp_path):
    write(tmp_path / "algebra" / "test-00000-of-00001.parquet", rows("a"))
    write(tmp_path / "geometry" / "test-00000-of-00001.parquet", rows("g"))
    assert questions(load_rows(MANY, str(tmp_path))) == ["a", "g"]
    write(tmp_path / "test.jsonl", rows("x"))
    assert questions(load_rows(HUB, str(tmp_path))) == ["x"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"question": "b", "x": 1}', ":2: no column 'q'; there is question, x"),
        ('{"q": "  "}', ":2: 'q' must be non-blank text"),
        ('{"q": 3}', ":2: 'q' must be non-blank text"),
        ('{"q": "b"', ":2: invalid JSON"),
        ("[1]", ":2: a row must be an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, what):
    path = tmp_path / "any.jsonl"
    path.write_text('{"q": "a"}\n' + line + "\n")
    with pytest.raises(InputError) as error:
        load_rows(HUB, str(path))
    assert str(error.value).startswith(f"{path}{what}")


def test_other_bad_data(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        load_rows(HUB, str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="unknown kind of file"):
        load_rows(HUB, str(tmp_path / "notes.txt"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"empty\.jsonl: has no rows"):
        load_rows(HUB, str(tmp_path / "empty.jsonl"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="corrupt Parquet"):
        load_rows(HUB, str(tmp_path / "broken.parquet"))


def test_text_of():
    assert text_of(SourceRow("f:1", {"q": " a "}), "q") == " a "


def test_sources_read_once_and_tell_versions(tmp_path):
    path = write(tmp_path / "test.jsonl", rows("a"))
    sources = Sources(str(tmp_path))
    assert sources.versions == {}
    read = sources.rows("test", HUB)
    path.unlink()
    assert sources.rows("test", HUB) is read
    assert list(sources.versions) == ["test"]
    sources.refuse_single_file()
    Sources(None).refuse_single_file()
    write(path, rows("a"))
    with pytest.raises(InputError, match=r"test.jsonl: the examples come from train; give a folder"):
        Sources(str(path)).refuse_single_file()


def on_hub(monkeypatch, made):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return made(args[1])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_hub(monkeypatch):
    dataset = datasets.Dataset.from_list(rows("a", "b"))
    asked = on_hub(monkeypatch, lambda config: dataset)
    assert load_rows(HUB) == Source(
        (SourceRow("owner/set test: row 1", {"q": "a"}), SourceRow("owner/set test: row 2", {"q": "b"})),
        f"owner/set@{dataset._fingerprint}",
    )
    assert asked == [(("owner/set", None), {"split": "test"})]


def test_configurations_are_joined_and_their_commit_is_the_version(monkeypatch, tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    made = {}
    for config in ("algebra", "geometry"):
        folder = tmp_path / "owner___set" / config / "0.0.0" / commit
        datasets.Dataset.from_list(rows(config)).save_to_disk(folder)
        made[config] = datasets.Dataset.from_file(str(folder / "data-00000-of-00001.arrow"))
    asked = on_hub(monkeypatch, made.get)
    source = load_rows(MANY)
    assert [row.where for row in source.rows] == ["owner/set algebra test: row 1", "owner/set geometry test: row 1"]
    assert questions(source) == ["algebra", "geometry"]
    assert source.version == "owner/set@0123456789ab"
    assert [args for args, _ in asked] == [("owner/set", "algebra"), ("owner/set", "geometry")]


def test_bad_rows_on_the_hub(monkeypatch):
    on_hub(monkeypatch, lambda config: datasets.Dataset.from_list([{"x": "a"}]))
    with pytest.raises(InputError, match="owner/set test: row 1: no column 'q'; there is x"):
        load_rows(HUB)
    on_hub(monkeypatch, lambda config: datasets.Dataset.from_list([]))
    with pytest.raises(InputError, match="owner/set: has no rows"):
        load_rows(HUB)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'owner/set' on the Hub (OfflineModeIsEnabled)"),
        OfflineModeIsEnabled("offline"),
        LocalEntryNotFoundError("nothing cached"),
        EntryNotFoundError("no such entry"),
        DatasetNotFoundError("Dataset 'owner/set' doesn't exist on the Hub or cannot be accessed."),
        FileNotFoundError("Couldn't find any data file"),
        EmptyDatasetError("empty"),
        DatasetGenerationError("An error occurred"),
        TimeoutError(),
        HTTPError("the peer closed the connection"),
        ValueError("Couldn't find cache for owner/set\nAvailable configs in the cache: ['x']"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_keeps_the_hub_away_is_one_line(monkeypatch, error):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError) as raised:
        load_rows(HUB)
    reason = str(error).split("\n")[0] or type(error).__name__
    assert str(raised.value) == f"owner/set: cannot be loaded from the hub ({reason}); give --data FILE or FOLDER"


def test_the_hub_is_off_in_the_tests():
    with pytest.raises(InputError, match=r"cannot be loaded from the hub \(.*Offline.*\); give --data"):
        load_rows(HUB)


def test_a_mistake_of_ours_is_not_taken_for_an_outage(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise TypeError

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(TypeError):
        load_rows(HUB)
