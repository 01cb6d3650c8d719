"""The real parser takes every command in README and docs/; other programs are known, and what they name exists."""

import dataclasses
import importlib
import re
import tomllib

import pytest

from docs.tables import settings_of
from documentation.blocks import PAGES, ROOT, SHELL, blocks, commands, inline_code, own_words, words_of
from documentation.stand_ins import FOREIGN, FOREIGN_FLAGS, replaced
from stepcredit.cli import COMMANDS
from stepcredit.errors import InputError
from stepcredit.training.methods import METHODS

LINES = [(b.page, line) for page in PAGES for b in blocks(page) if b.language in SHELL for line in commands(b)]
OURS = [(page, line) for page, line in LINES if own_words(line) is not None]
OTHERS = [(page, line) for page, line in LINES if own_words(line) is None]


class Parsed(BaseException):
    """Ends a command when its flags are parsed."""


def parsed(words, monkeypatch):
    """The settings that the parser makes of a command."""
    module = importlib.import_module(f"stepcredit.commands.{COMMANDS[words[0]].module}")
    found, parse = [], module.parse

    def parse_only(*arguments):
        found.extend(parse(*arguments))
        raise Parsed

    monkeypatch.setattr(module, "parse", parse_only)
    with pytest.raises(Parsed):
        COMMANDS[words[0]].run(words[1:])
    return found


@pytest.mark.parametrize(("page", "line"), OURS, ids=[f"{p}:{x[:60]}" for p, x in OURS])
def test_the_parser_takes_it(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert parsed(own_words(replaced(line).replace("RECIPES/", "recipes/")), monkeypatch)


def test_a_wrong_flag_is_found(monkeypatch):
    with pytest.raises(InputError, match="--serach"):
        parsed(["evaluate", "--task", "gsm8k", "--model", "x", "--output_dir", "y", "--serach", "beam"], monkeypatch)


@pytest.mark.parametrize(("page", "line"), OTHERS, ids=[f"{p}:{x[:60]}" for p, x in OTHERS])
def test_other_programs_are_known_and_what_they_name_exists(page, line):
    program, *words = words_of(line)
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words if "=" not in word} <= targets
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        named = re.findall(r"stepcredit\[([\w,-]+)\]", line)
        assert named
        assert set(",".join(named).split(",")) <= set(extras)
    else:
        assert program in FOREIGN


def settings():
    """The names of all settings of all commands and methods."""
    calls = [[name] for name in COMMANDS if name not in ("train", "estimate", "alfworld")]
    calls += [["alfworld", verb] for verb in ("build", "demonstrate")]
    calls += [[verb, "--method", name] for verb in ("train", "estimate") for name in METHODS]
    return {field.name for call in calls for kind in settings_of(call) for field in dataclasses.fields(kind)}


@pytest.fixture(scope="module")
def known():
    return settings() | {"config", "help", "version"} | FOREIGN_FLAGS.keys()


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/LOG.md"])  # whose entries keep the old names
def test_flags_in_a_sentence_exist(page, known):
    code = [text for text in inline_code(page) if text.startswith(("--", "stepcredit "))]
    named = {flag for text in code for flag in re.findall(r"(?<![\w-])--(\w[\w-]*)", text)}
    assert not named - known
    verbs = {text.split()[1] for text in code if re.match(r"stepcredit \w", text)}
    assert not verbs - COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_in_a_block_without_a_language(page):
    hidden = [b for b in blocks(page) if b.language not in SHELL and re.search(r"^(\$ )?stepcredit \w", b.text, re.M)]
    assert not hidden
