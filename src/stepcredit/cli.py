"""The command line: parse → config → pipeline. One dataclass a command is its flags, defaults and help."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stepcredit.errors import InputError
from stepcredit.pipeline.yaml_file import read_yaml
from stepcredit.version import __version__


class Command(NamedTuple):
    """One verb: a line of help, and the function that parses its flags and does it."""

    help: str
    run: Callable[[list[str]], int]


SELECTS = "method"
"""The one setting that picks which config is parsed: `stepcredit train` reads it before all others."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `stepcredit`. Exit codes: 0 done, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"stepcredit {__version__}")
        return 0
    if not sys.stderr.isatty():  # bars of downloads do not belong into a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        return _command(arguments[0]).run(arguments[1:])
    except InputError as error:
        print(f"stepcredit: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stepcredit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _command(name: str) -> Command:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        raise InputError(f"no command {name!r}" + (f"; did you mean {near[0]}?" if near else "; see stepcredit --help"))
    return COMMANDS[name]


def _overview() -> str:
    lines = [f"  {name:<11} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "stepcredit: offline reinforcement learning for multi-step reasoning.",
            "",
            "usage: stepcredit COMMAND [--config file.yaml] [--flag value …]",
            "",
            *lines,
            "",
            "Every command explains itself: stepcredit COMMAND --help. Start with: stepcredit quickstart",
        ]
    )


# ---- parsing -----------------------------------------------------------------------------------------


def parse(command: str, kinds: Sequence[type], arguments: Sequence[str]) -> tuple[Any, ...]:
    """Flags, over a YAML file where `--config` names one, as one instance of each dataclass.

    Raises:
        InputError: an unknown setting in the file, or a file that cannot be read.
    """
    parser = _parser(command, kinds)
    rest, file = _take_flag(list(arguments), "--config")
    fields = {f.name: f for kind in kinds for f in dataclasses.fields(kind) if f.init}
    positional = [name for name, f in fields.items() if f.metadata.get("positional")]
    tokens = [] if file is None else _tokens_of_yaml(Path(file), fields)
    leading = _leading_positionals(rest)
    if positional and not leading and tokens:
        leading, tokens = _positional_of(tokens, positional[0])
    result: tuple[Any, ...] = parser.parse_args_into_dataclasses(
        args=[*leading, *tokens, *rest[len(_leading_positionals(rest)) :]]
    )
    return result


def _parser(command: str, kinds: Sequence[type]) -> Any:
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        """Puts our settings before those of transformers, adds positional ones, tells an error in one line."""

        def _add_dataclass_arguments(self, dtype: Any) -> None:
            hints = typing.get_type_hints(dtype)
            inherited = self.add_argument_group("settings of transformers.TrainingArguments")
            for field in dataclasses.fields(dtype):
                if field.init:
                    field.type = hints[field.name]
                    self._parse_dataclass_field(self if field.name in _own_fields(dtype) else inherited, field)

        @staticmethod
        def _parse_dataclass_field(parser: Any, field: Any) -> None:
            if field.metadata.get("positional"):
                many = field.type is not str
                parser.add_argument(field.name, nargs="+" if many else None, help=field.metadata.get("help"))
            else:
                HfArgumentParser._parse_dataclass_field(parser, field)

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
    """Keeps paragraphs, and shows defaults where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, []) else super()._get_help_string(action)


def _take_flag(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """(arguments without the flag and its value, the value)."""
    for k, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return arguments[:k] + arguments[k + 1 :], argument.partition("=")[2]
        if argument == flag:
            if k + 1 == len(arguments):
                raise InputError("needs a value", flag)
            return arguments[:k] + arguments[k + 2 :], arguments[k + 1]
    return arguments, None


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
        if name == SELECTS and name not in fields:
            continue
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"no setting {name!r}{hint}", str(file))
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        tokens += [f"--{name}", *(json.dumps(v) if isinstance(v, dict | bool) else str(v) for v in values)]
    return tokens


# ---- commands ----------------------------------------------------------------------------------------


def _quiet() -> None:
    """Progress of our own only; threads that wait in their sleep, so that a shared machine is not stalled."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _quickstart(arguments: list[str]) -> int:
    _quiet()
    from rich.console import Console

    from stepcredit.pipeline.quickstart import QuickstartConfig, quickstart
    from stepcredit.pipeline.results import read_rows
    from stepcredit.report.tables import results_table, value_table

    (config,) = parse("quickstart", [QuickstartConfig], arguments)
    report = quickstart(config)
    console = Console()
    console.print(results_table(read_rows(Path(config.out) / "results.json")))
    console.print(value_table(read_rows(Path(config.out) / "value.json")))
    console.print(f"Look at it: {report}", soft_wrap=True)
    return 0


def _import(arguments: list[str]) -> int:
    from stepcredit.pipeline.import_logs import ImportConfig, import_logs

    (config,) = parse("import", [ImportConfig], arguments)
    print(import_logs(config).summary())
    return 0


def _inspect(arguments: list[str]) -> int:
    from rich.console import Console

    from stepcredit.pipeline.inspect import InspectConfig, inspect_episodes, render, render_preview

    (config,) = parse("inspect", [InspectConfig], arguments)
    summary = inspect_episodes(config)
    if config.json:
        print(json.dumps(dataclasses.asdict(summary), indent=1))
        return 0
    console = Console()
    console.print(render(summary))
    if config.preview:
        console.print(render_preview(config))
    return 0


