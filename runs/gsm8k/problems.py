"""Problems in words that a small model can learn from and fail at, and two sets to which that should carry over.

Made from reasoning-gym's `gsm_symbolic` (templates of GSM8K problems with other names and numbers): the problems whose
question has at most 62 tokens of SmolLM2's tokenizer, whose worked solution has at most 75, and in whose solution no
number is above 40. About one in fourteen is kept. The package's request to end with the result is cut off, so that a
row is one of GSM8K: `question` and `answer`, a worked solution that ends in `#### N`.

    sft.jsonl          demonstrations for the start
    train.jsonl        prompts of the training episodes
    validation.jsonl   for the choice of settings
    test.jsonl         for the numbers that are published
    svamp.jsonl        SVAMP's test problems
    gsm8k_short.jsonl  GSM8K's test problems of at most three steps, 80 tokens of the prompt and 110 of the solution

No two of these files share a question. The first four share their templates: a policy is tested on other names and
numbers in sentences that it has seen; SVAMP and GSM8K have sentences that it has not.

    python runs/gsm8k/problems.py OUT --data FOLDER     # FOLDER has gsm8k_test.* and svamp_test.*; a minute

Writes the files and OUT/manifest.json: counts, templates, hashes and versions.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.metadata import version
from os import environ
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stepcredit.files import write_json, written_whole
from stepcredit.tasks.registry import load_task
from stepcredit.tasks.sources import HubDataset, load_rows
from stepcredit.tasks.task import Problem

QUESTION, SOLUTION, LARGEST = 62, 75, 40
SHORT_STEPS, SHORT_PROMPT, SHORT_SOLUTION = 3, 80, 110
REQUEST = " Give the result as your final answer. Do not include units."
SIZES = {"sft": 900, "train": 512, "validation": 200, "test": 600}
FROM = {"sft": "train"}

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_EQUATION = re.compile(r"(?P<left>[-+*/x.() \d]*\d[-+*/x.() \d]*)=\s*(?P<right>\d+(?:\.\d+)?)")
_NOTE = re.compile(r"<<[^<>]*>>")


class Filter:
    """Which problems are short, have small numbers and a worked solution whose equations are true."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def tokens(self, text: str) -> int:
        """Number of tokens of a text."""
        return len(self.tokenizer.encode(text).ids)

    def keeps(self, question: str, solution: str) -> bool:
        """Whether a problem of `gsm_symbolic` is kept."""
        return (
            max(float(n.replace(",", "")) for n in _NUMBER.findall(solution)) <= LARGEST
            and self.tokens(question) <= QUESTION
            and self.tokens(solution) <= SOLUTION
            and not any(left != right for left, right in equations(solution))
        )

    def is_short(self, question: str, answer: str) -> bool:
        """Whether a problem of GSM8K has few steps and tokens."""
        solution = _NOTE.sub("", answer).strip()
        return (
            solution.count("\n") <= SHORT_STEPS
            and self.tokens(question) <= SHORT_PROMPT
            and self.tokens(solution) <= SHORT_SOLUTION
        )


def equations(solution: str) -> Iterator[tuple[Fraction, Fraction]]:
    """The two sides of each `sum = number` in a text: `10 x 2` and `20`. Units and what cannot be read are left out.

    reasoning-gym rounds in some solutions (`28 / 21 = 1`, `35.16 - 4.16 = 30`); those teach a wrong sum.
    """
    for found in _EQUATION.finditer(re.sub(r"(?<=\d)%", "", re.sub(r"[$£€]", "", solution))):
        try:
            left = _value(ast.parse(found["left"].replace("x", "*").strip(), mode="eval").body)
        except (SyntaxError, ZeroDivisionError):
            continue
        if left is not None:
            yield left, Fraction(found["right"])


