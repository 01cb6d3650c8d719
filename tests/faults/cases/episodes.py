"""Episodes and logs: foreign, damaged, of another tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from faults.case import Case, Damage
from faults.cases.commands import GOOD
from faults.cases.damage import JSON_DAMAGE, content, folder_in_place_of, linked_into, loop, shortened
from stepcredit.episodes.delimiters import COLLECTED

SHARD = "episodes/episodes-00000.parquet"


def table(**columns: list[object]) -> Damage:
    """A Parquet file of somebody else's in the place of the shard."""

    def damage(here: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), here / SHARD)

    return damage


def column(name: str, change: object) -> Damage:
    """The shard with another column of this name; None: without it."""

    def damage(here: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        read = pq.read_table(here / SHARD)
        at = read.column_names.index(name)
        read = read.remove_column(at)
        if change is not None:
            read = read.add_column(at, name, pa.array([change] * len(read)))
        pq.write_table(read, here / SHARD)

    return damage


def ids(number: int) -> Damage:
    """Collected episodes, one of whose token ids is this."""

    def damage(here: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        shutil.rmtree(here / "episodes")
        shutil.copytree(here / "collected", here / "episodes")
        read = pq.read_table(here / SHARD)
        at = read.column_names.index("ids")
        rows = [
            [number if k == len(row) - 1 else token for k, token in enumerate(row)] for row in read["ids"].to_pylist()
        ]
        changed = pa.array(rows, read.schema.field("ids").type)
        pq.write_table(read.set_column(at, read.schema.field("ids"), changed), here / SHARD)

    return damage


def no_episodes(here: Path) -> None:
    """An empty folder."""
    shutil.rmtree(here / "episodes")
    (here / "episodes").mkdir()


DAMAGE: dict[str, Damage] = {
    "no folder": lambda here: shutil.rmtree(here / "episodes"),
    "an empty folder": no_episodes,
    "a file": lambda here: (shutil.rmtree(here / "episodes"), (here / "episodes").write_text("x")),
    "an empty shard": content(SHARD, b""),
    "a truncated shard": shortened(SHARD, 0.5),
    "a shard of text": content(SHARD, "not parquet"),
    "a folder in place of the shard": folder_in_place_of(SHARD),
    "foreign Parquet": table(a=[1, 2], b=["x", "y"]),
    "foreign Parquet, a prompt alone": table(prompt=["a"]),
    "foreign Parquet of no rows": table(a=[]),
    "a prompt of numbers": column("prompt", 3),
    "a reward of text": column("reward", "good"),
    "no completion": column("completion", None),
    "no prompt ids": column("prompt_id", None),
    "a reward of NaN": column("reward", float("nan")),
    "a verdict of its own": column("verdict", "maybe"),
}

LOGS = {
    "no file": lambda here: (here / "logs.jsonl").unlink(),
    "a folder": folder_in_place_of("logs.jsonl"),
    "empty": content("logs.jsonl", b""),
    "no JSON": content("logs.jsonl", b"{\n"),
    "a list": content("logs.jsonl", b"[1]\n"),
    "a row without a reward": content("logs.jsonl", b'{"prompt": "a", "completion": "b"}\n'),
    "a reward of NaN": content("logs.jsonl", b'{"prompt": "a", "completion": "b", "reward": NaN}\n'),
    "a reward out of range": content("logs.jsonl", b'{"prompt": "a", "completion": "b", "reward": 9}\n'),
    "a reward of 5,000 digits": content(
        "logs.jsonl", b'{"prompt": "a", "completion": "b", "reward": ' + b"9" * 5000 + b"}\n"
    ),
    "deep JSON": content("logs.jsonl", b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
    "no UTF-8": content("logs.jsonl", b'{"prompt": "\xff"}\n'),
    "NUL": content("logs.jsonl", b"\x00\x00\x00\n"),
    "a pickle": content("logs.jsonl", b"\x80\x04\x95\x0b\x00\x00\x00.\n"),
    "chat without roles": content("logs.jsonl", b'{"messages": [{"content": "a"}], "reward": 1}\n'),
    "chat that is text": content("logs.jsonl", b'{"messages": "hello", "reward": 1}\n'),
    "the same sample twice": content(
        "logs.jsonl", b'{"prompt": "a", "completion": "b", "reward": 1, "prompt_id": "x", "sample": 0}\n' * 2
    ),
}
ANSWERS = {
    "no file": lambda here: (here / "answers.jsonl").unlink(),
    "a folder": folder_in_place_of("answers.jsonl"),
    "empty": content("answers.jsonl", b""),
    "no JSON": content("answers.jsonl", b"{\n"),
    "no answer": content("answers.jsonl", b'{"response": "1"}\n'),
    "no response": content("answers.jsonl", b'{"answer": "1"}\n'),
    "a response that is a number": content("answers.jsonl", b'{"response": 1, "answer": "1"}\n'),
    "columns that are added": content("answers.jsonl", b'{"response": "1", "answer": "1", "reward": 1}\n'),
    "no UTF-8": content("answers.jsonl", b'{"response": "\xff", "answer": "1"}\n'),
}


FOREIGN = {
    "a group without rewards": b'{"context": [{"role": "user", "content": "q"}], "completions": [{"rank": 0}]}\n',
    "a trace with a loop": b'{"task": {}, "nodes": [{"parent": 0, "message": {"role": "user", "content": "q"}}]}\n',
    "a batch without requests": b'{"custom_id": "a", "response": {"body": {}}, "error": null}\n',
}


def steps_of(folder: str, delimiters: list[str]) -> Damage:
    """Collected episodes of a task whose steps end otherwise."""

    def damage(here: Path) -> None:
        manifest = here / folder / COLLECTED
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "step_delimiters": delimiters}))

    return damage


