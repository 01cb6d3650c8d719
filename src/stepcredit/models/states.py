"""The states at which a value model is trained, saved in its config for evaluation and search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stepcredit.episodes.alignment import Level
from stepcredit.episodes.steps import StepRule
from stepcredit.errors import InputError

MAX_STEP_TOKENS = 256
"""Limit of a step in a search whose value model was not trained at step level."""
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

    def check_scores_responses(self) -> None:
        """Check that V is trained within responses.

        Raises:
            InputError: it was trained on prompts only.
        """
        if self.level == "response":
            raise InputError("was trained on prompts only (response level), so it cannot score responses; train it at "
                             "step or token level", "value_model")  # fmt: skip

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
