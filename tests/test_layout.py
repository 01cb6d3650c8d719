"""Sizes and names of the package's files: what fits on a screen, and one subject per name."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import stepcredit

PACKAGE = Path(stepcredit.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}

SHARED_NAMES = {
    "collect.py": "collecting: the command, and what it does",
    "credit.py": "credit of tokens and steps: the command, and how it is computed",
    "estimate.py": "estimating memory and time: the command, and what it does",
    "evaluate.py": "evaluating: the command, and what it does",
    "dataset.py": "the summary of a dataset: measured, and drawn",
    "generate.py": "generating: the command, and what it does",
    "quickstart.py": "the quickstart: the command, and what it does",
    "pairs.py": "pairs of methods: compared, and drawn",
    "train.py": "training: the command, and what it does",
    "step_credit.py": "credit of steps: measured, and drawn",
}
"""Names that several files have, and the one subject that they share."""


def long(lines, most):
    return {name for name, count in lines.items() if count > most}


def test_no_file_is_longer_than_400_lines():
    assert long({name: text.count("\n") for name, text in SOURCES.items()}, 400) == set()


def test_no_function_is_longer_than_60_lines():
    lines = {
        f"{name}:{node.name}": node.end_lineno - node.lineno + 1
        for name, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert long(lines, 60) == set()


def test_no_package_has_more_than_14_modules():
    counts = Counter(str(Path(name).parent) for name in FILES if not name.endswith("__init__.py"))
    assert long(counts, 14) == set()


def test_a_command_has_at_most_60_lines():
    assert not long({n: text.count("\n") for n, text in SOURCES.items() if n.startswith("commands/")}, 60)


def test_files_of_one_name_have_one_subject():
    places = defaultdict(list)
    for name in FILES:
        if not name.endswith("__init__.py"):
            places[Path(name).name].append(name)
    several = {name for name, found in places.items() if len(found) > 1}
    assert several == set(SHARED_NAMES)


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "misc"])
def test_no_file_is_named_for_nothing(word):
    assert not [name for name in FILES if word in Path(name).stem.split("_")]
