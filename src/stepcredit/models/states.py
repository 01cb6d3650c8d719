"""The states at which a value model is trained, saved in its config for evaluation and search."""

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
        level: the level of the value loss: every token, the start of every step, or only the prompt.
        step_delimiters: a step ends after any of these.
        max_step_tokens: a step without a delimiter ends after this many tokens.
    """

    level: Level
    step_delimiters: tuple[str, ...]
    max_step_tokens: int | None

    @property
    def rule(self) -> StepRule:
        """The rule for step boundaries, where V is defined."""
        return StepRule(self.step_delimiters, self.max_step_tokens)

    def describe(self, config: Any) -> None:
        """Writes these settings into the config of a value model."""
        setattr(config, _KEY, asdict(self))


def value_states(value_model: Any) -> ValueStates | None:
    """Returns the states at which a value model was trained; None if its config does not have them.

    Raises:
        InputError: the config's entry is invalid.
    """
    entry = getattr(value_model.config, _KEY, None)
    if entry is None:
        return None
    try:
        return ValueStates(entry["level"], tuple(entry["step_delimiters"]), entry["max_step_tokens"])
    except (KeyError, TypeError) as error:
        raise InputError(f"invalid entry {_KEY!r} in its config.json: {entry!r}", "value_model") from error
