"""Settings of the documentation site (`make docs`): Sphinx, pages in Markdown, nothing loaded from elsewhere."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

project = "stepcredit"
copyright = "the stepcredit authors"
extensions = ["myst_parser", "extensions.mathml", "extensions.api_pages", "extensions.markdown_twins"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True  # with -W: a link or an anchor that leads nowhere is an error
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
highlight_language = "none"

html_theme = "furo"
html_title = "stepcredit"
html_math_renderer = "mathml"
html_copy_source = False  # the Markdown twins stand beside the pages
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes = False  # two dashes are those of a flag