_SIGNS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.expr) -> Fraction | None:
    """The exact value of a sum of numbers; None if it is anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        left, right = _value(node.left), _value(node.right)
        return None if left is None or right is None else _SIGNS[type(node.op)](left, right)
    return None


def symbolic(keeps: Callable[[str, str], bool], sizes: dict[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
    """The first problems that are kept: `sizes` by file, each from the split of its name (`sft` from train)."""
    task = load_task("reasoning-gym:gsm_symbolic", prompt_style="plain")
    files: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "validation", "test"):
        wanted = {file: size for file, size in sizes.items() if FROM.get(file, file) == split}
        rows: list[dict[str, Any]] = []
        drawn = 10 * sum(wanted.values())
        while len(rows) < sum(wanted.values()):
            drawn *= 2
            problems = map(row_of, task.problems(split, drawn, seed))
            rows = [row for row in problems if keeps(row["question"], row["answer"])]
        for file, size in wanted.items():
            files[file], rows = rows[:size], rows[size:]
    return files


def row_of(problem: Problem) -> dict[str, Any]:
    """A problem of the task as a row of GSM8K, without the request to end with the result."""
    question = problem.text.removeprefix("Question: ").removesuffix(f"{REQUEST}\nAnswer:")
    assert problem.solution is not None
    return {"question": question, "answer": problem.solution.strip(), "template": problem.metadata["template"]}


def svamp(data: str) -> list[dict[str, Any]]:
    """SVAMP's test problems as rows of GSM8K; the answer has no worked solution."""
    rows = load_rows(HubDataset("ChilleD/SVAMP", "test", ("Body", "Question"), ("test", "svamp_test")), data).rows
    return [
        {"question": f"{row.data['Body']} {row.data['Question']}", "answer": f"#### {number(row.data['Answer'])}"}
        for row in rows
    ]


def number(value: float) -> str:
    """A number as it is written in GSM8K: 145, not 145.0."""
    return str(int(value)) if value == int(value) else str(value)


def gsm8k_short(data: str, is_short: Callable[[str, str], bool]) -> list[dict[str, Any]]:
    """GSM8K's short test problems, in their order."""
    hub = HubDataset("openai/gsm8k", "test", ("question", "answer"), ("gsm8k_test", "test"), ("main",))
    rows = [{c: row.data[c] for c in hub.columns} for row in load_rows(hub, data).rows]
    return [row for row in rows if is_short(row["question"], row["answer"])]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write one file and return its line of the manifest."""
    text = "".join(
        json.dumps({c: row[c] for c in ("question", "answer")}, ensure_ascii=False) + "\n" for row in rows
    ).encode()
    with written_whole(folder / f"{name}.jsonl") as part:
        part.write_bytes(text)
    kinds = Counter(row["template"] for row in rows if "template" in row)
    return {"problems": len(rows), "sha256": hashlib.sha256(text).hexdigest()} | (
        {"templates": len(kinds), "largest_template": max(kinds.values())} if kinds else {}
    )


def run(folder: Path, tokenizer: Tokenizer, sizes: dict[str, int], seed: int, data: Path | None) -> dict[str, Any]:
    """Write all files and the manifest, and return it."""
    kept = Filter(tokenizer)
    files = symbolic(kept.keeps, sizes, seed)
    templates = {row["template"] for rows in files.values() for row in rows}
    if data is not None:
        files |= {"svamp": svamp(str(data)), "gsm8k_short": gsm8k_short(str(data), kept.is_short)}
    questions = [row["question"] for rows in files.values() for row in rows]
    manifest = {
        "files": {f"{name}.jsonl": write(folder, name, rows) for name, rows in files.items()},
        "templates": len(templates),
        "shared_questions": len(questions) - len(set(questions)),
        "seed": seed,
        "reasoning-gym": version("reasoning-gym"),
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def main() -> None:
    """Read the flags and make the problems."""
    cache = Path(environ.get("STEPCREDIT_ASSETS", Path.home() / ".cache" / "stepcredit"))
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("out", type=Path, help="folder to write to")
    flags.add_argument(
        "--data", type=Path, help="folder with gsm8k_test.* and svamp_test.*; without it neither is made"
    )
    flags.add_argument("--tokenizer", type=Path, default=cache / "smollm2" / "tokenizer.json")
    flags.add_argument("--seed", type=int, default=0)
    for name, size in SIZES.items():
        flags.add_argument(f"--{name}", type=int, default=size, help=f"problems in {name}.jsonl (default {size})")
    given = flags.parse_args()
    sizes = {name: getattr(given, name) for name in SIZES}
    made = run(given.out, Tokenizer.from_file(str(given.tokenizer)), sizes, given.seed, given.data)
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
