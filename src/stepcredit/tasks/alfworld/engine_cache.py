"""Cache for repeated computations of the engine; observations are unchanged.

Stock TextWorld translates a game's PDDL twice at every load and reset, parses every rule of its grammar, and derives
the text of every admissible command after every step. Here a game is translated once and cached on disk for all
processes and runs, a rule is parsed once per process, and the text of a command is derived once per game unless actions
can change it.

Every stock environment also loads a copy of the planner's library (34 MB on disk) and never unloads it, so thousands of
games fill a disk. Unloading it crashes the process at exit; here the next game reuses the copy of a closed one.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stepcredit.files import written_whole
from stepcredit.tasks.alfworld.installation import alfworld_module

CACHE = "STEPCREDIT_CACHE"
"""Environment variable: the cache folder; default `~/.cache/stepcredit`."""


def cache_folder() -> Path:
    """The folder of cached translations."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "stepcredit") / "alfworld"


@cache
def cached_environment() -> Any:
    """Returns a subclass of TextWorld's `PddlEnv` with the cache; imports the engine.

    Raises:
        InputError: the extra is not installed.
    """
    pddl = alfworld_module("textworld.envs.pddl.pddl")

    class CachedPddlEnv(pddl.PddlEnv):  # type: ignore[name-defined]
        """TextWorld's `PddlEnv` with the cache of the module docstring."""

        downward_lib: Any

        def __init__(self, infos: Any = None) -> None:
            with _caching():
                super().__init__(infos)

        def close(self) -> None:
            """Closes the environment and frees its library for reuse."""
            super().close()
            if self.downward_lib is not None:
                _SPARE_LIBRARIES.append(self.downward_lib)
                self.downward_lib = None

        def load(self, filename_or_data: Any) -> None:
            with _caching():
                super().load(filename_or_data)
            self._logic.grammar = _Grammar(self._logic, self._pddl_state.task)

        def reset(self) -> Any:
            with _caching():
                return super().reset()

        def step(self, command: str) -> Any:
            with _caching():
                return super().step(command)

    return CachedPddlEnv


class _Grammar:
    """A game's grammar that caches the text of commands whose facts never change."""

    def __init__(self, logic: Any, task: Any) -> None:
        self._grammar = logic.grammar
        changing = {effect.literal.predicate for action in task.actions for effect in action.effects}
        templates = {action.template for action in logic.actions.values()}
        self._constant = {t for t in templates if not changing & set(re.findall(r"(\w+)\(", t))}
        self._derived: dict[tuple[str, ...], str] = {}

    def derive(self, start: str, context: Any) -> str:
        """The text of `start`, as the stock grammar derives it."""
        if start not in self._constant:
            words: str = self._grammar.derive(start, context)
            return words
        spoken_of = set(re.findall(r"\w+", start))
        variables = sorted((name, of.id) for name, of in context["variables"].items() if name in spoken_of)
        key = (start, *(f"{name}={id}" for name, id in variables))
        if key not in self._derived:
            self._derived[key] = self._grammar.derive(start, context)
        return self._derived[key]


@contextmanager
def _caching() -> Iterator[None]:
    """Context manager under which TextWorld translates and parses through the cache."""
    patched = [
        (alfworld_module("fast_downward"), "load_lib", _library),
        (alfworld_module("fast_downward"), "pddl2sas", _translated),
        (alfworld_module("textworld.envs.pddl.textgen"), "_parse_and_convert", _symbols),
        (alfworld_module("textworld.logic"), "_parse_and_convert", _rule),
    ]
    stock = [getattr(module, name) for module, name, _ in patched]
    for module, name, ours in patched:
        setattr(module, name, ours)
    try:
        yield
    finally:
        for (module, name, _), before in zip(patched, stock, strict=True):
            setattr(module, name, before)


_SPARE_LIBRARIES: list[Any] = []
"""Loaded and unused libraries. A library has one game at a time; loading the next one replaces it."""


def _library() -> Any:
    return _SPARE_LIBRARIES.pop() if _SPARE_LIBRARIES else alfworld_module("fast_downward.interface").load_lib()


def _symbols(text: str, rule_name: str, **given: Any) -> Any:
    """The symbols of a grammar's text; a copy, because a derivation modifies them."""
    return deepcopy(_parsed_symbols(text, rule_name))


@lru_cache(maxsize=4096)
def _parsed_symbols(text: str, rule_name: str) -> Any:
    textgen = alfworld_module("textworld.envs.pddl.textgen")
    return textgen._Converter().walk(textgen._PARSER.parse(text, rule_name=rule_name))


@lru_cache(maxsize=4096)
def _rule(text: str, rule_name: str) -> Any:
    """A rule or query of TextWorld's logic; it is immutable."""
    logic = alfworld_module("textworld.logic")
    return logic._ModelConverter().walk(logic._PARSER.parse(text, rule_name=rule_name))


def _translated(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> tuple[Any, str]:
    """(task, SAS). The optimised translation would serve a planner that is unused here, so it equals the first."""
    return _translation(domain, problem)


@lru_cache(maxsize=32)
def _translation(domain: str, problem: str) -> tuple[Any, str]:
    made_of = f"{version('fast_downward_textworld')}{domain}{problem}"
    cached = cache_folder() / f"{hashlib.sha256(made_of.encode()).hexdigest()}.sas.z"
    if cached.exists():
        return _task(domain, problem), zlib.decompress(cached.read_bytes()).decode()
    with _arguments_of_translator():
        task, sas = alfworld_module("fast_downward.interface").pddl2sas(domain, problem)
    with written_whole(cached) as part:
        part.write_bytes(zlib.compress(sas.encode(), 1))
    return task, sas


def _task(domain: str, problem: str) -> Any:
    """The parsed problem, an intermediate result of `pddl2sas`."""
    with _arguments_of_translator():
        lisp = alfworld_module("fast_downward.translate.pddl_parser.lisp_parser")
        parsing = alfworld_module("fast_downward.translate.pddl_parser.parsing_functions")
        normalize = alfworld_module("fast_downward.translate.normalize")
    task = parsing.parse_task(*(lisp.parse_nested_list(text.split("\n")) for text in (domain, problem)))
    normalize.normalize(task)
    return task


@contextmanager
def _arguments_of_translator() -> Iterator[None]:
    """Context manager with dummy command-line arguments, because the translator parses `sys.argv` on import."""
    ours, sys.argv = sys.argv, ["translate.py", "domain", "task"]
    try:
        yield
    finally:
        sys.argv = ours
