"""A recipe: one YAML file that says what a whole experiment is, checked by name before anything runs.

model: Qwen/Qwen2.5-Math-1.5B       the start
task: gsm8k                         and its prompt_style, data
trust_remote_code: false            whether code that the model's repository brings may run
solutions: {split: train}           what SFT learns from, or {episodes: FOLDER}; absent: no fine-tuning first
sft: {num_train_epochs: 3.0}        settings of `stepcredit train --method sft`
collect: {num_generations: 10}              settings of `stepcredit collect`
train: {beta: 0.03}                 settings that all methods share (those that a method has)
methods: {rft: {}, oreo: {}}        the methods to compare, each with settings of its own
evaluate: {split: test}             settings of `stepcredit evaluate`; of split also a list
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
_MADE_HERE = {"task", "data", "prompt_style", "value_model", "model", "episodes", "output_dir", "seed", "method",
              "trust_remote_code"}  # fmt: skip
"""Settings that follow from the experiment; a section may not give them."""


@dataclass(frozen=True)
class Recipe:
    """An experiment; see the module's docstring."""

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
        """What every policy is evaluated on."""
        given = self.evaluate.get("split", EvaluateConfig.split)
        return list(given) if isinstance(given, list) else [given]

    def settings_of(self, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """(settings of `TrainConfig`, settings of the method's config): the variant's, then the shared ones that it
        has, then its own."""
        variant = variant_of(method)
        row = METHODS[variant.method]
        known = _fields_of(row.config) | _TRAIN_FIELDS
        if not row.needs_value:
            known -= {name for name in _TRAIN_FIELDS if name.startswith("value_")}
        shared = {k: v for k, v in self.train.items() if k in known}
        trust = {"trust_remote_code": True} if self.trust_remote_code else {}
        return split_settings({**shared, **variant.given, **self.methods[method], **trust})


def split_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(those of `TrainConfig`, the others)."""
    ours = {k: v for k, v in settings.items() if k in _TRAIN_FIELDS}
    return ours, {k: v for k, v in settings.items() if k not in ours}


def read_recipe(file: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from its file.

    Args:
        file: YAML.
        overrides: `section.setting=value` or `setting=value`, values in YAML; they win.

    Raises:
        InputError: no such file, no YAML, or a section or setting that no command has.
    """
    found = read_yaml(file)
    for override in overrides:
        _override(found, override)
    _check(found, str(file))
    return Recipe(**found)


def _override(found: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *sections, name = path.split(".")
    if not equals or not name:
        raise InputError(f"{override!r}: give section.setting=value", "set")
    at = found
    for section in sections:
        if at.get(section) is None:
            at[section] = {}
        at = at[section]
        if not isinstance(at, dict):
            raise InputError(f"{override!r}: {section} is no section", "set")
    try:
        at[name] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{override!r}: not YAML: {error}", "set") from error


def _check(found: dict[str, Any], where: str) -> None:
    known = [f.name for f in dataclasses.fields(Recipe)]
    check_names(found, known, where)
    for name in ("model", "task"):
        if not isinstance(found.get(name), str):
            raise InputError(f"must say which {name}", where)
    if not isinstance(found.get("trust_remote_code", False), bool):
        raise InputError("must be true or false", f"{where}: trust_remote_code")
    sections = {name: found[name] for name in SECTIONS if found.get(name) is not None}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise InputError("must be a mapping of settings", f"{where}: {name}")
    if not sections.get("methods"):
        raise InputError("names no method", f"{where}: methods")
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


def _check_solutions(given: Mapping[str, Any], where: str) -> None:
    check_names(given, {"split", "limit", "episodes"}, where)
    if "episodes" in given and len(given) > 1:
        raise InputError("episodes are taken as they are, without split or limit", where)


def _check_section(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for name in _MADE_HERE & set(given):
        raise InputError(f"{name} follows from the rest of the recipe; leave it out", where)
    check_names(given, set(known) - _MADE_HERE, where)
