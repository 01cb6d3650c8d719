"""The models of an evaluation or a generation, named or in memory; each loaded once, when it is first asked for."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import torch

from stepcredit.engines.engine import Engine
from stepcredit.models.loading import load_reward_model, load_value_model, placed
from stepcredit.searching.scorers import Scorer, ValueScorer, reward_model_scorer


class Models:
    """What an evaluation or a generation works with.

    Args:
        config: names the models, and says how they are loaded.
        model, value_model, reward_model, tokenizer: in place of those that the config names, in memory or by name.
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
        """Of the policy."""
        name = self._model if isinstance(self._model, str) else getattr(self._model.config, "_name_or_path", "")
        return self._tokenizer or self._config.load_tokenizer(name, self._trust)

    @cached_property
    def engine(self) -> Engine:
        """Of the policy."""
        config = self._config
        engine: Engine = config.load_engine(self._model, config.batch_size, self._trust, self.tokenizer)
        return engine

    @cached_property
    def value_model(self) -> Any:
        """V, where there is one."""
        if not isinstance(self._value_model, str):
            return self._value_model
        return placed(load_value_model(self._value_model, trust_remote_code=self._trust, tokenizer=self.tokenizer))

    def check(self) -> None:
        """Load all that was named, before anything is drawn or written.

        Raises:
            InputError: one does not load, or they do not fit.
        """
        _ = self.engine, self.value_model

    @cached_property
    def scorer(self) -> Scorer | None:
        """Who says how good a response or a step is; None where nobody was named."""
        model = self._reward_model
        if model is None:
            return None if self._value_model is None else ValueScorer(self.value_model)
        if isinstance(model, str):
            model = placed(load_reward_model(model, trust_remote_code=self._trust, tokenizer=self.tokenizer))
        return reward_model_scorer(model, self._config.batch_size)


def name_of(model: Any) -> Any:
    """What results call a model: its name, or for one in memory where it came from and a mark of its weights, so that
    work with other weights is never gone on with."""
    if model is None or isinstance(model, str):
        return model
    mark = hashlib.sha256()
    for name, weight in model.state_dict().items():
        sums = torch.stack([weight.detach().double().sum(), weight.detach().double().square().sum()])
        mark.update(f"{name} {tuple(weight.shape)} {sums.tolist()}".encode())
    source = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return f"{source} in memory, {mark.hexdigest()[:12]}"
