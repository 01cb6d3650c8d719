"""Counts in words."""

import pytest

from stepcredit.commands.console import counts_of_training

PLAIN = {"episodes": 1200, "action_tokens": 34567, "retokenised": 0}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "1,200 episodes, 34,567 tokens of responses; none left out"),
        ({"items": 600}, "1,200 episodes, 600 items, 34,567 tokens of responses; none left out"),
        (
            {"retokenised": 7, "left_out/too_long": 2, "left_out/bad": 1},
            "1,200 episodes, 34,567 tokens of responses, ids of 7 encoded from text; left out: 2 too_long, 1 bad",
        ),
    ],
)
def test_what_a_training_learns_from(more, said):
    assert counts_of_training(PLAIN | more) == said
