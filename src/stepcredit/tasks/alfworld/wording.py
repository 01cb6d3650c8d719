"""How a game is put to the policy, and how its reply is read.

react   instructions, "OK", the room and the task; the policy writes `Thought: …` and `Action: …`, the environment
        answers `Observation: …`, as in the paper
think   the same without instructions, for policies that were fine-tuned on it
act     the room and the task; the policy writes the command alone, the engine's words answer it
"""

from __future__ import annotations

from dataclasses import dataclass

from stepcredit.episodes.episode import Message
from stepcredit.errors import InputError

_INSTRUCTIONS = """You are in a household and are given a task. Each turn you are told what you observe; reply in \
exactly this form:
Thought: what you make of it, and what to do next
Action: one command

The commands are:
go to {receptacle}
open {receptacle}
close {receptacle}
take {object} from {receptacle}
move {object} to {receptacle}
clean {object} with {receptacle}
heat {object} with {receptacle}
cool {object} with {receptacle}
use {lamp}
examine {something}
look
inventory

Name objects and receptacles with their numbers, as in "mug 1". If the observation is "Nothing happens.", the command \
was not possible: try another one."""
_WELCOME = "-= Welcome to TextWorld, ALFRED! =-\n\n"
_ACTION = "Action:"
_OBSERVATION = "Observation: "


@dataclass(frozen=True)
class Wording:
    """One way to put a game.

    Attributes:
        name: `react`, `think` or `act`.
        instructions: the messages before the environment's first words.
        thinks: whether replies have a thought and an action, and observations say that they are one.
    """

    name: str
    instructions: tuple[Message, ...]
    thinks: bool

    def opening(self, text: str) -> str:
        """The environment's first words, without the engine's greeting."""
        return text.removeprefix(_WELCOME)

    def observation(self, text: str) -> str:
        """What the engine answered, as the user's message."""
        return f"{_OBSERVATION}{text}" if self.thinks else text

    def reply(self, command: str, thought: str) -> str:
        """What a demonstrator writes."""
        return f"Thought: {thought}\n{_ACTION} {command}" if self.thinks else command

    def command(self, reply: str) -> str:
        """The command in a reply: what follows the last `Action:`, up to its line's end; the whole reply where there
        is none."""
        after = reply.rpartition(_ACTION)[2].strip()
        return after.split("\n")[0].strip()


WORDINGS = {
    w.name: w
    for w in (
        Wording("react", ({"role": "user", "content": _INSTRUCTIONS}, {"role": "assistant", "content": "OK"}), True),
        Wording("think", (), True),
        Wording("act", (), False),
    )
}


def wording(name: str | None) -> Wording:
    """A way to put a game; None is the paper's.

    Raises:
        InputError: no such one.
    """
    if (name or "react") not in WORDINGS:
        raise InputError(f"no style {name!r}; alfworld has {', '.join(WORDINGS)}", "prompt_style")
    return WORDINGS[name or "react"]
