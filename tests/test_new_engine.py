"""A new engine is one file and one line: the example of `Engine`'s docstring, in a copy of the package."""

import json

from doubles.examples import Copy, example_of
from stepcredit.engines.engine import Engine
from stepcredit.tasks.arithmetic import Arithmetic

RUN = """
import sys
from pathlib import Path
from stepcredit.cli import main

folder = Path(sys.argv[1])
given = ["--task", "arithmetic", "--model", str(folder / "policy"), "--engine", "toy", "--limit", "3"]
assert main(["collect", *given, "--num_generations", "2", "--output_dir", str(folder / "episodes")]) == 0
assert main(["evaluate", *given, "--output_dir", str(folder / "results")]) == 0
assert main(["evaluate", *given, "--output_dir", str(folder / "no"), "--search", "beam", "--value_model", "v"]) == 2
from stepcredit import load_episodes

for episode in load_episodes(folder / "episodes"):
    assert episode.completion == episode.prompt, episode
"""


def test_an_engine_in_one_file_and_one_line(tmp_path):
    copy = Copy(tmp_path)
    copy.append("engines/toy.py", example_of(Engine))
    copy.append("engines/engine.py", 'ENGINES["toy"] = "stepcredit.engines.toy"\n')
    assert copy.changed() == ["engines/engine.py", "engines/toy.py"]
    Arithmetic().tokenizer().save_pretrained(tmp_path / "policy")
    copy.run(RUN, tmp_path)
    (row,) = json.loads((tmp_path / "results" / "results.json").read_text())
    assert (row["n"], row["accuracy"]) == (3, 0.0)
    assert row["tokens_generated"] > 3
