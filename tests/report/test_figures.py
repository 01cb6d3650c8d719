import math
import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from doubles.results import LEGEND, METHODS, accuracies
from stepcredit.report.figures import accuracy_alt, accuracy_svg, curve_lines, curve_panels, round_panels
from stepcredit.report.legend import PALETTE, Legend
from stepcredit.report.scores import aggregate

NAN = math.nan


def scores(*methods):
    rows = [{"task": "t", "method": m, "search": "greedy", "n": 100, "accuracy": 0.9} for m in methods]
    return aggregate(accuracies(rows), LEGEND)


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
    first, second = (accuracy_svg(scores("oreo"), name=name) for name in ("one", "two"))
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


def test_recorded_methods_keep_their_look_and_others_get_the_palette():
    legend = Legend({**METHODS, "evil": {"label": 3, "color": '" onload="x'}, "worse": "text"})
    assert [legend.label(m) for m in ("oreo", "evil", "worse", "a\x1b")] == ["OREO", "evil", "worse", "a\ufffd"]
    assert legend.colour("oreo") == "#2476c4"
    others = [legend.colour(m) for m in ("zeta", "evil", "alpha")]
    assert others == [colour for colour in PALETTE if colour != "#2476c4"][:3]
    assert [legend.colour(m) for m in ("zeta", "evil", "alpha")] == others
    assert {legend.colour(f"m{k}") for k in range(30)} <= set(PALETTE)
    assert Legend(["oreo"]).label("oreo") == "oreo"


def curve(**points):
    columns = [{"step": 10.0 * i} | dict(zip(points, row)) for i, row in enumerate(zip(*points.values()))]
    return {"oreo": columns}


def test_a_panel_for_each_known_quantity_with_a_number():
    panels = curve_panels(curve(loss=[1.0, 0.5], kl=[NAN, NAN], mystery=[1.0, 2.0], reward=[NAN, 1.0]), LEGEND)
    assert [panel.title for panel in panels] == ["loss", "reward"]
    assert panels[0].alt == "Line plot of loss over training steps: OREO from 1 to 0.5 at step 10."


def test_values_that_are_not_finite_leave_a_gap():
    full, gap = (curve_panels(curve(loss=[4.0, 3.0, x, 1.0, 2.0]), LEGEND)[0].svg for x in (2.0, NAN))
    moves = [max(len(re.findall("M ", d)) for d in re.findall(r' d="([^"]*)"', svg)) for svg in (full, gap)]
    assert moves == [1, 2]


def test_long_curves_are_averaged_down():
    short, long = (len(curve_panels(curve(loss=[math.sin(i) for i in range(n)]), LEGEND)[0].svg) for n in (300, 9000))
    assert long < 1.2 * short


def test_lines_tell_methods_apart_without_colour():
    curves = {name: [{"step": 1.0, "loss": 1.0}] for name in ("sft", "oreo", "dqo")}
    lines = curve_lines(curves, LEGEND)
    assert [line.label for line in lines.values()] == ["SFT", "OREO", "dqo"]
    assert len({line.dashes for line in lines.values()}) == 3


def test_a_line_per_method_over_the_rounds_where_there_are_several():
    def row(method, number, accuracy, seed=0):
        return {"task": "t", "split": "test", "method": method, "round": number, "search": "greedy", "n": 100,
                "seed": seed, "accuracy": accuracy}  # fmt: skip

    rows = [row("oreo", 10, 0.9), row("oreo", 2, 0.8), *(row("rft", k, a, s) for k, a, s in [(0, 0.4, 0), (0, 0.6, 1),
            (2, 0.7, 0), (2, 0.7, 1)]), row("sft", 0, 0.1)]  # fmt: skip
    (panel,) = round_panels(aggregate(accuracies(rows), LEGEND), LEGEND)
    assert panel.title == "t (test)"
    assert panel.alt == (
        "Line plot of accuracy in percent per round on t (test), with standard errors: OREO with greedy 80.0 ± 4.0 in "
        "round 2, 90.0 ± 3.0 in round 10; rejection sampling with greedy 50.0 ± 10.0 in round 0, 70.0 ± 0.0 in round 2."
    )
    assert {"OREO · greedy", "rejection sampling · greedy"} <= set(texts(panel.svg))
    assert not round_panels(scores("oreo", "sft"), LEGEND)
