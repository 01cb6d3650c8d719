"""The task `alfworld`: games of `$ALFWORLD_DATA`, published or built, played on the engine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepcredit.episodes.episode import Episode
from stepcredit.errors import InputError
from stepcredit.grading.grade import Grade
from stepcredit.tasks.alfworld.game import Game
from stepcredit.tasks.alfworld.installation import DATA, alfworld_module
from stepcredit.tasks.alfworld.wording import wording
from stepcredit.tasks.environment import Observation
from stepcredit.tasks.task import Problem

GAMES = "json_2.1.1"
SPLITS = {
    "train": ("train", "data_path"),
    "valid_seen": ("eval_in_distribution", "eval_id_data_path"),
    "valid_unseen": ("eval_out_of_distribution", "eval_ood_data_path"),
}
"""Split → its name in ALFWorld's loader, and the loader's setting for the folder."""


@dataclass
class ALFWorld:
    """Household tasks in text (arXiv 2010.03768).

    Args:
        data: the folder of games; None is `$ALFWORLD_DATA`.
        prompt_style: `react` (default) or `act`, see `wording.py`.
    """

    data: str | None = None
    prompt_style: str | None = None
    source_versions: dict[str, str] = field(default_factory=dict)

    name = "alfworld"
    version = "1"
    step_delimiters: tuple[str, ...] = ()
    max_new_tokens = 256
    max_turns = 40
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._wording = wording(self.prompt_style)

    @property
    def root(self) -> Path:
        """The folder of games.

        Raises:
            InputError: the folder is not set or does not exist.
        """
        data = self.data or os.environ.get(DATA)
        if not data:
            raise InputError(
                f"no folder of games; give --data or ${DATA}: the published games, or games made with `stepcredit "
                "alfworld build`",
                "data",
            )
        if not (Path(data) / GAMES).is_dir():
            raise InputError(f"holds no {GAMES}: not a folder of ALFWorld games", data)
        return Path(data)

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns the first `count` games of a split, in a fixed order that mixes families and rooms.

        Raises:
            InputError: unknown split, no games, or fewer games than `count`.
        """
        files = sorted(self.game_files(split), key=lambda f: (zlib.crc32(f.encode()), f))
        if not files or len(files) < (count or 0):
            raise InputError(f"{split} has {len(files)} games", str(self.root))
        self.source_versions[split] = hashlib.sha256("\n".join(files).encode()).hexdigest()[:16]
        problems = []
        for file in files[:count]:
            family, *_, scene = Path(file).parts[-3].split("-")
            metadata = {"type": family, "scene": scene, "game": file}
            problems.append(Problem(str(Path(file).parent), list(self._wording.instructions), "won", metadata=metadata))
        return problems

    def game_files(self, split: str) -> list[str]:
        """Returns the games of a split that ALFWorld's own loader selects, relative to the root."""
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; there is {', '.join(SPLITS)}", "split")
        loader = alfworld_module("alfworld.agents.environment.alfred_tw_env").AlfredTWEnv
        mode, setting = SPLITS[split]
        folder = self.root / GAMES / split
        config = {
            "dataset": {setting: str(folder), "num_train_games": -1, "num_eval_games": -1},
            "env": {"task_types": [1, 2, 3, 4, 5, 6], "goal_desc_human_anns_prob": 0},
        }
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            files = loader(config, mode).game_files
        return [Path(file).relative_to(self.root).as_posix() for file in files]

    def environment(self) -> Household:
        """A new environment on these games."""
        return Household(self)

    def demonstrated(self, problems: Sequence[Problem], seed: int, max_turns: int) -> list[Episode]:
        """Careful demonstrations, one per game, without those cut by the turn limit."""
        from stepcredit.tasks.alfworld.demonstrators import demonstrations  # local: that module imports this one

        played = [demonstrations(self, problem, 1, seed, max_turns, careless=0.0)[0] for problem in problems]
        return [episode for episode in played if not episode.truncated]

    def grade(self, problem: Problem, response: str) -> Grade:
        """Not supported: the engine decides whether a game is won.

        Raises:
            InputError: always.
        """
        raise InputError("is graded by its environment, turn by turn", f"task {self.name}")

    def wrong_steps(self, problem: Problem, response: str) -> None:
        """None: wrong steps are unknown."""


class Household:
    """A game as a conversation. The last game stays loaded."""

    def __init__(self, task: ALFWorld) -> None:
        self._task, self._wording = task, wording(task.prompt_style)
        self._game: Game | None = None
        self._file: Any = None

    def reset(self, problem: Problem) -> Observation:
        """Starts a game; the observation describes the room and the task."""
        file = self._task.root / problem.metadata["game"]
        if self._game is None or file != self._file:
            self.close()
            self._game, self._file = Game(file), file
        return Observation(self._wording.opening(self._game.reset().text))

    def step(self, reply: str) -> Observation:
        """Executes the command in a reply; the reward is 1 when the game is won."""
        assert self._game is not None
        answer = self._game.step(self._wording.command(reply))
        return Observation(self._wording.observation(answer.text), float(answer.won), answer.won)

    def close(self) -> None:
        """Unloads the game."""
        if self._game is not None:
            self._game.close()
        self._game = None
