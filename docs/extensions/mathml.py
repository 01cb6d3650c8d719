"""Formulas as MathML, converted when the site is built: browsers draw it without JavaScript or fonts from elsewhere."""

import re

from docutils import nodes
from latex2mathml.converter import convert


def in_line(translator, node):
    """Writes a formula in a line of text."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def on_its_own(translator, node):
    """Writes a formula on a line of its own, its number at the right."""
    formula, number = re.subn(r"\\tag\{(.*?)\}", "", node.astext()), re.search(r"\\tag\{(.*?)\}", node.astext())
    shown = f'<span class="eqno">({number[1]})</span>' if number else ""
    translator.body.append(f'<div class="math">{shown}{convert(formula[0], display="block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Registers the renderer."""
    app.add_html_math_renderer("mathml", (in_line, None), (on_its_own, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
