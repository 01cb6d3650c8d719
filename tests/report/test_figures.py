import math
import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from stepcredit.errors import InputError
from stepcredit.report.figures import (
    accuracy_alt,
    accuracy_svg,
    check_curves,
    curve_legend,
    curve_panels,
    method_colours,
)
from stepcredit.report.scores import aggregate


def scores(*methods):
    rows = [{"task": "t", "method": m, "search": "greedy", "n": 100, "accuracy": 0.9} for m in methods]
    return aggregate(rows)


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_the_bars_are_labelled_in_real_text():
    found = texts(accuracy_svg(scores("oreo", "sft")))
    assert {"OREO · greedy", "SFT · greedy", "90.0 ± 3.0"} <= set(found)


def test_the_same_scores_give_the_same_bytes_whatever_the_settings_of_matplotlib():
    first = accuracy_svg(scores("oreo", "sft"))
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert accuracy_svg(scores("oreo", "sft")) == first
        assert mpl.rcParams["font.size"] == 30


def test_no_date_no_font_no_size_and_the_ink_of_the_page():
    svg = accuracy_svg(scores("oreo"))
    assert svg.startswith("<svg")
    assert "DejaVu" not in svg
    assert "metadata" not in svg
    assert "<style" not in svg
    assert "currentColor" in svg
    assert not re.search(r'<svg[^>]* (width|height)="', svg)


def test_ids_belong_to_one_figure():
    first, second = (accuracy_svg(scores("oreo"), name) for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', first)) <= ids[0]


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "$x^{2$", "_hidden", "a\nb\x00", "日本語", 'id="x" #010203', "\ud800"],
)
def test_any_name_is_drawn_as_plain_text(name):
    svg = accuracy_svg(scores(name))
    assert "<script" not in svg
    assert len(ElementTree.fromstring(svg).findall(".//*")) > 5
    shown = "".join(c if c.isprintable() else "\ufffd" for c in name)
    assert f"{shown} · greedy" in texts(svg)


def test_the_description_holds_the_numbers():
    assert accuracy_alt(scores("oreo")) == (
        "Bar plot of accuracy in percent with standard errors: OREO with greedy 90.0 ± 3.0."
    )


def test_known_methods_keep_their_colour():
    alone, together = method_colours(["oreo"]), method_colours(["zeta", "alpha", "oreo"])
    assert alone["oreo"] == together["oreo"]
    assert len(set(together.values())) == 3


def curve(**points):
    columns = [{"step": 10.0 * i} | dict(zip(points, row)) for i, row in enumerate(zip(*points.values()))]
    return check_curves({"oreo": columns})


def test_a_panel_for_each_known_quantity_with_a_number():
    panels = curve_panels(curve(loss=[1.0, 0.5], kl=[None, None], mystery=[1, 2], reward=[math.nan, 1]))
    assert [panel.title for panel in panels] == ["loss", "reward"]
    assert panels[0].alt == "Line plot of loss over training steps: OREO from 1 to 0.5 at step 10."


def test_values_that_are_not_finite_leave_a_gap():
    full, gap = (curve_panels(curve(loss=[4, 3, x, 1, 2]))[0].svg for x in (2, math.inf))
    moves = [max(len(re.findall("M ", d)) for d in re.findall(r' d="([^"]*)"', svg)) for svg in (full, gap)]
    assert moves == [1, 2]


def test_long_curves_are_averaged_down():
    short, long = (len(curve_panels(curve(loss=[math.sin(i) for i in range(n)]))[0].svg) for n in (300, 9000))
    assert long < 1.2 * short


def test_the_legend_tells_methods_apart_without_colour():
    curves = check_curves({name: [{"step": 1, "loss": 1.0}] for name in ("sft", "oreo", "dqo")} | {"dpo": []})
    legend = curve_legend(curves)
    assert [entry.label for entry in legend] == ["OREO", "DQO", "SFT"]
    assert len({entry.dashes for entry in legend}) == 3
    assert curve_panels(curves) == curve_panels(dict(reversed(curves.items())))


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({"oreo": {"step": 1}}, "curves.json"),
        ({"oreo": [{"step": 1}, {"loss": 1.0}]}, "curves.json, 'oreo' row 2"),
        ({"oreo": [3]}, "curves.json, 'oreo' row 1"),
        ({"oreo": [{"step": 1, "loss": "low"}]}, "curves.json, 'oreo' row 1"),
    ],
)
def test_malformed_curves_are_named(payload, where):
    with pytest.raises(InputError) as caught:
        check_curves(payload)
    assert caught.value.where == where
