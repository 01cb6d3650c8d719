"""The server of the live page: this machine only, reading only, and only what the page shows."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from markupsafe import escape

from stepcredit.errors import InputError
from stepcredit.report.page import render
from stepcredit.report.view.view_page import CREDIT, RESULTS, parts_of, version_of, view_page

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "[::1]")
_HTML = "text/html; charset=utf-8"
_SANDBOX = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Policy of pages that come from files: what is in them runs apart from this server, and reaches nothing."""


def view_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Returns a server of the page of a folder, bound to this machine; port 0: any free one.

    Raises:
        InputError: the folder does not exist, or the port is in use.
    """
    if not folder.is_dir():
        raise InputError("no such folder", str(folder))
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, folder))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used ({error}); choose another, or 0 for any", "port") from error


class _Handler(BaseHTTPRequestHandler):
    """Answers GET requests: the page, its script, its version, and the pages of results and credit."""

    server_version, sys_version = "stepcredit", ""

    def __init__(self, folder: Path, *request: Any) -> None:
        self.folder = folder
        super().__init__(*request)

    def do_GET(self) -> None:
        """Answers a request. Requests for another host are refused, so that no other site can read the pages."""
        host = self.headers.get("Host", "").rpartition(":")
        if (host[0] or host[2]) not in _NAMES:
            self._answer(HTTPStatus.FORBIDDEN, "for this machine only", "text/plain")
            return
        try:
            self._answer(HTTPStatus.OK, *self._found(unquote(urlsplit(self.path).path).lstrip("/")))
        except InputError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"<pre>{escape(str(error))}</pre>", _HTML)
        except LookupError:
            self._answer(HTTPStatus.NOT_FOUND, "no such page", "text/plain")

    def _found(self, path: str) -> tuple[str, str]:
        """Returns content and type of a path.

        Raises:
            LookupError: there is no such page.
            InputError: the files of the page are damaged.
        """
        if path == "":
            return view_page(self.folder), _HTML
        if path == "view.js":
            return (files("stepcredit.report.view") / "view.js").read_text(encoding="utf-8"), "text/javascript"
        parts = parts_of(self.folder)
        if path == "version":
            return version_of(parts), "text/plain"
        kind, _, name = path.partition("/")
        file = {"report": RESULTS, "credit": CREDIT}[kind]
        part = {part.name: part for part in parts if part.file.name == file}[name]
        if kind == "report":
            return render(part.file.parent), _HTML
        return part.file.read_text(encoding="utf-8"), _HTML

    def _answer(self, status: HTTPStatus, content: str, kind: str) -> None:
        body = content.encode("utf-8", errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.path.startswith(("/credit/", "/report/")):
            self.send_header("Content-Security-Policy", _SANDBOX)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: the page asks every other second."""
