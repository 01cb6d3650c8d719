"""The models of an evaluation: which, and each of them loaded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stepcredit.engines.engine import Engine
from stepcredit.models.loading import load_reward_model, load_value_model, placed
from stepcredit.rollouts.task_settings import TaskChoice
from stepcredit.search.scorers import Scorer, ValueScorer, reward_model_scorer


@dataclass(kw_only=True)
class ModelChoice(TaskChoice):
    """The settings of a task and of the models that are evaluated on it."""

    model: str = field(metadata={"help": "The policy: a folder, a .gguf file or a name on the hub."})
    value_model: str | None = field(default=None, metadata={"help": "A value model to be judged (--search sample)."})
    reward_model: str | None = field(
        default=None,
        metadata={"help": "A sequence classifier with one label, to score with in place of --value_model."},
    )
    batch_size: int = field(default=64, metadata={"help": "Responses drawn at a time."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code a model repository brings."})


class Models:
    """The models that a config names, each loaded when it is first asked for."""

    def __init__(self, config: ModelChoice) -> None:
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
