"""The process that generates reasoning-gym's problems and runs its verifiers; see `stepcredit.grading.worker`.

It can be killed, its hashes have a fixed seed (six generators iterate over sets), and so has the global randomness that
two generators use. A verifier gets the whole entry, which is generated again from its seed and number.

    in:  {"ask": "check", "name": "chain_sum", "settings": {"min_terms": 2}}
    out: {}                                                          or {"refused": "…"}
    in:  {"ask": "draw", "name": …, "settings": …, "seed": 0, "first": 17, "most": 100}
    out: {"entries": [{"question": …, "answer": …, "solution": …, "template": …}, null]}    null: the generator failed
    in:  {"ask": "score", "name": …, "settings": …, "seed": 0, "draw": 17, "answer": "42"}
    out: {"score": 1.0}                                              or {"error": "…"}
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import sys
import tempfile
import time
from functools import lru_cache
from typing import Any

import numpy as np

from stepcredit.errors import quoted
from stepcredit.grading.worker import serve
from stepcredit.tasks.gym.answer_checks import CHECKS

MEMORY = 4 * 2**30
CHUNK = 1000
"""Entries that are generated from one seed of reasoning-gym, which adds an entry's number to its seed."""
BATCH_SECONDS = 0.5
FIXED = ("seed", "size")
"""Settings of every generator that the adapter sets."""
TRIES = 10
"""Entries of which one must succeed before settings are accepted; some generators fail on some seeds."""
TOGETHER = ("composite",)
"""Datasets made of other datasets."""


def names() -> list[str]:
    """Names of all datasets."""
    from reasoning_gym.factory import DATASETS

    return sorted(name for name in DATASETS if name not in TOGETHER)


def check(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Whether a generator takes some settings; `{"refused": why}` if not."""
    from reasoning_gym.factory import DATASETS

    from stepcredit.settings import resembling

    if name not in names():
        return {
            "refused": f"no dataset {quoted(name)}{resembling(name, names()) or '; there is ' + ', '.join(names())}"
        }
    fields = {field.name: field for field in dataclasses.fields(DATASETS[name][1]) if field.name not in FIXED}
    for setting in settings:
        if setting not in fields:
            known = f"it has {', '.join(fields)}" if fields else "it has none"
            return {"refused": f"{name} has no setting {quoted(setting)}{resembling(setting, fields)}; {known}"}
    why: Exception | None = None
    for number in range(TRIES):
        try:
            _dataset(name, json.dumps(settings), 0)[number]
        except Exception as error:  # noqa: BLE001  a generator may raise anything on a setting of the wrong type
            why = why or error
        else:
            return {}
    given = quoted(", ".join(f"{setting}={value}" for setting, value in settings.items()))
    return {"refused": f"{name} refuses the settings {given}: {str(why) or type(why).__name__}"}


@lru_cache(8)
def _dataset(name: str, settings: str, seed: int) -> Any:
    """A dataset of `CHUNK` entries."""
    import reasoning_gym

    return reasoning_gym.create_dataset(name, seed=seed, size=CHUNK, **json.loads(settings))


@lru_cache(2000)
def _entry(name: str, settings: str, seed: int, draw: int) -> tuple[Any, dict[str, Any] | None]:
    """An entry and the dataset that made it; no entry if the generator failed."""
    chunk, index = divmod(draw, CHUNK)
    chunk_seed = int(np.random.SeedSequence([seed, chunk]).generate_state(1)[0]) >> 1
    dataset = _dataset(name, settings, chunk_seed)
    random.seed(chunk_seed + index)
    np.random.seed(chunk_seed + index)
    try:
        return dataset, dataset[index]
    except Exception:  # noqa: BLE001  some generators give up on some seeds, with errors of many kinds
        return dataset, None


def draw(name: str, settings: str, seed: int, first: int, most: int) -> dict[str, Any]:
    """At most `most` entries from number `first`; fewer if they take long."""
    start = time.monotonic()
    entries: list[dict[str, Any] | None] = []
    while len(entries) < most and (not entries or time.monotonic() - start < BATCH_SECONDS):
        dataset, entry = _entry(name, settings, seed, number := first + len(entries))
        templates = getattr(dataset, "task_indices", None)
        entries.append(
            entry
            and {
                "question": entry["question"],
                "answer": entry["answer"],
                "solution": entry["metadata"].get("answer_cot"),
                "template": templates[number % CHUNK] if templates else None,
            }
        )
    return {"entries": entries}


def score(name: str, settings: str, seed: int, draw: int, answer: str) -> dict[str, Any]:
    """The verifier's score of an answer; `{"error": …}` if it raises."""
    dataset, entry = _entry(name, settings, seed, draw)
    if entry is None:
        return {"error": "the generator makes no such problem"}
    if name in CHECKS and not CHECKS[name](answer, entry):
        return {"score": 0.0}
    try:
        return {"score": float(dataset.score_answer(answer, entry))}
    except Exception as error:  # noqa: BLE001  a verifier may raise anything on an answer of another form
        return {"error": f"{type(error).__name__}: {error}"}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request; what the package prints is dropped."""
    start = time.process_time()
    name, settings = request["name"], json.dumps(request["settings"], sort_keys=True)
    with contextlib.redirect_stdout(io.StringIO()):
        if request["ask"] == "check":
            said = check(name, request["settings"])
        elif request["ask"] == "draw":
            said = draw(name, settings, request["seed"], request["first"], request["most"])
        else:
            said = score(name, settings, request["seed"], request["draw"], request["answer"])
    return {**said, "spent": time.process_time() - start}


def main() -> int:
    """Loads reasoning-gym once and serves."""
    import reasoning_gym  # noqa: F401

    from stepcredit.tasks.gym.safe_forms import disarm

    disarm()
    with tempfile.TemporaryDirectory() as folder:  # some programs of codeio write files
        os.chdir(folder)
        try:
            return serve(answer, MEMORY)
        finally:
            os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
