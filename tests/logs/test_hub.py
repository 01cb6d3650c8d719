"""Datasets of the hub, read by the real package from folders, which it takes in place of names."""

import json

import datasets
import pytest

from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.logs.hub import Subset, read_hub
from stepcredit.logs.import_logs import ImportConfig, import_logs

CARD = """---
configs:
- config_name: graded
  data_files: [{split: train, path: graded.jsonl}, {split: test, path: more.jsonl}]
- config_name: grouped
  data_files: [{split: train, path: grouped.jsonl}]
---
"""


def row(k, **more):
    return {"question": f"q{k // 2}", "answer_text": f"a{k}", "score": k % 2, "info": {"level": k or None}, **more}


@pytest.fixture
def name(tmp_path):
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    answers = [{"completion": [{"role": "assistant", "content": f"a{k}"}], "reward": k} for k in range(2)]
    group = {"context": [{"role": "user", "content": "q"}], "completions": answers}
    for file, rows in (("graded", map(row, range(4))), ("more", [row(9)]), ("grouped", [group])):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    return f"hub:{folder}"


COLUMNS = ["prompt=question", "completion=answer_text", "reward=score"]


def test_a_split_becomes_episodes_beside_files(name, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"question": "own", "answer_text": "a", "score": 1}\n')
    out = str(tmp_path / "out")
    given = {"columns": COLUMNS, "dataset_config": "graded"}
    assert import_logs(ImportConfig([name, str(tmp_path / "own.jsonl")], out, **given)).episodes == 5
    import_logs(ImportConfig([name], out, dataset_split="test", append=True, **given))
    episodes = list(load_episodes(out))
    found = [(e.prompt, e.completion, e.reward) for e in episodes]
    assert found == [*((f"q{k // 2}", f"a{k}", k % 2) for k in range(4)), ("own", "a", 1.0), ("q4", "a9", 1.0)]
    assert [e.metadata.get("info") for e in episodes] == [
        {},
        {"level": 1},
        {"level": 2},
        {"level": 3},
        None,
        {"level": 9},
    ]


def test_rows_of_another_tool_are_converted(name, tmp_path):
    import_logs(ImportConfig([name], str(tmp_path / "out"), dataset_config="grouped"))
    assert [e.sample for e in load_episodes(tmp_path / "out")] == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"dataset_config": "other"},
            r"cannot be read \(.*other.*\); see --dataset_config and --dataset_split, or https",
        ),
        ({"dataset_config": "graded", "dataset_split": "dev"}, r"cannot be read \(.*dev.*\); see --dataset_config"),
        ({}, r"cannot be read \(Config name is missing"),
    ],
)
def test_what_is_not_there_is_one_line(name, tmp_path, given, message):
    with pytest.raises(InputError, match=message) as told:
        import_logs(ImportConfig([name], str(tmp_path / "out"), **given))
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["hub:", "hub:no/such-dataset-here"])
def test_a_dataset_that_is_not_there(tmp_path, source):
    with pytest.raises(InputError, match=r"^hub:"):
        import_logs(ImportConfig([source], str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_connection_that_ends_in_between_leaves_nothing(name, tmp_path, monkeypatch):
    class Broken:
        info = datasets.DatasetInfo()

        def __iter__(self):
            yield row(0)
            raise ConnectionError("the server went away\nmore")

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **given: Broken())
    with pytest.raises(InputError, match=r"cannot be read after row 1 \(the server went away\)$"):
        import_logs(ImportConfig([name], str(tmp_path / "out"), columns=COLUMNS))
    assert not (tmp_path / "out").exists()


def test_rows_come_as_they_arrive(name, monkeypatch):
    asked = []

    class Arriving:
        info = datasets.DatasetInfo(splits={"train": {"name": "train", "num_examples": 4}})

        def __iter__(self):
            for k in range(4):
                asked.append(k)
                yield row(k)

    def streamed(*args, streaming, **given):
        assert streaming
        return Arriving()

    monkeypatch.setattr(datasets, "load_dataset", streamed)
    rows = read_hub(name, Subset())
    assert next(rows).progress == 0.25
    assert asked == [0]
    assert [found.progress for found in rows] == [0.5, 0.75, 1.0]
