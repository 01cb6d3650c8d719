import numpy as np
import pytest

from stepcredit.errors import InputError
from stepcredit.grading.style import AUTO, GSM8K, MATH, AnswerStyle, Kind, Marker
from stepcredit.tasks.prompts import (
    DEFAULT_STYLE,
    PROMPT_STYLES,
    PromptStyle,
    Worked,
    draw_examples,
    posed,
    style_named,
)

BOXED_NUMBER = AnswerStyle(Marker.BOXED, Kind.NUMBER)
HASHES_SENTENCE = "Please reason step by step, and produce a final answer following 4 '#', like '#### 0'"
BOXED_SENTENCE = "Please reason step by step, and put your final answer within \\boxed{}."
FIVE = [(f"Q{k}?", f"Work {k}.\n#### {k}") for k in range(1, 6)]
FOUR = [(f"P{k}?", f"So $\\boxed{{{k}}}$.") for k in range(1, 5)]


def train(count):
    return [Worked(f"t-{k}", f"Q{k}?", str(k), f"#### {k}") for k in range(count)]


@pytest.mark.parametrize(
    ("task", "name", "style", "stop", "examples", "prompt"),
    [
        ("gsm8k", "qwen-math", GSM8K, (), [],
         [{"role": "system", "content": HASHES_SENTENCE}, {"role": "user", "content": "How many {cats}?"}]),
        ("gsm8k", "qwen-boxed", BOXED_NUMBER, (), [],
         [{"role": "system", "content": BOXED_SENTENCE}, {"role": "user", "content": "How many {cats}?"}]),
        ("gsm8k", "deepseek-math", BOXED_NUMBER, (), [],
         [{"role": "user", "content": "How many {cats}?\n" + BOXED_SENTENCE}]),
        ("gsm8k", "deepseek-math-plain", BOXED_NUMBER, (), [],
         "User: How many {cats}?\n" + BOXED_SENTENCE + "\n\nAssistant:"),
        ("gsm8k", "lm-eval", GSM8K, ("Question:",), FIVE,
         "Question: Q1?\nAnswer: Work 1.\n#### 1\n\n"
         "Question: Q2?\nAnswer: Work 2.\n#### 2\n\n"
         "Question: Q3?\nAnswer: Work 3.\n#### 3\n\n"
         "Question: Q4?\nAnswer: Work 4.\n#### 4\n\n"
         "Question: Q5?\nAnswer: Work 5.\n#### 5\n\n"
         "Question: How many {cats}?\nAnswer:"),
        ("gsm8k", "plain", GSM8K, (), [], "Question: How many {cats}?\nAnswer:"),
        ("math", "qwen-math", MATH, (), [],
         [{"role": "system", "content": BOXED_SENTENCE}, {"role": "user", "content": "How many {cats}?"}]),
        ("math", "qwen-boxed", MATH, (), [],
         [{"role": "system", "content": BOXED_SENTENCE}, {"role": "user", "content": "How many {cats}?"}]),
        ("math", "deepseek-math", MATH, (), [],
         [{"role": "user", "content": "How many {cats}?\n" + BOXED_SENTENCE}]),
        ("math", "deepseek-math-plain", MATH, (), [],
         "User: How many {cats}?\n" + BOXED_SENTENCE + "\n\nAssistant:"),
        ("math", "lm-eval", MATH, ("Problem:",), FOUR,
         "Problem:\nP1?\n\nSolution: So $\\boxed{1}$.\n\n"
         "Problem:\nP2?\n\nSolution: So $\\boxed{2}$.\n\n"
         "Problem:\nP3?\n\nSolution: So $\\boxed{3}$.\n\n"
         "Problem:\nP4?\n\nSolution: So $\\boxed{4}$.\n\n"
         "Problem:\nHow many {cats}?\n\nSolution:"),
        ("math", "plain", MATH, (), [], "Question: How many {cats}?\nAnswer:"),
        ("reasoning-gym", "answer-tags", AUTO, (), [],
         [{"role": "system", "content": "Please reason step by step, and put your final answer, and nothing else, "
           "between <answer> and </answer>."},
          {"role": "user", "content": "How many {cats}?"}]),
        ("reasoning-gym", "qwen-math", GSM8K, (), [],
         [{"role": "system", "content": HASHES_SENTENCE}, {"role": "user", "content": "How many {cats}?"}]),
        ("reasoning-gym", "qwen-boxed", MATH, (), [],
         [{"role": "system", "content": BOXED_SENTENCE}, {"role": "user", "content": "How many {cats}?"}]),
        ("reasoning-gym", "deepseek-math", MATH, (), [],
         [{"role": "user", "content": "How many {cats}?\n" + BOXED_SENTENCE}]),
        ("reasoning-gym", "plain", GSM8K, (), [], "Question: How many {cats}?\nAnswer:"),
    ],
)  # fmt: skip
def test_every_style_in_full(task, name, style, stop, examples, prompt):
    found = style_named(task, name)
    assert (found.name, found.style, found.stop, found.shots) == (name, style, stop, len(examples))
    assert found.render("How many {cats}?", examples) == prompt
    assert found.lead == (" " if isinstance(prompt, str) else "")


