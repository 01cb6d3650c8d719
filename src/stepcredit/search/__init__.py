"""Search at test time: step beams, and choices among responses. The package can be called: it is `stepcredit.search`,
the function (`stepcredit.api.search`), as well."""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Search(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        return importlib.import_module("stepcredit.api").search(*args, **settings)


sys.modules[__name__].__class__ = _Search
