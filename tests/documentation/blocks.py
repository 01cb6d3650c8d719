"""The blocks of README and docs/, and the commands in them."""

import shlex
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = ("_build", "api")
"""Folders of docs/ that the site's builder writes."""
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(p.relative_to(ROOT).as_posix() for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0] not in MADE),
]
SHELL = ("bash", "sh", "console")


class Block(NamedTuple):
    """A fenced block: its page, line, language, options of its first line (`file=x.py`), and text."""

    page: str
    line: int
    language: str
    options: dict
    text: str


def blocks(page):
    """The fenced blocks of a page, in order."""
    found = []
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type == "fence":
            language, *options = token.info.split() or [""]
            named = dict(option.split("=", 1) for option in options if "=" in option)
            found.append(Block(page, token.map[0] + 1, language, named, token.content))
    return found


def commands(block):
    """The commands of a shell block, each in one line, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def words_of(line):
    """The words of a command."""
    return shlex.split(line, comments=True)


def inline_code(page):
    """The code in the lines of a page."""
    tokens = MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
    return [child.content for token in tokens for child in token.children or [] if child.type == "code_inline"]


def own_words(line):
    """The words after `stepcredit`, also where accelerate or torchrun starts it; None for other programs."""
    words = words_of(line)
    if words[0] == "stepcredit":
        return words[1:]
    return words[words.index("stepcredit.cli") + 1 :] if "stepcredit.cli" in words else None
