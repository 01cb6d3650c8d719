"""Search over the turns of conversations, for interactive tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.evaluation.rows import INSTEAD
from stepcredit.rollouts.multi_turn import MultiTurnRollouts
from stepcredit.rollouts.work_units import WorkFolder, samples_of, work_units
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.task import Problem


@dataclass(frozen=True)
class ConversationSearch:
    """Resumable searches on the problems of an interactive task.

    Attributes:
        problems: problems of the task.
        rollouts: rollouts of the policy.
        folder: prefix of the folder of each search.
        settings: settings that determine the conversations; a folder with other settings is not resumed.
    """

    problems: Sequence[Problem]
    rollouts: MultiTurnRollouts
    folder: Path
    settings: dict[str, Any]

    def episodes(self, spec: SearchSpec) -> list[Episode]:
        """Returns `spec.samples` conversations per problem; those of an earlier run are loaded."""
        units = work_units(self.problems, spec.samples)
        work = WorkFolder(self.folder.with_name(f"{self.folder.name}-{spec.label}"), self.settings, units, INSTEAD)
        made = work.finish(
            lambda unit, advance, there: there.complete(
                samples_of(unit, spec.samples), partial(self.rollouts.episodes, spec), advance
            ),
            spec.label,
            spec.samples,
            "conversations",
        )
        return list(made)
