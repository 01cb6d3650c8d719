"""Problems of MATH for a small model: those of levels 1 and 2 that are short.

Training problems come from the part of MATH's test split that is not in MATH-500, test problems from MATH-500: a policy
trained on them reports no score on MATH's test split. A question has at most 100 tokens of SmolLM2's tokenizer and a
worked solution at most 160.

    sft.jsonl          demonstrations for the start: every second problem
    train.jsonl        prompts of the training episodes
    validation.jsonl   for the choice of settings
    test.jsonl         MATH-500

    python runs/gsm8k/math_problems.py OUT --data FOLDER     # FOLDER has math_train4500.* and math500.*; seconds
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from os import environ
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stepcredit.files import write_json, written_whole
from stepcredit.tasks.math import MATH
from stepcredit.tasks.task import Problem

LEVELS, QUESTION, SOLUTION, VALIDATION = (1, 2), 100, 160, 150


def row_of(problem: Problem) -> dict[str, Any]:
    """A problem as a row of MATH's files."""
    question = problem.text.removeprefix("Question: ").removesuffix("\nAnswer:")
    about = {"level": problem.metadata["level"], "type": problem.metadata["type"]}
    return {"problem": question, "solution": str(problem.solution).strip(), "answer": problem.answer, **about}


def short(problems: Sequence[Problem], tokenizer: Tokenizer, longest: int | None) -> list[dict[str, Any]]:
    """The rows of the levels whose question, and whose solution if there is a limit, are short."""

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    rows = [row for row in map(row_of, problems) if row["level"] in LEVELS and tokens(row["problem"]) <= QUESTION]
    return [row for row in rows if longest is None or tokens(row["solution"]) <= longest]


def write(file: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Writes one file and returns its line of the manifest."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    with written_whole(file) as part:
        part.write_bytes(text)
    return {"problems": len(rows), "sha256": hashlib.sha256(text).hexdigest()}


def run(out: Path, data: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes all files and the manifest, and returns it."""
    task = MATH(str(data), "plain")
    train = short(task.problems("train"), tokenizer, SOLUTION)
    rest = train[1::2]
    files = {
        "sft": train[::2],
        "train": rest[VALIDATION:],
        "validation": rest[:VALIDATION],
        "test": short(task.problems("math500"), tokenizer, None),
    }
    manifest = {
        "files": {f"{name}.jsonl": write(out / f"{name}.jsonl", rows) for name, rows in files.items()},
        "levels": LEVELS,
        "source_versions": task.source_versions,
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def main() -> None:
    """Reads the flags and makes the problems."""
    cache = Path(environ.get("STEPCREDIT_ASSETS", Path.home() / ".cache" / "stepcredit"))
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("out", type=Path, help="folder to write to")
    flags.add_argument("--data", type=Path, required=True, help="folder of MATH's files")
    flags.add_argument("--tokenizer", type=Path, default=cache / "smollm2" / "tokenizer.json")
    given = flags.parse_args()
    print(json.dumps(run(given.out, given.data, Tokenizer.from_file(str(given.tokenizer))), indent=1))


if __name__ == "__main__":
    main()
