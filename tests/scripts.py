"""Scripts of `runs/`, which are no package, as modules."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

RUNS = Path(__file__).parents[1] / "runs"


@contextmanager
def loaded(script: str) -> Iterator[ModuleType]:
    """The script of this path below `runs/`, a module for as long as the context lasts."""
    name = "runs_" + script.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(name, RUNS / script)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str((RUNS / script).parent))  # as where the script is run
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[name]
        sys.path.remove(str((RUNS / script).parent))
