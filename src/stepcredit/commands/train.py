"""`stepcredit train`: trains a policy, and a value model, on episodes."""

from __future__ import annotations

import shlex
from pathlib import Path

from stepcredit.commands.console import counts_of_training, quiet
from stepcredit.errors import InputError, quoted
from stepcredit.files import read_yaml
from stepcredit.parsing import parse, take_flag

ONLINE = ("grpo", "ppo", "rloo")


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
    print(counts_of_training(counts))
    if not config.dry_run:
        if METHODS[method].needs_value:
            where = f"--episodes {shlex.join(config.episodes)} --value_model {args.output_dir}/value"
            print(f"Next: stepcredit credit {where} --output_dir credit")
        print(f"{'or' if METHODS[method].needs_value else 'Next'}: stepcredit evaluate --task gsm8k --model "
              f"{args.output_dir}/policy --output_dir results (or another task)")  # fmt: skip
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
        online = " (online methods sample while they train, and are not here)" if method in ONLINE else ""
        which = "is required; " if method is None else f"{quoted(method)} is no method{online}; "
        raise InputError(f"{which}choose from {', '.join(METHODS)}; oreo is the one to begin with", "--method")
    return method, [*rest, "--method", method]
