"""How much of the rate of llama.cpp's server does `stepcredit collect` keep, at equal concurrency?

Three clients in turn, several times, on one server of SmolLM2-135M-Instruct (`make assets llama-server`), all with as
many requests at a time as the server has slots:

- bare: the requests of `collect`, byte for byte, sent by threads over kept connections; answers are not even parsed;
- bare without log-probabilities: the same without `n_probs`, to see what these cost the server;
- collect: sampling, proof, grading and writing, into a new folder.

Rates are tokens per second of wall-clock time; only their ratios are of interest. CPU seconds are those of the client.

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

SLOTS, PROMPTS, SAMPLES, LENGTH = 4, 8, 4, 32


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
    episodes = list(load_episodes(folder))
    with_log_prob = sum(e.tokens.behavior_log_prob is not None for e in episodes)
    tokens = sum(int(e.tokens.action_mask.sum()) for e in episodes)
    return {"tokens": tokens, "seconds": seconds, "cpu": cpu, "episodes": len(episodes), "log_prob": with_log_prob}


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
    return {"tokens": sum(len(json.loads(a)["tokens"]) for a in answers), "seconds": seconds, "cpu": cpu}


def main(data: str, output: str, rounds: int = 5) -> None:
    """Measures, and writes the table."""
    payloads: list[dict[str, Any]] = []
    ask = Server.ask

    async def recorded(self: Server, path: str, payload: Any = None, *more: Any) -> Any:
        if path == "/completion":
            payloads.append(payload)
        return await ask(self, path, payload, *more)

    found: dict[str, list[dict[str, float]]] = {"bare": [], "bare without log-probabilities": [], "collect": []}
    with llama_server(slots=SLOTS) as url, tempfile.TemporaryDirectory() as scratch:
        Server.ask = recorded  # type: ignore[method-assign]
        collected(url, data, Path(scratch, "warm"))
        Server.ask = ask  # type: ignore[method-assign]
        without = [{**payload, "n_probs": 0} for payload in payloads]
        for number in range(rounds):
            runs = {
                "bare": lambda: bare(url, payloads),
                "bare without log-probabilities": lambda: bare(url, without),
                "collect": lambda k=number: collected(url, data, Path(scratch, str(k))),
            }
            names = list(runs) if number % 2 == 0 else list(runs)[::-1]
            for name in names:
                found[name].append(runs[name]())
                last = found[name][-1]
                print(f"{number} {name}: {last['tokens'] / last['seconds']:.1f} tokens/s, {last['cpu']:.2f} s of CPU")
    rate = {name: [run["tokens"] / run["seconds"] for run in several] for name, several in found.items()}
    ratio = [one / other for one, other in zip(rate["collect"], rate["bare"], strict=True)]
    write_json(
        Path(output),
        {
            "server": "llama.cpp, SmolLM2-135M-Instruct Q4_1, one thread",
            "requests": PROMPTS * SAMPLES,
            "max_new_tokens": LENGTH,
            "concurrency": SLOTS,
            "rounds": rounds,
            "median tokens/s": {name: round(median(several), 2) for name, several in rate.items()},
            "collect / bare": {"median": round(median(ratio), 3), "rounds": [round(x, 3) for x in ratio]},
            "median CPU seconds of the client": {
                name: round(median(run["cpu"] for run in several), 3) for name, several in found.items()
            },
            "episodes with log-probabilities": [found["collect"][-1]["log_prob"], found["collect"][-1]["episodes"]],
            "runs": found,
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5)
