"""How much of the rate of llama.cpp's server does `stepcredit collect` keep, at equal concurrency?

Two clients in turn, several times, on one server of SmolLM2-135M-Instruct (`make assets llama-server`), both with as
many requests at a time as the server has slots:

- bare: the requests of `collect`, byte for byte, sent by threads over kept connections; answers are not even parsed;
- collect: sampling, proof, grading and writing, into a new folder.

A rate is tokens per second of wall-clock time. On a machine with other work it says more about that work than about the
client, so the occupancy is measured, too: the seconds that the server itself reports for the requests, divided by slots
times wall-clock seconds. What is missing to 1 is time in which a slot had nothing to do. CPU seconds are the client's.

    python -m runs.servers.throughput GSM8K_FOLDER runs/servers/throughput.json [ROUNDS]
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from threading import local
from typing import Any
from urllib.parse import urlsplit

from runs.servers.llama_cpp import CACHE, llama_server
from stepcredit.engines.server.connection import Server
from stepcredit.episodes.store import load_episodes
from stepcredit.files import write_json
from stepcredit.results.provenance import versions
from stepcredit.rollouts.collect import CollectConfig, collect

SLOTS, PROMPTS, SAMPLES, LENGTH = 4, 8, 3, 24


def collected(url: str, data: str, folder: Path) -> dict[str, float]:
    """Collects, and returns tokens, seconds and CPU seconds; loading of tokenizer and task is not counted, because it
    does not grow with the number of responses."""
    config = CollectConfig(
        task="gsm8k", data=data, split="test", limit=PROMPTS, num_generations=SAMPLES, max_new_tokens=LENGTH,
        model=str(CACHE / "smollm2"), output_dir=str(folder), engine="openai", base_url=[url], concurrency=SLOTS,
    )  # fmt: skip
    engine = config.load_engine(config.model, config.batch_size, trust_remote_code=False)
    start, cpu = time.perf_counter(), time.process_time()
    collect(config, engine)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    busy = sum(BUSY)
    BUSY.clear()
    episodes = list(load_episodes(folder))
    with_log_prob = sum(e.tokens.behavior_log_prob is not None for e in episodes)
    tokens = sum(int(e.tokens.action_mask.sum()) for e in episodes)
    counts = {"episodes": len(episodes), "with log-probabilities": with_log_prob}
    return {"tokens": tokens, "seconds": seconds, "cpu": cpu, "occupancy": busy / seconds / SLOTS, **counts}


BUSY: list[float] = []
"""Seconds that the server reports for the requests of `collect`."""


def busy_seconds(answer: Any) -> float:
    """Seconds that a slot worked on a request."""
    return float(answer["timings"]["prompt_ms"] + answer["timings"]["predicted_ms"]) / 1000


def bare(url: str, payloads: list[dict[str, Any]]) -> dict[str, float]:
    """Sends requests, and returns tokens, seconds and CPU seconds."""
    kept, parts = local(), urlsplit(url)

    def sent(body: bytes) -> bytes:
        if not hasattr(kept, "connection"):
            kept.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        kept.connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        answer: bytes = kept.connection.getresponse().read()
        return answer

    bodies = [json.dumps(payload).encode() for payload in payloads]
    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(SLOTS) as pool:
        answers = list(pool.map(sent, bodies))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    read = [json.loads(answer) for answer in answers]
    busy = sum(map(busy_seconds, read))
    tokens = sum(len(answer["tokens"]) for answer in read)
    return {"tokens": tokens, "seconds": seconds, "cpu": cpu, "occupancy": busy / seconds / SLOTS}


def main(data: str, output: str, rounds: int = 5) -> None:
    """Measures, and writes the table."""
    payloads: list[dict[str, Any]] = []
    ask = Server.ask

    async def timed(self: Server, path: str, payload: Any = None, *more: Any) -> Any:
        if path != "/completion":
            return await ask(self, path, payload, *more)
        payload = {**payload, "response_fields": [*payload["response_fields"], "timings"]}
        payloads.append(payload)
        answer = await ask(self, path, payload, *more)
        BUSY.append(busy_seconds(answer))
        return answer

    Server.ask = timed  # type: ignore[method-assign]
    found: dict[str, list[dict[str, float]]] = {"bare": [], "collect": []}
    with llama_server(slots=SLOTS) as url, tempfile.TemporaryDirectory() as scratch:
        collected(url, data, Path(scratch, "warm"))
        same = list(payloads)
        for number in range(rounds):
            for name in ("bare", "collect") if number % 2 == 0 else ("collect", "bare"):
                run = bare(url, same) if name == "bare" else collected(url, data, Path(scratch, str(number)))
                found[name].append(run)
                print(number, name, {key: round(value, 3) for key, value in run.items()}, flush=True)
    rate = {name: [run["tokens"] / run["seconds"] for run in several] for name, several in found.items()}
    medians = {
        key: {name: round(median(run[key] for run in several), 3) for name, several in found.items()}
        for key in ("occupancy", "cpu", "seconds")
    }
    ratios = {
        "rate": [one / other for one, other in zip(rate["collect"], rate["bare"], strict=True)],
        "occupancy": [
            one["occupancy"] / other["occupancy"] for one, other in zip(found["collect"], found["bare"], strict=True)
        ],
    }
    about = {"server": "llama.cpp, SmolLM2-135M-Instruct Q4_1, one thread", "requests": PROMPTS * SAMPLES,
             "max_new_tokens": LENGTH, "concurrency": SLOTS, "rounds": rounds}  # fmt: skip
    compared = {name: {"median": round(median(r), 3), "rounds": [round(x, 3) for x in r]} for name, r in ratios.items()}
    write_json(Path(output), {**about, "medians": medians, "collect / bare": compared, "runs": found, **versions()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5)
