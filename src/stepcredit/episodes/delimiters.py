"""Step delimiters of a folder of episodes, from the command line or from the folder's manifest."""

from __future__ import annotations

import re
from pathlib import Path

from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.files import read_manifest

COLLECTED = "collect.json"
"""The manifest of a folder of collected episodes; it records the settings, including the task's step delimiters."""

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def step_rule(delimiters: list[str] | None, episodes: Path) -> StepRule:
    r"""Builds a step rule from delimiters as typed in a shell, where `\n` is two characters; ["none"]: no delimiter.

    Args:
        delimiters: the delimiters; None: those of the task for which the episodes were collected, line breaks if they
            were imported.
        episodes: a folder of episodes.

    Raises:
        InputError: a delimiter is empty, or has a backslash before anything but n, r, t and a backslash.
    """
    if delimiters is None:
        collected = collected_delimiters(episodes)
        return StepRule() if collected is None else StepRule(collected)
    return StepRule(() if delimiters == ["none"] else tuple(_unescape(text) for text in delimiters))


def collected_delimiters(episodes: Path) -> tuple[str, ...] | None:
    """Returns the step delimiters of the task for which episodes were collected; None if they were imported.

    Raises:
        InputError: the manifest is damaged or has no step delimiters.
    """
    manifest = episodes / COLLECTED
    if not manifest.exists():
        return None
    delimiters = read_manifest(manifest).get("step_delimiters")
    if not isinstance(delimiters, list) or not all(isinstance(text, str) for text in delimiters):
        raise InputError("has no step delimiters; give --step_delimiters", str(manifest))
    return tuple(delimiters)


def _unescape(text: str) -> str:
    if not text:
        raise InputError("a delimiter must not be empty", "step_delimiters")

    def character(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise InputError(f"unknown escape {match[0]!r} in {text!r}; use \\n, \\t, \\r or \\\\", "step_delimiters")
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.?)", character, text, flags=re.DOTALL)
