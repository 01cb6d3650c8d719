"""HTML pages from templates: all values escaped, undefined names are errors, files written atomically."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from stepcredit.errors import InputError
from stepcredit.files import written_whole
from stepcredit.report.formatting import legible
from stepcredit.version import __version__


def template(name: str, filters: Mapping[str, Callable[..., Any]]) -> Template:
    """Returns a template of this package. Texts are escaped, and control and bidirectional characters replaced;
    undefined names are errors."""
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
    """Writes a page atomically and returns its path.

    Args:
        out: the file; its folder is created if missing.
        make: returns the page as text; called after `out` has been checked.

    Raises:
        InputError: `out` is a folder or cannot be written, or `make` raises it.
    """
    if out.is_dir():
        raise InputError("is a folder; name the HTML file to write", str(out))
    page = make().encode("utf-8", errors="replace")
    with written_whole(out) as part:
        part.write_bytes(page)
    return out
