"""Where the steps of a folder of episodes end: as the flags say, or as the folder was collected."""

from __future__ import annotations

import re
from pathlib import Path

from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError
from stepcredit.files import read_manifest

COLLECTED = "collect.json"
"""The manifest of a folder of collected episodes: what it was made with, its task's step delimiters among it."""

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def step_rule(delimiters: list[str] | None, episodes: Path) -> StepRule:
    r"""Delimiters as typed in a shell, where `\n` is two characters, as a rule; the word none alone is no delimiter.

    Args:
        delimiters: what was given; None for those of the task that the episodes were collected for, and line breaks
            where they were imported.
        episodes: a folder of episodes.

    Raises:
        InputError: an empty delimiter, or a backslash before anything but n, r, t and a backslash.
    """
    if delimiters is None:
        found = collected_delimiters(episodes)
        return StepRule() if found is None else StepRule(found)
    return StepRule(() if delimiters == ["none"] else tuple(_unescape(text) for text in delimiters))


def collected_delimiters(episodes: Path) -> tuple[str, ...] | None:
    """Where the steps end of the task that episodes were collected for; None where they were imported.

    Raises:
        InputError: a damaged manifest, or one of other work.
    """
    manifest = episodes / COLLECTED
    if not manifest.exists():
        return None
    told = read_manifest(manifest).get("step_delimiters")
    if not isinstance(told, list) or not all(isinstance(text, str) for text in told):
        raise InputError("tells of no step delimiters; give --step_delimiters", str(manifest))
    return tuple(told)


def _unescape(text: str) -> str:
    if not text:
        raise InputError("a delimiter must not be empty", "step_delimiters")

    def character(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise InputError(f"{match[0]!r} in {text!r} means nothing; use \\n, \\t, \\r or \\\\", "step_delimiters")
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.?)", character, text, flags=re.DOTALL)
