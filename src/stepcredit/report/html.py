"""Pages made of templates: every value escaped, nothing undefined, a file that appears whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from stepcredit.errors import InputError
from stepcredit.report.formatting import legible
from stepcredit.version import __version__


def template(name: str, filters: Mapping[str, Callable[..., Any]]) -> Template:
    """A template of this package. Texts are escaped, control and bidirectional characters in them replaced; a name that
    it is not given is an error."""
    environment = Environment(
        loader=PackageLoader("stepcredit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: legible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    environment.globals["version"] = __version__
    return environment.get_template(name)


def write_page(out: Path, make: Callable[[], str]) -> Path:
    """Write a page whole or not at all, and return where it is.

    Args:
        out: the file; its folder is made where it is missing.
        make: the page's text; asked once it is clear that it can be written.

    Raises:
        InputError: `out` is a folder, or what `make` raises.
    """
    if out.is_dir():
        raise InputError("is a folder; name the HTML file to write", str(out))
    page = make().encode("utf-8", errors="replace")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_bytes(page)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return out
