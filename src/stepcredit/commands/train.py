"""`stepcredit train`: trains a policy, and a value model, on episodes."""

from __future__ import annotations

from pathlib import Path

from stepcredit.commands.console import counted, quiet
from stepcredit.errors import InputError
from stepcredit.files import read_yaml
from stepcredit.parsing import parse, take_flag


def run(arguments: list[str]) -> int:
    """Trains with the method named by `--method` or the YAML file, which determines the other flags."""
    quiet()
    from stepcredit.training.methods import METHODS
    from stepcredit.training.train import TrainConfig, train

    method, rest = method_and_rest(arguments)
    config, args = parse(f"train --method {method}", [TrainConfig, METHODS[method].config], rest)
    counts = train(config, args)
    if args.process_index:
        return 0
    print(counted(counts))
    if not config.dry_run:
        print(f"Next: stepcredit evaluate --task TASK --model {args.output_dir}/policy --output_dir results")
    return 0


def method_and_rest(arguments: list[str]) -> tuple[str, list[str]]:
    """Returns the training method named by the flags or the YAML file, and all flags with it.

    Raises:
        InputError: there is no such method.
    """
    from stepcredit.training.methods import METHODS

    rest, method = take_flag(arguments, "--method")
    _, file = take_flag(list(rest), "--config")
    if method is None and file is not None:
        method = read_yaml(Path(file)).get("method")
    if method is None and {"-h", "--help"} & set(rest):
        method = "oreo"
    if method not in METHODS:
        raise InputError(f"choose from {', '.join(METHODS)}", "--method")
    return method, [*rest, "--method", method]
