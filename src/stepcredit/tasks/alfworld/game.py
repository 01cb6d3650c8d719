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
    """What the engine says after a command, and whether the game is won."""

    text: str
    won: bool
    admissible: tuple[str, ...]


class Game:
    """A loaded game. `reset` may be called again and again.

    Args:
        file: its `game.tw-pddl`.
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
        """Back to the start; its first words with the task."""
        self._state = self._env.reset()
        return self._answer()

    def step(self, command: str) -> Answer:
        """Do a command; the engine says "Nothing happens." to one that it does not know or allow."""
        self._state, _, _ = self._env.step(command)
        return self._answer()

    def layout(self) -> Layout:
        """What is where, as the engine knows it and the player does not."""
        names = {id: info.name.strip() for id, info in self._state["_entity_infos"].items()}
        facts = [(fact.name, [names[v.name] for v in fact.arguments]) for fact in self._state["_facts"]]
        places = {of[0] for name, of in facts if name == "receptacleatlocation"}
        return Layout(
            receptacles=tuple(sorted(places)),
            openable=frozenset(of[0] for name, of in facts if name == "openable"),
            where={of[0]: of[1] for name, of in facts if name == "inreceptacle"},
        )

    def close(self) -> None:
        """Unload it."""
        self._env.close()

    def _answer(self) -> Answer:
        state = self._state
        return Answer(state["feedback"], bool(state["won"]), tuple(state["admissible_commands"]))
