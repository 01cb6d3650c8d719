"""A Markdown twin beside each page (`x.html`, `x.md`), and `llms.txt`, the list of them, for programs that read."""

import re
import shutil
from pathlib import Path

TOCTREE = re.compile(r"^```\{toctree\}\n(?P<body>.*?)^```\n", re.MULTILINE | re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n.*?^---\n", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def twin(text, page, docs, out):
    """Returns a page as its twin: without directives, and with copies of the files outside of docs/ that it links.

    Args:
        text: the page's source.
        page: its path below `docs`.
        docs, out: the folders of the sources and of the site.
    """

    def copied(link):
        source = (docs / page).parent.joinpath(link["path"]).resolve()
        if docs in source.parents or not source.is_file():
            return link[0]
        copy = out / "files" / source.relative_to(docs.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        return f"]({'../' * (len(Path(page).parts) - 1)}{copy.relative_to(out)}{link['anchor'] or ''})"

    return OUTSIDE.sub(copied, TOCTREE.sub("", FRONT_MATTER.sub("", text)))


def nav(docs):
    """Returns [(caption, its pages)], as the toctrees of docs/index.md list them."""
    found = []
    for tree in TOCTREE.finditer((docs / "index.md").read_text(encoding="utf-8")):
        lines = tree["body"].splitlines()
        caption = next((line.removeprefix(":caption: ") for line in lines if line.startswith(":caption: ")), "")
        found.append((caption, [line for line in lines if line and not line.startswith(":")]))
    return found


def described(text):
    """Returns (title, first paragraph in one line) of a page."""
    text = TOCTREE.sub("", FRONT_MATTER.sub("", text))
    title = re.search(r"^# (.+)$", text, re.MULTILINE)[1]
    after = text.split(f"# {title}\n", 1)[1].strip()
    first = "" if after.startswith(("#", "|", "```")) else " ".join(after.split("\n\n")[0].split())
    return title, re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", first)


def llms_txt(docs):
    """Returns the text of llms.txt (llmstxt.org): the site's subject, and a link to the twin of every page."""
    title, summary = described((docs / "index.md").read_text(encoding="utf-8"))
    lines = [f"# {title}", "", f"> {summary}", ""]
    for caption, pages in nav(docs):
        lines += [f"## {caption}", ""]
        for page in pages:
            title, first = described((docs / f"{page}.md").read_text(encoding="utf-8"))
            lines.append(f"- [{title}]({page}.md)" + (f": {first}" if first else ""))
        lines.append("")
    return "\n".join(lines)


def write(app, exception):
    """Writes the twins and llms.txt into the finished site."""
    if exception is not None or app.builder.name != "html":
        return
    docs, out = Path(app.srcdir), Path(app.outdir)
    for name in app.env.found_docs:
        text = Path(app.env.doc2path(name)).read_text(encoding="utf-8")
        (out / f"{name}.md").write_text(twin(text, f"{name}.md", docs, out), encoding="utf-8")
    (out / "llms.txt").write_text(llms_txt(docs), encoding="utf-8")


def link(app, pagename, templatename, context, doctree):
    """Names the twin in the head of the page."""
    if doctree is not None:
        name = pagename.rpartition("/")[2]
        context["metatags"] += f'<link rel="alternate" type="text/markdown" href="{name}.md">'


def setup(app):
    """Connects both."""
    app.connect("html-page-context", link)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
