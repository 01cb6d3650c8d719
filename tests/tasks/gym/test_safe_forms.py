"""Nothing that a model writes is evaluated, and verifiers that err are made stricter."""

import pytest

from stepcredit.tasks.gym.safe_forms import FORMULAS, FUNCTIONS, LITERALS, MAX_CHARS, is_formula
from stepcredit.tasks.registry import load_task
from stepcredit.verdict import Verdict

pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")


@pytest.mark.parametrize(
    "text", ["(4 + 7)*5/8", "x**2/2 - 3.5*x + C", "exp(-x)*sin(2*x)", "1e-3*y", "sqrt(x)", ".5", "2.", "log(Abs(x))"]
)
def test_formulas(text):
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()", "x.__class__", "open", "eval(x)", "x_", "[1]", "'a'", '"a"', "x;y", "x = 1",
        "lambda: 1", "x\x00", "1.real", "3x", "4!", "2^3", "x if y", "1e999", "é", "x@y", "1..x", "{1}", "0x10",
        "1+" * MAX_CHARS + "1",
    ],
)  # fmt: skip
def test_what_is_no_formula(text):
    assert not is_formula(text)


def test_every_allowed_name_is_a_function_of_sympy():
    import sympy

    assert {name for name in FUNCTIONS if not hasattr(sympy, name)} == set()


DATASETS = [name.split(".")[1] for name in (*LITERALS, *FORMULAS)]
EVALUATING = [*DATASETS, "simple_integration", "intermediate_integration", "polynomial_multiplication"]


@pytest.mark.parametrize("name", EVALUATING)
def test_an_answer_is_not_run(name, tmp_path):
    task = load_task(f"reasoning-gym:{name}")
    (problem,) = task.problems("train", 1)
    for code in (f"open({str(tmp_path / 'written')!r}, 'w')", f"[open({str(tmp_path / 'written')!r}, 'w')]"):
        assert task.grade(problem, f"<answer>{code}</answer>").verdict is Verdict.WRONG
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EVALUATING)
def test_no_other_verifier_evaluates(name):
    """Every module of the package that calls `eval`, `exec` or `parse_expr` in a verifier is among those above."""
    import ast
    import importlib
    import inspect

    from reasoning_gym.factory import DATASETS as REGISTERED

    evaluating = set()
    for dataset, (kind, _) in REGISTERED.items():
        if "score_answer" not in vars(kind):
            continue
        tree = ast.parse(inspect.getsource(importlib.import_module(kind.__module__)))
        functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f.name == "score_answer"]
        called = {ast.unparse(c.func).split(".")[-1] for f in functions for c in ast.walk(f) if isinstance(c, ast.Call)}
        if called & {"eval", "exec", "parse_expr", "sympify", "compile", "__import__"}:
            evaluating.add(dataset)
    assert evaluating - {"number_sorting"} == set(EVALUATING)  # number_sorting evaluates its own answer
