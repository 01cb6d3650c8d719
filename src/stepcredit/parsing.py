"""Flags, over a YAML file where one is named, to config dataclasses: one dataclass a command is its flags and help."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError
from stepcredit.files import read_yaml


def parse(command: str, kinds: Sequence[type], arguments: Sequence[str]) -> tuple[Any, ...]:
    """Flags, over a YAML file where `--config` names one, as one instance of each dataclass.

    Raises:
        InputError: an unknown setting in the file, or a file that cannot be read.
    """
    parser = _parser(command, kinds)
    rest, file = take_flag(list(arguments), "--config")
    fields = {f.name: f for kind in kinds for f in dataclasses.fields(kind) if f.init}
    positional = [name for name, f in fields.items() if f.metadata.get("positional")]
    tokens = [] if file is None else _tokens_of_yaml(Path(file), fields)
    leading = _leading_positionals(rest)
    if positional and not leading and tokens:
        leading, tokens = _positional_of(tokens, positional[0])
    result: tuple[Any, ...] = parser.parse_args_into_dataclasses(
        args=[*leading, *tokens, *rest[len(_leading_positionals(rest)) :]], look_for_args_file=False
    )
    return result


def _parser(command: str, kinds: Sequence[type]) -> Any:
    from transformers import HfArgumentParser

    own = set().union(*map(_own_fields, kinds))

    class Parser(HfArgumentParser):
        """Puts settings of transformers into a group of their own, takes positional ones, tells an error in one line.

        Its arguments are the fields of the configs, by their metadata.
        """

        def add_argument(self, *names: str, positional: bool = False, **given: Any) -> Any:
            if positional:
                given.pop("required", None)
                return super().add_argument(names[0].removeprefix("--"), **given)
            if given.get("dest", names[0].removeprefix("--")) in own or "-h" in names:
                return super().add_argument(*names, **given)
            return self.inherited.add_argument(*names, **given)

        @cached_property
        def inherited(self) -> Any:
            return self.add_argument_group("settings of transformers.TrainingArguments")

        def error(self, message: str) -> Any:
            raise InputError(f"{message}; see stepcredit {command} --help")

    description = "\n\n".join(inspect.cleandoc(kind.__doc__ or "") for kind in kinds)
    return Parser(
        kinds,
        prog=f"stepcredit {command}",
        usage=f"stepcredit {command} {_placeholder(kinds)}[--config FILE.yaml] [--flag value …]",
        description=description,
        epilog="--config FILE.yaml gives any of these settings by name; flags on the command line win.",
        formatter_class=_Help,
        allow_abbrev=False,
    )


def _own_fields(dtype: type) -> set[str]:
    """The fields that a class of this package declares, a base class of its own included."""
    ours = [c for c in dtype.__mro__ if c.__module__.startswith("stepcredit")]
    return {name for c in ours for name in inspect.get_annotations(c)}


def _placeholder(kinds: Sequence[type]) -> str:
    positional = [f for kind in kinds for f in dataclasses.fields(kind) if f.metadata.get("positional")]
    return "".join(f"{f.name.upper()}{'' if f.type in (str, 'str') else ' …'} " for f in positional)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps paragraphs, puts what must be given first, and shows defaults where there is one to show."""

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        super().add_arguments(sorted(actions, key=lambda action: not (action.required or action.dest == "help")))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def take_flag(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """(arguments without the flag and its value, the value).

    Raises:
        InputError: it has no value, or stands twice.
    """
    places = [k for k, argument in enumerate(arguments) if argument.partition("=")[0] == flag]
    if not places:
        return arguments, None
    if len(places) > 1:
        raise InputError("is given twice", flag)
    (k,) = places
    _, joined, value = arguments[k].partition("=")
    if joined:
        return arguments[:k] + arguments[k + 1 :], value
    if k + 1 == len(arguments):
        raise InputError("needs a value", flag)
    return arguments[:k] + arguments[k + 2 :], arguments[k + 1]


def _leading_positionals(arguments: Sequence[str]) -> list[str]:
    flags = (k for k, argument in enumerate(arguments) if argument.startswith("-"))
    return list(arguments[: next(flags, len(arguments))])


def _positional_of(tokens: list[str], name: str) -> tuple[list[str], list[str]]:
    """A positional's values out of the tokens of a file: (values, other tokens)."""
    if f"--{name}" not in tokens:
        return [], tokens
    start = tokens.index(f"--{name}")
    stop = next((k for k in range(start + 1, len(tokens)) if tokens[k].startswith("--")), len(tokens))
    return tokens[start + 1 : stop], tokens[:start] + tokens[stop:]


def _tokens_of_yaml(file: Path, fields: dict[str, Any]) -> list[str]:
    """The settings of a YAML file as command-line tokens, checked by name."""
    tokens: list[str] = []
    for name, value in read_yaml(file).items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"no setting {name!r}{hint}", str(file))
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        tokens += [f"--{name}", *(json.dumps(v) if isinstance(v, dict | bool) else str(v) for v in values)]
    return tokens
