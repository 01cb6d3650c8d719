"""The choice of a body's attention function, by its name in transformers' registry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attending(body: Any, name: str, instead_of: str | None = None) -> Iterator[None]:
    """Context manager in which a body attends by another function.

    Args:
        body: the body.
        name: that of the function.
        instead_of: only parts that attend by this one are changed; None: all.
    """
    configs = {id(m.config): m.config for m in body.modules() if getattr(m, "config", None) is not None}.values()
    before = [(config, config._attn_implementation) for config in configs]
    changed = [(config, own) for config, own in before if instead_of is None or own == instead_of]
    for config, _ in changed:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, own in changed:
            config._attn_implementation = own
