"""`stepcredit estimate`: memory, time and disk of a training run, before it is started."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from stepcredit.commands.console import quiet
from stepcredit.commands.train import method_and_rest
from stepcredit.files import write_json
from stepcredit.parsing import parse


def run(arguments: list[str]) -> int:
    """Estimates the run that `stepcredit train` would make with the same flags, and prints or writes tables."""
    quiet()
    from stepcredit.estimates.estimate import EstimateConfig, estimate
    from stepcredit.estimates.estimate_tables import estimate_tables
    from stepcredit.training.methods import METHODS

    method, rest = method_and_rest(arguments)
    config, args = parse(f"estimate --method {method}", [EstimateConfig, METHODS[method].config], rest)
    found = estimate(config, args)
    Console().print(estimate_tables(found))
    if config.output is not None:
        write_json(Path(config.output), found.to_json())
    return 0
