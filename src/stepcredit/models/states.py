"""At which states a value model is trained, and so may be read: saved in its config, asked by whoever reads V."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stepcredit.episodes.alignment import Level
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError

_KEY = "stepcredit"


@dataclass(frozen=True)
class ValueStates:
    """The states at which V was trained.

    Attributes:
        level: of the value loss: at every token, where steps begin, or at the prompt alone.
        step_delimiters: a step ends after any of these.
        max_step_tokens: a step without a delimiter ends after so many tokens.
    """

    level: Level
    step_delimiters: tuple[str, ...]
    max_step_tokens: int | None

    @property
    def rule(self) -> StepRule:
        """Where a step ends, and V may be read."""
        return StepRule(self.step_delimiters, self.max_step_tokens)

    def describe(self, config: Any) -> None:
        """Write this into the config of a value model."""
        setattr(config, _KEY, asdict(self))


def value_states(value_model: Any) -> ValueStates | None:
    """At which states a value model was trained; None where it does not say.

    Raises:
        InputError: it says something else.
    """
    found = getattr(value_model.config, _KEY, None)
    if found is None:
        return None
    try:
        return ValueStates(found["level"], tuple(found["step_delimiters"]), found["max_step_tokens"])
    except (KeyError, TypeError) as error:
        raise InputError(f"the config says {found!r} of the states that V was trained at", "value_model") from error
