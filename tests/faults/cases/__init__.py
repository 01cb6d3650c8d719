"""All malformed inputs, by subject."""

from __future__ import annotations

from collections.abc import Iterator

from faults.case import Case
from faults.cases import commands, episodes, flags, models, outputs, python_api, results, settings, texts, yaml_files


def all_cases() -> Iterator[Case]:
    """Every case of every subject."""
    for module in (commands, flags, settings, yaml_files, episodes, models, results, outputs, texts, python_api):
        yield from module.cases()
