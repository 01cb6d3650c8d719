"""Parsing of flags and YAML files into config dataclasses, which define the flags and help of a command."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stepcredit.errors import InputError, quoted
from stepcredit.files import read_yaml
from stepcredit.settings import check_names, resembling


def parse(command: str, kinds: Sequence[type], arguments: Sequence[str]) -> tuple[Any, ...]:
    """Parses flags, and the YAML file of `--config`, into one instance of each dataclass; flags override the file.

    Raises:
        InputError: an unknown flag or setting, or the file cannot be read.
    """
    parser = _parser(command, kinds)
    rest, file = take_flag(list(arguments), "--config")
    fields = {f.name: f for kind in kinds for f in dataclasses.fields(kind) if f.init}
    positional = [name for name, f in fields.items() if f.metadata.get("positional")]
    from_file = {} if file is None else _settings_of_yaml(Path(file), fields)
    leading = _leading_positionals(rest)
    if positional and not leading:
        leading = from_file.pop(positional[0], [])
    tokens = [token for name, values in from_file.items() for token in _flag_tokens(name, values)]
    try:
        *configs, unknown = parser.parse_args_into_dataclasses(
            args=[*leading, *tokens, *rest[len(_leading_positionals(rest)) :]],
            look_for_args_file=False,
            return_remaining_strings=True,
        )
    except InputError as error:
        if "are required" in str(error):  # one of them may be misspelled
            _check_known(_misspelled(rest, parser, fields), command, fields)
        told = next((name for name in from_file if re.search(rf"\b{name}\b", str(error))), None)
        raise error if told is None else InputError(str(error), str(file)) from error
    _check_known(unknown, command, fields)
    return tuple(configs)


def _check_known(unknown: Sequence[str], command: str, fields: Mapping[str, dataclasses.Field[Any]]) -> None:
    """Raises InputError for the first unknown flag, or else argument, if there is one."""
    if not unknown:
        return
    first = next((token for token in unknown if token.startswith("-")), unknown[0]).partition("=")[0]
    positional = [name for name, f in fields.items() if f.metadata.get("positional")]
    flags = [name for name in (*fields, "config", "help") if name not in positional]
    hint = resembling(first, flags, "--") if first.startswith("-") else ""
    if first.startswith("-") and resembling(first, positional, "--"):
        hint = f"; {positional[0].upper()} comes first, without a flag"
    raise InputError(f"unknown {'flag' if first.startswith('-') else 'argument'} {quoted(first)}{hint}; "
                     f"see stepcredit {command} --help")  # fmt: skip


def _misspelled(arguments: Sequence[str], parser: Any, fields: Collection[str]) -> list[str]:
    """Returns the flags that the parser does not know, but that resemble a setting."""
    known = {name for action in parser._actions for name in action.option_strings}
    flags = [token for token in arguments if token.startswith("--") and token.partition("=")[0] not in known]
    return [flag for flag in flags if resembling(flag.partition("=")[0], fields, "--")]


def _parser(command: str, kinds: Sequence[type]) -> Any:
    from transformers import HfArgumentParser

    own = set().union(*map(_own_fields, kinds))

    class Parser(HfArgumentParser):
        """Argument parser of configs: groups the settings of transformers, supports positional fields, and raises
        errors as `InputError`. Its arguments are the fields of the configs and their metadata."""

        def add_argument(self, *names: str, positional: bool = False, **given: Any) -> Any:
            """Adds an argument: a positional one under its own name, one of transformers without help."""
            if positional:
                given.pop("required", None)
                return super().add_argument(names[0].removeprefix("--"), **given)
            if given.get("dest", names[0].removeprefix("--")) in own or "-h" in names:
                return super().add_argument(*names, **given)
            return self.inherited.add_argument(*names, **{**given, "help": argparse.SUPPRESS})

        @cached_property
        def inherited(self) -> Any:
            return self.add_argument_group("settings of transformers.TrainingArguments")

        def format_help(self) -> Any:
            if "inherited" in self.__dict__:
                names = sorted({action.dest for action in self.inherited._group_actions})
                text = f"Also accepted; transformers' documentation explains them: {', '.join(names)}."
                self.inherited.description = textwrap.fill(text, 78)
            return super().format_help()

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
    """Returns the fields declared by classes of this package, base classes included."""
    ours = [c for c in dtype.__mro__ if c.__module__.startswith("stepcredit")]
    return {name for c in ours for name in inspect.get_annotations(c)}


def _placeholder(kinds: Sequence[type]) -> str:
    positional = [f for kind in kinds for f in dataclasses.fields(kind) if f.metadata.get("positional")]
    return "".join(f"{f.name.upper()}{'' if f.type in (str, 'str') else ' …'} " for f in positional)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help formatter that keeps paragraphs, lists required flags first, and shows defaults and one name per flag."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        names = action.option_strings
        shown = copy.copy(action)
        shown.option_strings = [n for n in names if "-" not in n[2:] or f"--{n[2:].replace('-', '_')}" not in names]
        return super()._format_action_invocation(shown)

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        super().add_arguments(sorted(actions, key=lambda action: not (action.required or action.dest == "help")))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def take_flag(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """Returns (arguments without the flag and its value, the value).

    Raises:
        InputError: the flag has no value, or is given twice.
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


def _settings_of_yaml(file: Path, fields: dict[str, Any]) -> dict[str, list[str]]:
    """Reads the settings of a YAML file as command-line words, after checking their names."""
    settings = read_yaml(file)
    check_names(settings, fields, str(file))
    words: dict[str, list[str]] = {}
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and "list" not in str(fields[name].type):
            raise InputError(f"must be one value, not {quoted(value)}", f"{file}: {name}")
        if isinstance(value, dict) and "dict" not in str(fields[name].type) and fields[name].default != "{}":
            raise InputError(f"must be one value, not {quoted(value)}", f"{file}: {name}")
        if any(isinstance(item, list) for item in values):
            raise InputError("must be a value or a list of values, not lists of lists", f"{file}: {name}")
        if value is not None:
            words[name] = [json.dumps(v) if isinstance(v, dict | bool) else str(v) for v in values]
    return words


def _flag_tokens(name: str, values: Sequence[str]) -> list[str]:
    """Returns a setting as command-line tokens; a single value may begin with a dash."""
    return [f"--{name}={values[0]}"] if len(values) == 1 else [f"--{name}", *values]
