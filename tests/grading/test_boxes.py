import pytest

from stepcredit.grading.extraction.boxes import boxed_answer, boxed_gold, last_boxed
from stepcredit.grading.extraction.own_turn import own_turn

TOGETHER = {
    "\\boxed{3} or \\boxed{5}": "3, 5",
    "$$x=\\boxed{3}\\quad\\text{or}\\quad x=\\boxed{5}$$": "3, 5",
    "$\\boxed{3}$, $\\boxed{4}$, and $\\boxed{5}$": "3, 4, 5",
    "\\boxed{3}\n\nor \\boxed{5} if \\boxed{6}": "6",
    "\\boxed{3} = \\boxed{5}": "5",
    "First \\boxed{4}. Then \\boxed{16}.": "16",
    "\\boxed{\\frac{5}{2}} or \\boxed{2.5}": "2.5",
    "\\boxed{x = \\boxed{3}}": "3",
    "\\boxed\\frac{2}{3}": "\\frac{2}{3}",
    "\\boxed{7}. Now \\boxed{8": "8",
    "\\boxed{\\frac{3}{4}$ or so": "\\frac{3}{4}",
    "\\boxed{5} goes into \\boxed{}": "5",
}


@pytest.mark.parametrize("text", TOGETHER)
def test_the_last_boxes_that_belong_together(text: str) -> None:
    found = boxed_answer(text, several=False)
    assert found is not None
    assert found[0] == TOGETHER[text]


def test_words_may_part_the_boxes_of_an_answer_that_has_several_parts() -> None:
    text = "It is \\boxed{3} in the first case, and it is \\boxed{5} in the second."
    assert boxed_answer(text, several=False) == ("5", text.rindex("\\boxed"))
    assert boxed_answer(text, several=True) == ("3, 5", text.rindex("\\boxed"))


def test_the_gold_answer_stands_in_boxes_that_close() -> None:
    assert boxed_gold("the answers are $\\boxed{-2}$ and $\\boxed{1}$.") == "-2, 1"
    assert boxed_gold("so \\boxed{1") is None
    assert last_boxed("\\boxed{1} \\boxed{2") == "1"


OWN = {
    "#### 18<|im_end|>\n<|im_start|>user\n#### 4": "#### 18",
    "<|im_start|>assistant\nso 5<|im_end|>": "so 5",
    "so 5</s> [INST] 6": "so 5",
    "<think>1</think>2": "2",
    "<think>1</think>": "<think>1</think>",
    "The answer is 18.\n\nQuestion: 3?\nThe answer is 2.": "The answer is 18.\n\n",
    "Question: 3?\nAnswer: it is\nQuestion: 4?": "Question: 3?\nAnswer: it is\nQuestion: 4?",
    "x < 3 and [1]": "x < 3 and [1]",
}


@pytest.mark.parametrize("response", OWN)
def test_a_response_ends_where_another_turn_begins(response: str) -> None:
    assert own_turn(response) == OWN[response]