def test_every_style_is_in_the_table_above():
    names = {"qwen-math", "qwen-boxed", "deepseek-math", "deepseek-math-plain", "lm-eval", "plain"}
    gym = {"answer-tags", "qwen-math", "qwen-boxed", "deepseek-math", "plain"}
    shown = {"gsm8k": names, "math": names, "reasoning-gym": gym}
    assert {task: set(styles) for task, styles in PROMPT_STYLES.items()} == shown


@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_default_and_unknown_style(task):
    assert style_named(task) is PROMPT_STYLES[task][DEFAULT_STYLE]
    assert DEFAULT_STYLE == "qwen-math"
    with pytest.raises(InputError, match=r"prompt_style: no prompt style 'x'; there is qwen-math, .*, plain"):
        style_named(task, "x")


def test_as_many_examples_as_the_style_shows():
    with pytest.raises(ValueError, match="lm-eval shows 5 examples, not 4"):
        style_named("gsm8k", "lm-eval").render("Q?", FIVE[:4])
    with pytest.raises(ValueError, match="plain shows 0 examples, not 1"):
        style_named("gsm8k", "plain").render("Q?", FIVE[:1])


def test_examples_are_fixed_and_different():
    drawn = draw_examples(train(100), 6)
    order = np.random.default_rng(0).permutation(100)[:6]
    assert drawn == [(f"Q{k}?", f"#### {k}") for k in order]
    assert drawn == draw_examples(train(100), 6)
    twice = [*train(3), *train(3)]
    assert {question for question, _ in draw_examples(twice, 3)} == {"Q0?", "Q1?", "Q2?"}


def test_examples_come_from_rows_with_a_solution():
    bare = [Worked("a", "bare?", "1", None)] * 10
    assert draw_examples([*bare, *train(2)], 2) in ([("Q0?", "#### 0"), ("Q1?", "#### 1")],
                                                    [("Q1?", "#### 1"), ("Q0?", "#### 0")])  # fmt: skip
    with pytest.raises(InputError, match="prompt_style: 3 worked solutions are needed for the examples; train has 2"):
        draw_examples([*bare, *train(2)], 3)


def test_no_problem_is_among_its_own_examples():
    style = PromptStyle("s", GSM8K, after="!", shots=2)
    rows = train(30)
    shown = {p.prompt_id: p.text for p in posed(rows, None, style, lambda: rows)}
    drawn = [question for question, _ in draw_examples(rows, 3)]
    for row in rows:
        others = [q for q in drawn if q != row.question][:2]
        assert shown[row.prompt_id] == "\n\n".join([*(f"{q}!#### {q[1:-1]}" for q in others), row.question + "!"])
    spaced = [Worked("x", f" {drawn[0]}\n", "1", None)]
    assert posed(spaced, None, style, lambda: rows)[0].text.count(drawn[0]) == 1


def test_posed_keeps_everything_and_asks_for_train_only_if_examples_are_shown():
    def never():
        raise AssertionError

    rows = [Worked("a", "q?", "1", "w\n#### 1", {"level": 2}), Worked("b", "r?", "2", None)]
    one, two = posed(rows, None, style_named("gsm8k", "plain"), never)
    assert (one.prompt_id, one.answer, one.solution, one.metadata) == ("a", "1", " w\n#### 1", {"level": 2})
    assert (two.prompt_id, two.answer, two.solution, two.metadata) == ("b", "2", None, {})
    assert [p.prompt_id for p in posed(rows, 1, style_named("gsm8k"), never)] == ["a"]
    assert posed(rows, 0, style_named("gsm8k"), never) == []
    for count in (3, -1):
        with pytest.raises(InputError, match=f"limit: {count} problems were asked for; the split has 2"):
            posed(rows, count, style_named("gsm8k"), never)
