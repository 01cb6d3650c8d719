"""`stepcredit collect`: sample and grade responses."""

from __future__ import annotations

from stepcredit.commands.console import counted, quiet
from stepcredit.parsing import parse


def run(arguments: list[str]) -> int:
    """Collects episodes and prints counts."""
    quiet()
    from stepcredit.rollouts.collect import CollectConfig, collect

    (config,) = parse("collect", [CollectConfig], arguments)
    print(f"{config.output_dir}: {counted(collect(config))}")
    if not config.dry_run:
        print(f"Next: stepcredit inspect {config.output_dir}")
    return 0
