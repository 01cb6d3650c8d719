"""Searches for the turns of conversations about the problems of an interactive task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.rollouts.multi_turn import UNIT_CONVERSATIONS, MultiTurnRollouts
from stepcredit.rollouts.work_units import WorkFolder, work_units
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.task import Problem


@dataclass(frozen=True)
class ConversationSearch:
    """Conversations about problems, kept as they are made.

    Attributes:
        problems: of an interactive task.
        rollouts: of the policy.
        folder: each search has one that begins with this name.
        settings: what the conversations depend on; those of other settings are not gone on with.
    """

    problems: Sequence[Problem]
    rollouts: MultiTurnRollouts
    folder: Path
    settings: dict[str, Any]

    def episodes(self, spec: SearchSpec) -> list[Episode]:
        """`spec.samples` conversations about each problem; those of an earlier run are read back."""
        units = work_units(self.problems, spec.samples, UNIT_CONVERSATIONS)
        work = WorkFolder(self.folder.with_name(f"{self.folder.name}-{spec.label}"), self.settings, units)
        made = work.finish(
            lambda unit, advance: self.rollouts.episodes(unit, spec, advance), spec.label, spec.samples, "conversations"
        )
        return list(made)
