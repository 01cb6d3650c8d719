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
    before, folder = set(sys.modules), str((RUNS / script).parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
        for beside in [n for n, m in sys.modules.items() if n not in before and _is_in_runs(m)] + [name]:
            del sys.modules[beside]


def _is_in_runs(module: ModuleType) -> bool:
    return RUNS in Path(getattr(module, "__file__", None) or "/").resolve().parents
