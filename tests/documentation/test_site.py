"""The site without its builder: what the nav lists, tables made from the code, links and anchors, and llms.txt."""

import re

import pytest
from markdown_it import MarkdownIt

import stepcredit
from docs.extensions import markdown_twins
from docs.tables import page
from documentation.blocks import DOCS, PAGES, ROOT
from stepcredit.cli import COMMANDS
from stepcredit.training.methods import METHODS

ORPHANS: set[str] = set()
"""Pages that wait for what they describe."""


def listed():
    return [name for _, pages in markdown_twins.nav(DOCS) for name in pages]


def test_the_nav_lists_every_page_once():
    pages = {p.removeprefix("docs/").removesuffix(".md") for p in PAGES if p.startswith("docs/")}
    names = [name for name in listed() if not name.startswith("api/")]
    assert len(names) == len(set(names))
    assert set(names) == pages - {"index"} - ORPHANS


def test_every_command_and_every_method_has_its_page():
    assert {f"commands/{name}" for name in COMMANDS} <= set(listed())
    assert {f"methods/{name}" for name in METHODS} <= set(listed())


@pytest.mark.parametrize("name", [p for p in PAGES if p.startswith("docs/")])
def test_tables_made_from_the_code_are_current(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert page(text) == text, "make docs-tables makes them anew"


def test_the_pages_of_commands_and_methods_have_their_tables():
    for name in COMMANDS:
        text = (DOCS / f"commands/{name}.md").read_text(encoding="utf-8")
        assert f"<!-- flags of {name}" in text
    for name in METHODS:
        text = (DOCS / f"methods/{name}.md").read_text(encoding="utf-8")
        assert f"<!-- settings of {name} -->" in text
        assert f"<!-- facts of {name} -->" in text


def anchors(text):
    """The anchors of the headings of a page, as GitHub and MyST make them."""
    tokens = MarkdownIt().enable("table").parse(text)
    titles = [tokens[k + 1].content for k, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(text):
    """The targets of the links and images of a page."""
    found = []
    for token in MarkdownIt().enable("table").parse(text):
        for child in token.children or []:
            found += [child.attrs[key] for key in ("href", "src") if key in child.attrs]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in links(text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if "api" in target.parts:  # made with the site, which checks them
            assert target.resolve().relative_to(DOCS).with_suffix("").as_posix() in listed()
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_numbers_in_the_table_of_claims_stand_in_the_results():
    rows = [
        line.split("|") for line in (DOCS / "claims.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "
    ]
    found = {number for row in rows[1:] for number in re.findall(r"\d+\.\d+", row[-2])}
    assert len(found) > 20
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    assert {number for number in found if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", results)} == set()


def test_llms_txt_has_every_page_with_its_first_paragraph(tmp_path, monkeypatch):
    monkeypatch.setattr(markdown_twins, "nav", lambda docs: [("Methods", ["methods/oreo"])])
    text = markdown_twins.llms_txt(DOCS)
    assert text.startswith("# stepcredit\n\n> Offline reinforcement learning")
    assert "## Methods\n\n- [OREO: offline reasoning optimisation](methods/oreo.md): arXiv 2412.16145, sections" in text


def test_a_twin_has_no_directives_and_copies_of_the_files_that_it_links(tmp_path):
    text = "---\norphan: true\n---\n# A\n\n![x](../../benchmarks/results.json) [y](b.md)\n\n```{toctree}\na\n```\n"
    assert markdown_twins.twin(text, "a/b.md", DOCS, tmp_path) == (
        "# A\n\n![x](../files/benchmarks/results.json) [y](b.md)\n\n"
    )
    assert (tmp_path / "files/benchmarks/results.json").is_file()


def test_every_public_name_has_a_page_in_the_reference(tmp_path):
    pytest.importorskip("griffe", reason="the extra `docs` is not installed")
    from docs.extensions import api_pages

    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "docs").mkdir()
    api_pages.generate(tmp_path / "docs")
    pages = {p.stem: p.read_text(encoding="utf-8") for p in (tmp_path / "docs/api").iterdir()}
    shown = {name for text in pages.values() for name in re.findall(r"^## stepcredit\.(\w+)$", text, re.MULTILINE)}
    assert shown == set(stepcredit.__all__) - {"__version__"}
    assert {f"api/{name}" for name in pages} == {name for name in listed() if name.startswith("api/")}
    assert "Σ_{i≥s} ρ_i" in pages["objectives"]
