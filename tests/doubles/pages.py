"""Pages read as a browser would, and texts that would break a page that trusts them."""

import re
import threading
from contextlib import contextmanager
from html.parser import HTMLParser

from stepcredit.report.view.view_server import view_server

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
HOSTILE = [
    "<script>alert(1)</script>",
    "</style><b onmouseover=alert(1)>",
    '" onload="alert(1)',
    "' onload='alert(1)",
    "</title><img src=x onerror=alert(1)>",
    "</svg><script>alert(1)</script>",
    "</pre></details>",
    "]]><![CDATA[<script>",
    "{{ 7 * 191 }}{% raw %}",
    "--><script>alert(1)</script><!--",
    "javascript:alert(1)",
    "\ud800\x00\u202e\x1b[31m\u200f",
    "&lt;script&gt;&#0;",
]
VOID = {"meta", "br", "line", "use", "path", "rect"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @classmethod
    def of(cls, text):
        reader = cls()
        reader.feed(text)
        reader.close()
        assert reader.open == []
        return reader


@contextmanager
def served(folder):
    """Serves the live page of a folder; yields the port."""
    with view_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
