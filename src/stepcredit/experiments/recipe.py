"""Recipe: a YAML file that defines a whole experiment, validated before anything runs.

model: Qwen/Qwen2.5-Math-1.5B       pretrained policy
task: gsm8k                         task; also prompt_style, data
trust_remote_code: false            whether to run code from the model repository
solutions: {split: train}           training data of SFT, or {episodes: FOLDER}; if absent, no SFT
sft: {num_train_epochs: 3.0}        settings of `stepcredit train --method sft`
collect: {num_generations: 10}      settings of `stepcredit collect`
train: {beta: 0.03}                 settings shared by all methods that have them
methods: {rft: {}, oreo: {}}        methods to compare, each with its own settings
evaluate: {split: test}             settings of `stepcredit evaluate`; split may be a list
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stepcredit.errors import InputError
from stepcredit.evaluation.evaluate import EvaluateConfig
from stepcredit.experiments.variants import variant_of
from stepcredit.files import read_yaml
from stepcredit.rollouts.collect import CollectConfig
from stepcredit.settings import check_names
from stepcredit.training.methods import METHODS
from stepcredit.training.train import TrainConfig

SECTIONS = ("solutions", "sft", "collect", "train", "methods", "evaluate")
_TRAIN_FIELDS = frozenset(f.name for f in dataclasses.fields(TrainConfig))
MADE_HERE = {"task", "data", "prompt_style", "value_model", "model", "episodes", "output_dir", "seed", "method",
              "trust_remote_code"}  # fmt: skip
"""Settings determined by the experiment, which a section must not set."""


@dataclass(frozen=True)
class Recipe:
    """Definition of an experiment (see the module docstring)."""

    model: str
    task: str
    prompt_style: str | None = None
    data: str | None = None
    trust_remote_code: bool = False
    solutions: Mapping[str, Any] | None = None
    sft: Mapping[str, Any] = field(default_factory=dict)
    collect: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    evaluate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> list[str]:
        """Splits that every policy is evaluated on."""
        split = self.evaluate.get("split", EvaluateConfig.split)
        return list(split) if isinstance(split, list) else [split]

    def settings_of(self, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns (settings of `TrainConfig`, settings of the method's config). The method's own settings override
        those of the variant, which override the shared ones."""
        variant = variant_of(method)
        row = METHODS[variant.method]
        names = _fields_of(row.config) | _TRAIN_FIELDS
        if not row.needs_value:
            names -= {name for name in _TRAIN_FIELDS if name.startswith("value_")}
        shared = {k: v for k, v in self.train.items() if k in names}
        trust = {"trust_remote_code": True} if self.trust_remote_code else {}
        return split_settings({**shared, **variant.settings, **self.methods[method], **trust})


def split_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (settings of `TrainConfig`, all other settings)."""
    ours = {k: v for k, v in settings.items() if k in _TRAIN_FIELDS}
    return ours, {k: v for k, v in settings.items() if k not in ours}


def read_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        file: YAML file.
        overrides: `section.setting=value` or `setting=value`, with YAML values; they override the file.

    Raises:
        InputError: the file cannot be read, or has an unknown section or setting.
    """
    recipe = read_yaml(file)
    for override in overrides:
        _override(recipe, override)
    _check(recipe, str(file))
    return Recipe(**recipe)


def _override(recipe: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *sections, name = path.split(".")
    if not equals or not name:
        raise InputError(f"{override!r}: must be section.setting=value", "set")
    at = recipe
    for section in sections:
        if at.get(section) is None:
            at[section] = {}
        at = at[section]
        if not isinstance(at, dict):
            raise InputError(f"{override!r}: {section} is not a section", "set")
    try:
        at[name] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{override!r}: is not YAML: {error}", "set") from error


def _check(recipe: dict[str, Any], where: str) -> None:
    check_names(recipe, [f.name for f in dataclasses.fields(Recipe)], where)
    for name in ("model", "task"):
        if not isinstance(recipe.get(name), str):
            raise InputError(f"must set {name}", where)
    if not isinstance(recipe.get("trust_remote_code", False), bool):
        raise InputError("must be true or false", f"{where}: trust_remote_code")
    sections = {name: recipe[name] for name in SECTIONS if recipe.get(name) is not None}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise InputError("must be a mapping of settings", f"{where}: {name}")
    if not sections.get("methods"):
        raise InputError("must name at least one method", f"{where}: methods")
    collected, evaluated = _fields_of(CollectConfig), _fields_of(EvaluateConfig)
    trained = {method: _fields_of(METHODS[variant_of(method).method].config) for method in sections["methods"]}
    _check_solutions(sections.get("solutions", {}), f"{where}: solutions")
    _check_section(sections.get("sft", {}), _fields_of(METHODS["sft"].config) | _TRAIN_FIELDS, f"{where}: sft")
    _check_section(sections.get("collect", {}), collected, f"{where}: collect")
    _check_section(sections.get("train", {}), set().union(*trained.values(), _TRAIN_FIELDS), f"{where}: train")
    _check_section(sections.get("evaluate", {}), evaluated, f"{where}: evaluate")
    for method, settings in sections["methods"].items():
        if settings is None:
            sections["methods"][method] = settings = {}
        if not isinstance(settings, dict):
            raise InputError("must be a mapping of settings", f"{where}: methods.{method}")
        _check_section(settings, trained[method] | _TRAIN_FIELDS, f"{where}: methods.{method}")


def _fields_of(config: type) -> set[str]:
    return {f.name for f in dataclasses.fields(config) if f.init}


def _check_solutions(section: Mapping[str, Any], where: str) -> None:
    check_names(section, {"split", "limit", "episodes"}, where)
    if "episodes" in section and len(section) > 1:
        raise InputError("episodes cannot be combined with split or limit; remove them", where)


def _check_section(section: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    for name in MADE_HERE & set(section):
        raise InputError(f"{name} is set by the recipe itself; leave it out", where)
    check_names(section, set(allowed) - MADE_HERE, where)
