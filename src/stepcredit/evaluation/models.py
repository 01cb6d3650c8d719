"""The models of an evaluation."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from stepcredit.engines.engine import Engine
from stepcredit.models.loading import load_reward_model, load_value_model, placed
from stepcredit.search.scorers import Scorer, ValueScorer, reward_model_scorer


class Models:
    """What an evaluation works with, each loaded once, when it is first asked for."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self._trust = config.trust_remote_code

    @cached_property
    def tokenizer(self) -> Any:
        """Of the policy."""
        return self._config.load_tokenizer(self._config.model, self._trust)

    @cached_property
    def engine(self) -> Engine:
        """Of the policy."""
        config = self._config
        engine: Engine = config.load_engine(config.model, config.batch_size, self._trust, self.tokenizer)
        return engine

    @cached_property
    def value_model(self) -> Any:
        """V, where there is one."""
        value = str(self._config.value_model)
        return placed(load_value_model(value, trust_remote_code=self._trust, tokenizer=self.tokenizer))

    def check(self) -> None:
        """Load all that was named, before anything is drawn or written.

        Raises:
            InputError: one does not load, or they do not fit.
        """
        _ = self.engine
        if self._config.value_model is not None:
            _ = self.value_model

    @cached_property
    def scorer(self) -> Scorer | None:
        """Who says how good a response or a step is; None where nobody was named."""
        config = self._config
        if config.reward_model is not None:
            reward_model = load_reward_model(
                config.reward_model, trust_remote_code=self._trust, tokenizer=self.tokenizer
            )
            return reward_model_scorer(placed(reward_model), config.batch_size)
        return None if config.value_model is None else ValueScorer(self.value_model)
