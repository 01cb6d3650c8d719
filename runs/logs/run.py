"""How much memory and time do `import`, `inspect`, `grade`, reading episodes and encoding them take, 10^4 to 10^6 rows?

Rows are the Llama-2 responses to GSM8K of DATA, repeated with other prompts until there are enough: 1.2 kB a row, 16
responses a prompt, or one. `grade` gets rows of 0.1 kB with a number each. Every command runs in a process of its own;
memory is the highest that the operating system has seen of it, time is processor time, which other work on the machine
disturbs less than time on the clock (which is measured, too). The stages are measured on 10,000 rows in this process.

`train` is what training does with the episodes before a model reads them, with SmolLM2's tokenizer (`make assets`).

    python -m runs.logs.run DATA runs/logs/results.json [ROWS …]      # 10^4 10^5 10^6: 9 GB in the temporary folder

goes on where it stopped, and writes the tables into docs/reliability.md.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from runs.logs.tables import tables
from stepcredit.episodes.measures import measures_of_rows
from stepcredit.episodes.records import SCHEMA, to_batch
from stepcredit.episodes.steps import StepRule
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.files import write_json
from stepcredit.logs.columns import ImportRules
from stepcredit.logs.formats import read_rows
from stepcredit.logs.importers import EpisodeImporter
from stepcredit.results.provenance import versions

ROLLOUTS = "gsm8k_test_rollouts_llama2chat_k16.jsonl.gz"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
MARKER = re.compile(r"(<!-- logs -->\n)(.*?)(<!-- end of logs -->)", re.DOTALL)
READ = "from stepcredit import load_episodes; import sys; print(sum(1 for e in load_episodes(sys.argv[1])))"
LOAD = """
import sys
from torch.utils.data import DataLoader
from stepcredit import OREOConfig, load_episodes
from stepcredit.models.loading import load_tokenizer
from stepcredit.training.batching import Collator, sampler_of
from stepcredit.training.data import prepare
from stepcredit.training.methods import METHODS
args = OREOConfig(output_dir="none", use_cpu=True, report_to="none")
data = prepare(load_episodes(sys.argv[1]), load_tokenizer(sys.argv[2]), args, METHODS["oreo"])
batches = DataLoader(data, 8, sampler=sampler_of(data.items, args, 8), collate_fn=Collator(0))
print(sum(len(batch["prompt_id"]) for batch in batches))
"""
"""What training does with episodes before a model reads them: encodes them, and reads an epoch's micro-batches."""
LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
"""A small process that starts a command: the highest memory of a process counts that of the one which started it."""
STAGE_ROWS = 10_000
ASSETS = Path(os.environ.get("STEPCREDIT_ASSETS", Path.home() / ".cache" / "stepcredit"))


