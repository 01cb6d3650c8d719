"""`stepcredit alfworld build|demonstrate`: builds games, or generates demonstrations."""

from __future__ import annotations

import inspect

from stepcredit.commands.console import counted
from stepcredit.errors import InputError
from stepcredit.parsing import parse
from stepcredit.rollouts.demonstrate import DemonstrateConfig, demonstrate
from stepcredit.tasks.alfworld.build_command import BuildConfig, build

CONFIGS: dict[str, type] = {"build": BuildConfig, "demonstrate": DemonstrateConfig}


def run(arguments: list[str]) -> int:
    """Builds games or generates demonstrations, and prints counts."""
    verb = arguments[0] if arguments else ""
    if verb in ("-h", "--help"):
        lines = [f"  stepcredit alfworld {name} --help\n\n{inspect.getdoc(kind)}" for name, kind in CONFIGS.items()]
        usage = "usage: stepcredit alfworld build|demonstrate [--config FILE.yaml] [--flag value …]"
        print("\n\n".join([usage, *lines]))
        raise SystemExit(0)
    if verb not in CONFIGS:
        raise InputError("needs build or demonstrate; see stepcredit alfworld --help", "alfworld")
    (config,) = parse(f"alfworld {verb}", [CONFIGS[verb]], arguments[1:])
    counts = build(config) if verb == "build" else demonstrate(config)
    print(f"{config.output_dir}: {counted(counts)}")
    if verb == "build" and not config.dry_run:
        print(f"Next: stepcredit alfworld demonstrate --data {config.output_dir} --output_dir demonstrations")
    return 0
