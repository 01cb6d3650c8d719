import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepcredit.grading.notation.braces import group_end
from stepcredit.grading.notation.spelling import normal_form, plain

SAME = [
    ("\\dfrac12", "\\frac{1}{2}"),
    ("\\tfrac 1{2}", "\\frac{1}{2}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
    ("\\left( 3, \\frac \\pi2 \\right)", "(3,\\frac{\\pi}{2})"),
    ("$\\sqrt2$", "\\sqrt{2}"),
    ("\\text{Evelyn}", "evelyn."),
    ("\\text{(C)}", "C"),
    ("(C)", "c"),
    ("58,500", "58500"),
    ("10{,}080", "10,\\!080"),
    ("90^{\\circ}", "90^\\circ"),
    ("145°", "145^\\circ"),
    ("x\\leq3", "x \\le 3"),
    ("8pi", "8\\pi"),
    ("sqrt(3)/2", "\\sqrt{3}/2"),
    ("(-inf, 2]", "(-\\infty,2]"),
    ("**\\(7\\)**", "7"),
    ("15\\mbox{ cm}^2", "15 cm^2"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
]
NOT_THE_SAME = [
    ("(1,2)", "[1,2)"),
    ("(1,234)", "(1234)"),
    ("-x", "x"),
    ("p - q", "q - p"),
    ("\\text{east}", "west"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 12 \\end{pmatrix}"),
    ("\\sinh x", "\\sin hx"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_answer_in_two_spellings(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("one", "other"), NOT_THE_SAME)
def test_two_answers(one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


latex = st.text(alphabet="\\{}()[]$^_.,%!12 xfracsqrtdleftghomb", max_size=80) | st.text(max_size=80)


@given(latex)
def test_any_text_is_survived_and_its_normal_form_is_stable(text: str) -> None:
    assert normal_form(text) == normal_form(text)
    plain(text)


@given(st.text(alphabet="ab{}\\", max_size=40))
def test_a_group_ends_at_its_own_brace(text: str) -> None:
    start = text.find("{")
    end = group_end(text, start) if start >= 0 else None
    if end is not None:
        inside = text[start:end]
        bare = inside.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert bare.count("{") == bare.count("}")
        assert text[end - 1] == "}"


def test_a_brace_that_never_closes_has_no_end() -> None:
    assert group_end("{a{b}", 0) is None
    assert group_end("{" * 500 + "}" * 500, 0) is None
    assert group_end("{\\}}x", 0) == 4
