"""One game on the engine: ALFWorld's own wrappers around TextWorld's PDDL environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcredit.tasks.alfworld.engine_cache import cached_environment
from stepcredit.tasks.alfworld.installation import alfworld_module
from stepcredit.tasks.alfworld.plan import Layout


@dataclass(frozen=True)
class Answer:
    """The engine's feedback after a command, and whether the game is won."""

    text: str
    won: bool
    admissible: tuple[str, ...]


class Game:
    """A loaded game. `reset` may be called repeatedly.

    Args:
        file: the `game.tw-pddl` of the game.
    """

    def __init__(self, file: Path) -> None:
        textworld = alfworld_module("textworld")
        environment = alfworld_module("alfworld.agents.environment.alfred_tw_env")
        infos = textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"])
        self._pddl = cached_environment()(infos)
        self._env: Any = environment.AlfredInfos(environment.AlfredDemangler(shuffle=False)(self._pddl))
        self._env.load(str(file))
        self._state: Any = None
        self.file = file

    def reset(self) -> Answer:
        """Restarts the game; the first feedback contains the task."""
        self._state = self._env.reset()
        return self._answer()

    def step(self, command: str) -> Answer:
        """Executes a command; the engine answers "Nothing happens." if it is unknown or not admissible."""
        self._state, _, _ = self._env.step(command)
        return self._answer()

    def layout(self) -> Layout:
        """The positions of all objects, from the engine's hidden state."""
        names = {id: info.name.strip() for id, info in self._state["_entity_infos"].items()}
        facts = [(fact.name, [names[v.name] for v in fact.arguments]) for fact in self._state["_facts"]]
        places = {of[0] for name, of in facts if name == "receptacleatlocation"}
        return Layout(
            receptacles=tuple(sorted(places)),
            openable=frozenset(of[0] for name, of in facts if name == "openable"),
            where={of[0]: of[1] for name, of in facts if name == "inreceptacle"},
        )

    def close(self) -> None:
        """Unloads the game."""
        self._env.close()

    def _answer(self) -> Answer:
        state = self._state
        return Answer(state["feedback"], bool(state["won"]), tuple(state["admissible_commands"]))
