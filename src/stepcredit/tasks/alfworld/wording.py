"""Prompt formats of a game, and parsing of replies.

react   instructions, "OK", the room and the task; the policy writes `Thought: …` and `Action: …`, the environment
        answers `Observation: …`, as in the paper
think   as react without instructions, for policies that were fine-tuned on it
act     the room and the task; the policy writes only the command, the environment answers with the engine's feedback
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
    """A prompt format of a game.

    Attributes:
        name: `react`, `think` or `act`.
        instructions: the messages before the first observation.
        thinks: whether replies have a thought and an action, and observations begin with `Observation:`.
    """

    name: str
    instructions: tuple[Message, ...]
    thinks: bool

    def opening(self, text: str) -> str:
        """The first observation, without the engine's greeting."""
        return text.removeprefix(_WELCOME)

    def observation(self, text: str) -> str:
        """The engine's feedback as the user message."""
        return f"{_OBSERVATION}{text}" if self.thinks else text

    def reply(self, command: str, thought: str) -> str:
        """A demonstrator's command and thought as the assistant message."""
        return f"Thought: {thought}\n{_ACTION} {command}" if self.thinks else command

    def command(self, reply: str) -> str:
        """Returns the command in a reply: the text after the last `Action:` up to the end of the line; without
        `Action:`, the first line of the reply."""
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
    """Returns a prompt format by name; None is `react`, the paper's.

    Raises:
        InputError: unknown format.
    """
    if (name or "react") not in WORDINGS:
        raise InputError(f"no style {name!r}; alfworld has {', '.join(WORDINGS)}", "prompt_style")
    return WORDINGS[name or "react"]
