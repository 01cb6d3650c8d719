"""The blocks of README and docs/ run, page by page, in a folder with what the page takes as given.

`stand_ins.py` lists what stands in for the hub, servers and GPUs, and the commands that are only parsed, with reasons.
"""

import os
import shutil
from contextlib import chdir

import pytest

from documentation import workspace
from documentation.blocks import PAGES, ROOT, SHELL, blocks, commands, own_words
from documentation.stand_ins import DRY, NEEDS, PARSED, matches, replaced
from stepcredit.cli import main


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    with chdir(folder):
        workspace.fill(folder)
    return folder


def runs(block):
    """Whether a block has something to run."""
    if block.language not in SHELL:
        return block.language == "python"
    return any(own_words(line) and not matches(PARSED, line) for line in commands(block))


RUN = [page for page in PAGES if any(runs(block) for block in blocks(page))]


class Run:
    """Blocks that run one after the other: what they have written is theirs, and replaces what was given."""

    def __init__(self):
        self.written, self.names = set(), {"__name__": "documentation"}

    def block(self, block):
        if block.language == "python" and "file" in block.options:
            with open(block.options["file"], "w", encoding="utf-8") as file:
                file.write(block.text)
        elif block.language == "python":
            exec(compile(replaced(block.text), f"{block.page}:{block.line}", "exec"), self.names)
        elif block.language in SHELL:
            for line in commands(block):
                if own_words(line) and not matches(PARSED, line):
                    self.command(line)

    def command(self, line):
        words = own_words(replaced(line).replace("RECIPES/", f"{ROOT}/recipes/"))
        if matches(DRY, line) and "--dry_run" not in words:
            words += ["--dry_run", "true"]
        for flag in ("--output_dir", "--output"):
            if flag in words and (path := words[words.index(flag) + 1]) not in self.written:
                self.written.add(path)
                if os.path.isfile(path):
                    os.remove(path)
                elif "--append" not in words:
                    shutil.rmtree(path, ignore_errors=True)
        assert main(words) == 0, line


@pytest.mark.long
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run(page, given, tmp_path, monkeypatch):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page], reason="an extra of stepcredit, which the page installs")
    parts = [[block] for block in blocks(page) if runs(block)]
    if page.startswith("docs/tutorials/"):  # one run from the first block to the last; blocks of others stand alone
        parts = [blocks(page)]
    for number, part in enumerate(parts):
        shutil.copytree(given, tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        run = Run()
        for block in part:
            run.block(block)
