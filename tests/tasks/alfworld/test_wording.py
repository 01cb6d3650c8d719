"""How games are put and replies are read, by table."""

import pytest

from stepcredit.errors import InputError
from stepcredit.tasks.alfworld.wording import wording

REACT, THINK, ACT = wording("react"), wording("think"), wording("act")


def test_the_papers_wording_is_the_default():
    assert wording(None) is REACT
    assert [m["role"] for m in REACT.instructions] == ["user", "assistant"]
    assert REACT.instructions[1]["content"] == "OK"
    assert "Thought: " in REACT.instructions[0]["content"]
    assert "Action: " in REACT.instructions[0]["content"]
    assert THINK.instructions == ACT.instructions == ()
    assert THINK.reply("look", "hm") == REACT.reply("look", "hm")


@pytest.mark.parametrize(
    ("reply", "command"),
    [
        ("Thought: x\nAction: go to shelf 1", "go to shelf 1"),
        ("Action: go to shelf 1", "go to shelf 1"),
        ("Action:go to shelf 1", "go to shelf 1"),
        ("Action:\n  go to shelf 1  \n", "go to shelf 1"),
        ("Thought: x\nAction: look\nThought: y\nAction: inventory", "inventory"),
        ("Action: look\nObservation: You see a mug 1.\nI won", "look"),
        ("Action: look\r\nand more", "look"),
        ("go to shelf 1", "go to shelf 1"),
        ("go to shelf 1\nopen shelf 1", "go to shelf 1"),
        ("  look  ", "look"),
        ("Thought: I do not know", "Thought: I do not know"),
        ("Action:", ""),
        ("Thought: x\nAction: look\nAction:", ""),
        ("", ""),
        ("\n\n", ""),
    ],
)
def test_replies_by_table(reply, command):
    assert REACT.command(reply) == command
    assert THINK.command(reply) == command
    assert ACT.command(reply) == command


def test_words_of_both_sides():
    assert REACT.reply("look", "where am I") == "Thought: where am I\nAction: look"
    assert ACT.reply("look", "where am I") == "look"
    assert REACT.observation("You see.") == "Observation: You see."
    assert ACT.observation("You see.") == "You see."
    for style in (REACT, THINK, ACT):
        assert style.opening("-= Welcome to TextWorld, ALFRED! =-\n\nYou are here.") == "You are here."
        assert style.opening("You are here.") == "You are here."
        assert style.command(style.reply("take mug 1 from shelf 2", "get it")) == "take mug 1 from shelf 2"


def test_no_such_style():
    with pytest.raises(InputError, match=r"no style 'chatty'; alfworld has react, think, act"):
        wording("chatty")
