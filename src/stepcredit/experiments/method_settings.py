"""Settings of training methods, as `--settings` of an experiment gives them: a section per method, and one for all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any

from stepcredit.errors import InputError
from stepcredit.experiments.variants import variant_of
from stepcredit.settings import check_names, check_values, json_object
from stepcredit.training.methods import METHODS
from stepcredit.training.offline_config import THEIR_LIMITS

ALL = "all"
"""Section whose settings apply to every method."""

Sections = dict[str, dict[str, Any]]


def read_settings(text: str, methods: Iterable[str], more: type | None = None, made: Collection[str] = ()) -> Sections:
    """Reads and checks sections of settings.

    Args:
        text: a JSON object of sections, {"oreo": {"beta": 0.03}}.
        methods: names of the methods of the experiment, with variants.
        more: a config whose settings may be given too.
        made: settings that the experiment determines itself.

    Raises:
        InputError: a section or a setting is unknown, or a value is not allowed.
    """
    sections = json_object(text, "settings")
    if not all(isinstance(v, dict) for v in sections.values()):
        raise InputError('must be settings per method, for example {"oreo": {"beta": 0.03}}', "settings")
    check_names(sections, [ALL, *METHODS, *methods], "settings")
    for section, values in sections.items():
        where = f"settings of {section}"
        for name in values:
            if name in made:
                raise InputError(f"{name} is set by the experiment itself; leave it out", where)
        for method in methods if section == ALL else [section]:
            _check(METHODS[method if method in METHODS else variant_of(method).method].config, more, values, where)
    return sections


def _check(kind: type, more: type | None, values: Mapping[str, Any], where: str) -> None:
    own, other = _names(kind), _names(more) if more else set()
    check_names(values, [*own, *other], where)
    try:
        check_values(kind, {k: v for k, v in values.items() if k in own}, THEIR_LIMITS)
        if more:
            check_values(more, {k: v for k, v in values.items() if k not in own})
    except InputError as error:
        raise InputError(str(error), where) from error


def _names(kind: type) -> set[str]:
    return {f.name for f in fields(kind) if f.init}


def settings_of(sections: Sections, method: str) -> dict[str, Any]:
    """Returns the settings of a method, or variant: its own section overrides that of its method, which overrides that
    of all."""
    parts = (ALL, variant_of(method).method if method not in METHODS else method, method)
    return {k: v for part in dict.fromkeys(parts) for k, v in sections.get(part, {}).items()}