def responses(data: Path, samples: int) -> Iterator[dict[str, Any]]:
    """Real rows without end, with `samples` responses to a prompt."""
    with gzip.open(data / ROLLOUTS, "rt", encoding="utf-8") as lines:
        rows = sorted(map(json.loads, lines), key=lambda row: row["qid"])
    number = 0
    for _ in count():
        for row in rows:
            yield {**row, "prompt": f"{number // samples}. {row['prompt']}", "qid": number // samples}
            number += 1


def answers() -> Iterator[dict[str, Any]]:
    """Short rows without end, two thirds of them right."""
    for k in count():
        said = f"{k} + {k % 7} is {k + k % 7}.\n#### {k + k % 7 + (k % 3 == 0)}"
        yield {"prompt": f"What is {k} + {k % 7}?", "response": said, "answer": str(k + k % 7)}


def write(rows: Iterator[dict[str, Any]], file: Path) -> str:
    """Writes rows as JSON lines."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return str(file)


def measured(*arguments: str) -> dict[str, float]:
    """Runs Python in a process of its own; returns its seconds, CPU seconds and highest memory in MB."""
    launched = subprocess.run([sys.executable, "-c", LAUNCHER, sys.executable, *arguments], check=True, text=True,
                              stdout=subprocess.PIPE)  # fmt: skip
    seconds, cpu, memory = json.loads(launched.stdout)
    return {"seconds": round(seconds, 1), "cpu": round(cpu, 1), "memory": round(memory / 1024)}


def commands(data: Path, rows: int, samples: int, scratch: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Runs the commands on so many rows."""
    logs, episodes = scratch / "logs.jsonl", str(scratch / "episodes")
    write(islice(responses(data, samples), rows), logs)
    size = {"input": round(logs.stat().st_size / 1e6, 1)}
    yield "import", {**size, **measured("-m", "stepcredit.cli", "import", str(logs), "--output_dir", episodes)}
    logs.unlink()
    yield "inspect", {**size, **measured("-m", "stepcredit.cli", "inspect", episodes, "--json")}
    yield "read", {**size, **measured("-c", READ, episodes)}
    yield "train", {**size, **measured("-c", LOAD, episodes, str(ASSETS / "smollm2"))}


def graded(rows: int, scratch: Path) -> dict[str, float]:
    """Grades so many rows."""
    logs = scratch / "answers.jsonl"
    write(islice(answers(), rows), logs)
    out = str(scratch / "graded.jsonl")
    size = round(logs.stat().st_size / 1e6, 1)
    return {"input": size, **measured("-m", "stepcredit.cli", "grade", str(logs), "--output", out)}


def stages(data: Path, scratch: Path) -> dict[str, float]:
    """CPU microseconds a row of each stage of import and inspect, the least of three."""
    file, found = scratch / "logs.jsonl", {}
    write(islice(responses(data, 16), STAGE_ROWS), file)

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        least = float("inf")
        for _ in range(3):
            start = time.process_time()
            result = work()
            least = min(least, time.process_time() - start)
        found[stage] = round(least / STAGE_ROWS * 1e6, 2)
        return result

    lines = timed("import: read lines", lambda: list(file.open("rb")))
    timed("import: parse JSON", lambda: all(json.loads(line.decode()) for line in lines))
    rows = timed("import: all of reading, with checks", lambda: list(read_rows(file)))
    episodes = timed(
        "import: make and number episodes", lambda: list(map(EpisodeImporter(ImportRules()).episode, rows))
    )
    groups = [episodes[k : k + 1024] for k in range(0, STAGE_ROWS, 1024)]
    batches = timed("import: make columns", lambda: [to_batch(group) for group in groups])

    def parquet() -> None:
        with pq.ParquetWriter(io.BytesIO(), SCHEMA, compression="zstd", write_page_checksum=True) as writer:
            for batch in batches:
                writer.write_batch(batch)

    timed("import: write Parquet (in a thread)", parquet)
    append_episodes(scratch / "e", episodes)
    store, rule = load_episodes(scratch / "e"), StepRule()
    timed("inspect: read Parquet", lambda: sum(rows.batch.num_rows for rows in store.rows()))
    timed("inspect: measure rows", lambda: all(measures_of_rows(batch, rule) for batch in batches))
    return found


def main(data: Path, output: Path, sizes: list[int]) -> None:
    """Measures what is not in the output yet, and writes it and the tables."""
    found = json.loads(output.read_text()) if output.exists() else {"stages": {}, "rows": {}}

    def keep(part: str, name: str, result: Any) -> None:
        found[part] = {**found[part], name: result} if name else result
        write_json(output, {**found, **versions()})
        print(part, name, result, flush=True)

    if not (ASSETS / "smollm2").is_dir():
        raise SystemExit(f"{ASSETS / 'smollm2'} is missing: make assets")
    for rows in sizes:
        for samples in (16, 1):
            if f"train {rows} {samples}" not in found["rows"]:
                with tempfile.TemporaryDirectory() as scratch:
                    for name, result in commands(data, rows, samples, Path(scratch)):
                        keep("rows", f"{name} {rows} {samples}", result)
        if f"grade {rows} 1" not in found["rows"]:
            with tempfile.TemporaryDirectory() as scratch:
                keep("rows", f"grade {rows} 1", graded(rows, Path(scratch)))
    if not found["stages"]:
        with tempfile.TemporaryDirectory() as scratch:
            keep("stages", "", stages(data, Path(scratch)))
    text = tables(found)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKER.sub(lambda m: f"{m[1]}\n{text}\n{m[3]}", page), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(rows) for rows in sys.argv[3:]] or [10**4, 10**5, 10**6])