def cases() -> Iterator[Case]:
    """What train, compare, inspect, import and grade are given."""
    for how, damage in DAMAGE.items():
        for name in ("train", "inspect", "compare"):
            yield Case("episodes", f"{name}, {how}", GOOD[name], damage=damage, says=("episodes",))
    train = list(GOOD["train"])
    at = train.index("episodes") + 1
    for how, second, damage, says in (
        ("the same twice", "episodes", None, ("the same episodes", "episodes")),
        ("one by two names", "./episodes", None, ("the same episodes", "episodes")),
        ("the second is not there", "nowhere", None, ("nowhere",)),
        ("other steps", "collected", steps_of("collected", ["; "]), ("collected", "step_delimiters")),
    ):
        command = [*train[:at], second, *train[at:]]
        yield Case("several folders of episodes", how, command, damage=damage, says=says)
    for number in (-1, 100_000, 2**31 - 1):
        lost = {
            "train": ["--truncated", "zero"],
            "compare": ["--methods", "oreo", "--settings", '{"all": {"truncated": "zero"}}'],
        }
        for name, more in lost.items():
            command = [*GOOD[name], *more]
            yield Case("ids out of range", f"{name}, {number}", command, damage=ids(number), says=(str(number),))
    for how, damage in LOGS.items():
        yield Case("logs", how, GOOD["import"], damage=damage, says=("logs.jsonl",) if how != "empty" else ())
    for how, line in FOREIGN.items():
        yield Case("logs", how, GOOD["import"], damage=content("logs.jsonl", line), says=("logs.jsonl:1",))
    for how, bytes_ in (("no zip", b"x"), ("half a zip", b"PK\3\4")):
        command = ["import", "logs.eval", "--output_dir", "out"]
        yield Case("logs", f".eval, {how}", command, damage=content("logs.eval", bytes_), says=("logs.eval",))
    for how, damage in ANSWERS.items():
        yield Case("answers", how, GOOD["grade"], damage=damage, says=("answers.jsonl",) if how != "empty" else ())
    for suffix in ("xlsx", "txt", "bin"):
        command = ["import", f"logs.{suffix}", "--output_dir", "out"]
        yield Case("logs", f".{suffix}", command, damage=content(f"logs.{suffix}", b"x"), says=(f"logs.{suffix}",))
    for how, damage in JSON_DAMAGE.items():
        at = "collected/collect.json"
        command = ["collect", "--task", "arithmetic", "--model", "policy", "--limit", "4", "--num_generations", "2"]
        command += ["--max_new_tokens", "4", "--output_dir", "collected"]
        yield Case("manifests", f"collect, {how}", command, damage=damage(at), says=("collect",))
        if how not in ("{}",):
            train = [*GOOD["train"]]
            train[train.index("episodes")] = "collected"
            yield Case("manifests", f"train, {how}", train, damage=damage(at), says=("collect.json",))
    for name in ("train", "inspect"):
        command = ["nowhere" if word == "episodes" else word for word in GOOD[name]]
        yield Case("symlink loops", f"{name}, episodes", command, damage=loop("nowhere"), says=("nowhere",))
    yield Case(
        "symlink loops",
        "collect, the policy",
        [*GOOD["collect"], "--model", "again"],
        damage=loop("again"),
        says=("again",),
    )
    yield Case(
        "symlink loops",
        "the output",
        [*GOOD["collect"], "--output_dir", "again"],
        damage=loop("again"),
        says=("again",),
    )
    yield Case(
        "symlink loops",
        "a folder within itself",
        [*GOOD["collect"], "--output_dir", "episodes"],
        damage=linked_into("episodes"),
        says=("episodes",),
    )
