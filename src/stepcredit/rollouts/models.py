"""Models of an evaluation or a generation, by name or in memory; each is loaded once, on first use."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stepcredit.engines.engine import Engine
from stepcredit.engines.packed import packed
from stepcredit.errors import InputError
from stepcredit.models.folders import read_object
from stepcredit.models.loading import load_reward_model, load_value_model, placed
from stepcredit.searching.scorers import Scorer, ValueScorer, reward_model_scorer

if TYPE_CHECKING:
    from stepcredit.searching.value_server import ServerValueScorer


class Models:
    """Policy, value model, reward model and tokenizer, loaded lazily.

    Args:
        config: settings with the names of the models and how to load them.
        model, value_model, reward_model, tokenizer: models, in memory or by name, that override those of the config.
    """

    def __init__(
        self, config: Any, model: Any = None, value_model: Any = None, reward_model: Any = None, tokenizer: Any = None
    ) -> None:
        self._config = config
        self._trust = config.trust_remote_code
        self._model = config.model if model is None else model
        self._value_model = getattr(config, "value_model", None) if value_model is None else value_model
        self._reward_model = getattr(config, "reward_model", None) if reward_model is None else reward_model
        self._tokenizer = tokenizer

    @cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of the policy."""
        name = self._model if isinstance(self._model, str) else getattr(self._model.config, "_name_or_path", "")
        return self._tokenizer or self._config.load_tokenizer(name, self._trust)

    @property
    def asks_in_chat(self) -> bool:
        """Whether the policy has a chat template, and did not learn from prompts in plain text."""
        if not self.tokenizer.chat_template:
            return False
        if not isinstance(self._model, str):
            return not getattr(self._model.config, "text_prompts", False)
        file = Path(self._model) / "config.json"
        return not (file.is_file() and read_object(file).get("text_prompts"))

    @cached_property
    def engine(self) -> Engine:
        """Engine of the policy."""
        config = self._config
        engine: Engine = config.load_engine(self._model, config.batch_size, self._trust, self.tokenizer)
        return engine

    @cached_property
    def value_model(self) -> Any:
        """Value model, or None."""
        if not isinstance(self._value_model, str):
            return self._value_model
        model = load_value_model(self._value_model, trust_remote_code=self._trust, tokenizer=self.tokenizer)
        return packed(placed(model))

    @cached_property
    def scorer(self) -> Scorer | None:
        """Scorer of the reward model, else of the value model; None without either."""
        model = self._reward_model
        if model is None:
            return self.value_scorer
        if isinstance(model, str):
            model = load_reward_model(model, trust_remote_code=self._trust, tokenizer=self.tokenizer)
            model = packed(placed(model))
        return reward_model_scorer(model, self._config.batch_size)

    @cached_property
    def value_scorer(self) -> ValueScorer | ServerValueScorer | None:
        """Scorer of the value model, which runs here or on servers; None without one."""
        config = self._config
        servers = config.servers(getattr(config, "value_base_url", None))
        if servers is None:
            return None if self._value_model is None else ValueScorer(self.value_model)
        if not isinstance(self._value_model, str):
            raise InputError("needs --value_model, the folder of the model that is served", "value_base_url")
        from stepcredit.searching.value_server import ServerValueScorer  # needs an extra

        return ServerValueScorer(servers, self._value_model, self._trust)


def name_of(model: Any) -> Any:
    """Returns the name of a model in results: for a model in memory, its source and a fingerprint of its weights, so
    that work with other weights is never resumed."""
    if model is None or isinstance(model, str):
        return model
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        sums = torch.stack([weight.detach().double().sum(), weight.detach().double().square().sum()])
        digest.update(f"{name} {tuple(weight.shape)} {sums.tolist()}".encode())
    source = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return f"{source} in memory, {digest.hexdigest()[:12]}"
