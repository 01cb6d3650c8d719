"""The models of an evaluation, each of them loaded once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from stepcredit.engines.engine import Engine
from stepcredit.models.loading import load_reward_model, load_value_model, placed
from stepcredit.search.scorers import Scorer, ValueScorer, reward_model_scorer

if TYPE_CHECKING:
    from stepcredit.evaluation.evaluate import EvaluateConfig


class Models:
    """The models that a config names, each loaded when it is first asked for."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config

    @cached_property
    def tokenizer(self) -> Any:
        """Of the policy."""
        return self._config.load_tokenizer(self._config.model, self._config.trust_remote_code)

    @cached_property
    def engine(self) -> Engine:
        """Of the policy."""
        config = self._config
        return config.load_engine(config.model, config.batch_size, config.trust_remote_code, self.tokenizer)

    @cached_property
    def value_model(self) -> Any:
        """V, where there is one."""
        return placed(load_value_model(str(self._config.value_model), **self._loading))

    @cached_property
    def scorer(self) -> Scorer | None:
        """Who says how good a response or a step is; None where nobody was named."""
        config = self._config
        if config.reward_model is not None:
            reward_model = placed(load_reward_model(config.reward_model, **self._loading))
            return reward_model_scorer(reward_model, config.batch_size)
        return None if config.value_model is None else ValueScorer(self.value_model)

    @property
    def _loading(self) -> dict[str, Any]:
        return {"trust_remote_code": self._config.trust_remote_code, "tokenizer": self.tokenizer}