def _collect(arguments: list[str]) -> int:
    _quiet()
    from stepcredit.pipeline.collect import CollectConfig, collect

    (config,) = parse("collect", [CollectConfig], arguments)
    counts = collect(config)
    print(f"{config.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if not config.dry_run:
        print(f"Next: stepcredit inspect {config.out}")
    return 0


def _grade(arguments: list[str]) -> int:
    from stepcredit.pipeline.grade import GradeConfig, grade_rows

    (config,) = parse("grade", [GradeConfig], arguments)
    print(grade_rows(config).summary())
    return 0


def _train(arguments: list[str]) -> int:
    _quiet()
    from stepcredit.pipeline.train import TrainConfig, train
    from stepcredit.training.methods import METHODS

    rest, method = _take_flag(arguments, "--method")
    _, file = _take_flag(list(rest), "--config")
    if method is None and file is not None:
        method = read_yaml(Path(file)).get(SELECTS)
    if method is None and {"-h", "--help"} & set(rest):
        method = "oreo"
    if method not in METHODS:
        raise InputError(f"choose one of {', '.join(METHODS)}", "--method")
    kinds: list[type] = [TrainConfig, METHODS[method].config]
    config, args = parse(f"train --method {method}", kinds, rest)
    counts = train(config, args)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    if not config.dry_run:
        print(f"Next: stepcredit evaluate --task TASK --policy {args.output_dir}/policy --out results")
    return 0


def _evaluate(arguments: list[str]) -> int:
    _quiet()
    from rich.console import Console

    from stepcredit.pipeline.evaluate import EvaluateConfig, evaluate
    from stepcredit.pipeline.results import read_rows
    from stepcredit.report.breakdown import group_tables, samples_table
    from stepcredit.report.tables import results_table, value_table

    (config,) = parse("evaluate", [EvaluateConfig], arguments)
    console = Console()
    rows, groups = evaluate(config)
    console.print(results_table(rows))
    for table in [samples_table(rows[0]), *group_tables(groups)]:
        if table is not None:
            console.print(table)
    console.print(f"Every response: {Path(config.out) / 'responses'}", soft_wrap=True)
    if config.value is not None and config.search in ("greedy", "sample"):
        console.print(value_table(read_rows(Path(config.out) / "value.json")))
    if config.search == "all" and (Path(config.out) / "cost.svg").exists():
        console.print(f"Accuracy against tokens: {Path(config.out) / 'cost.svg'}", soft_wrap=True)
    if config.trace is not None:
        console.print(f"The tree: {config.trace}", soft_wrap=True)
    return 0


def _compare(arguments: list[str]) -> int:
    _quiet()
    from rich.console import Console

    from stepcredit.pipeline.compare import CompareConfig, compare
    from stepcredit.pipeline.results import read_rows
    from stepcredit.report.tables import results_table

    (config,) = parse("compare", [CompareConfig], arguments)
    counts = compare(config)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    if not config.dry_run:
        console = Console()
        console.print(results_table(read_rows(Path(config.out) / "results.json")))
        console.print(f"Look at it: {Path(config.out) / 'report.html'}", soft_wrap=True)
    return 0


def _reproduce(arguments: list[str]) -> int:
    _quiet()
    from rich.console import Console

    from stepcredit.pipeline.reproduce import ReproduceConfig, reproduce
    from stepcredit.pipeline.results import read_rows
    from stepcredit.report.tables import results_table

    (config,) = parse("reproduce", [ReproduceConfig], arguments)
    counts = reproduce(config)
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    if not config.dry_run:
        console = Console()
        console.print(results_table(read_rows(Path(config.out) / "results.json")))
        console.print(f"Look at it: {Path(config.out) / 'report.html'}", soft_wrap=True)
    return 0


def _alfworld(arguments: list[str]) -> int:
    from stepcredit.pipeline.alfworld import BuildConfig, DemonstrateConfig, build, demonstrate

    verb = arguments[0] if arguments else ""
    kinds: dict[str, type] = {"build": BuildConfig, "demonstrate": DemonstrateConfig}
    if verb in ("-h", "--help"):
        lines = [f"  stepcredit alfworld {name} --help\n\n{inspect.getdoc(kind)}" for name, kind in kinds.items()]
        print(
            "\n\n".join(["usage: stepcredit alfworld build|demonstrate [--config FILE.yaml] [--flag value …]", *lines])
        )
        raise SystemExit(0)
    if verb not in kinds:
        raise InputError("needs build or demonstrate; see stepcredit alfworld --help", "alfworld")
    (config,) = parse(f"alfworld {verb}", [kinds[verb]], arguments[1:])
    counts = build(config) if verb == "build" else demonstrate(config)
    print(f"{config.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if verb == "build" and not config.dry_run:
        print(f"Next: stepcredit alfworld demonstrate --data {config.out} --out demonstrations")
    return 0


def _report(arguments: list[str]) -> int:
    from stepcredit.pipeline.report import ReportConfig
    from stepcredit.report.page import write_report

    (config,) = parse("report", [ReportConfig], arguments)
    print(write_report(Path(config.folder)))
    return 0


COMMANDS: dict[str, Command] = {
    "quickstart": Command("the whole loop on an embedded task: CPU, no network, two to five minutes", _quickstart),
    "import": Command("logs of scored responses → episodes", _import),
    "inspect": Command("what is in a folder of episodes", _inspect),
    "collect": Command("sample and grade responses; resumes by itself", _collect),
    "grade": Command("responses and gold answers → verdicts and rewards; resumes by itself", _grade),
    "train": Command("train a policy, and a value function, on episodes", _train),
    "evaluate": Command("score a policy, with standard errors and what it cost", _evaluate),
    "compare": Command("every method on the same episodes; resumes by itself", _compare),
    "reproduce": Command("a recipe from pretrained weights to its table; resumes by itself", _reproduce),
    "alfworld": Command("build ALFWorld games (build), have them demonstrated (demonstrate)", _alfworld),
    "report": Command("result files → one self-contained page", _report),
}


if __name__ == "__main__":
    sys.exit(main())
