"""`stepcredit train`: trains a policy, and a value model, on episodes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from stepcredit.commands.console import quiet
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
    print(_in_words(counts))
    if not config.dry_run:
        if METHODS[method].needs_value:
            where = f"--episodes {shlex.join(config.episodes)} --value_model {args.output_dir}/value"
            print(f"Next: stepcredit credit {where} --output_dir credit")
        print(f"{'or' if METHODS[method].needs_value else 'Next'}: stepcredit evaluate --task gsm8k --model "
              f"{args.output_dir}/policy --output_dir results (or another task)")  # fmt: skip
    return 0


def _in_words(counts: Mapping[str, int]) -> str:
    """What was trained on and what was left out, in words."""
    said = [f"{counts['episodes']:,} episodes", f"{counts['action_tokens']:,} tokens of responses"]
    if "items" in counts:
        said.insert(1, f"{counts['items']:,} items")
    if counts["retokenised"]:
        said.append(f"ids of {counts['retokenised']:,} encoded from text")
    left = [f"{n:,} {name.partition('/')[2]}" for name, n in counts.items() if name.startswith("left_out/")]
    return ", ".join(said) + (f"; left out: {', '.join(left)}" if left else "; none left out")


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
