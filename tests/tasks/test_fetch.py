"""The fetch task: a hand-worked game, demonstrators as described, splits for good, and turns that render."""

import pickle
from collections import Counter

import numpy as np
import pytest

from stepcredit.episodes.encoding import decode, tokenise
from stepcredit.episodes.episode import StopReason
from stepcredit.errors import InputError
from stepcredit.tasks.environment import Environment, InteractiveTask, Observation
from stepcredit.tasks.fetch import Fetch, first_words
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict

TASK = Fetch()
GAME = Problem(
    "fetch d b f a c near f coin a",
    [{"role": "user", "content": "find the coin , open , take , bring"}, {"role": "assistant", "content": "ok"}],
    "a",
    metadata={"boxes": "d b f a c", "near": "f", "level": 5},
)


def play(*replies):
    environment = TASK.environment()
    assert environment.reset(GAME) == Observation("boxes d b f a c , coin near f")
    return [environment.step(reply) for reply in replies]


def test_it_is_an_interactive_task_that_can_be_pickled():
    assert isinstance(TASK, InteractiveTask)
    assert isinstance(TASK.environment(), Environment)
    assert isinstance(pickle.loads(pickle.dumps(TASK.environment))(), Environment)  # noqa: S301  our own
    assert TASK.step_delimiters == ()
    assert TASK.source_versions == {}


@pytest.mark.parametrize(
    ("replies", "texts", "reward"),
    [
        (["open f", "open a", "take", "bring"], ["empty", "a coin", "you hold it", "over"], 1.0),
        (["open a", "take", "open a", "bring"], ["a coin", "you hold it", "empty", "over"], 1.0),
        (["open a", "take", "take", "bring"], ["a coin", "you hold it", "nothing happens", "over"], 1.0),
        (["open a", " take \n", "bring"], ["a coin", "you hold it", "over"], 1.0),
        (["bring"], ["over"], 0.0),
        (["take", "bring"], ["nothing happens", "over"], 0.0),
        (["open a", "bring"], ["a coin", "over"], 0.0),
        (["open a", "open b", "take", "bring"], ["a coin", "empty", "nothing happens", "over"], 0.0),
        (["open a", "wait", "take", "bring"], ["a coin", "nothing happens", "nothing happens", "over"], 0.0),
        (["open a", "open a", "take", "bring"], ["a coin", "a coin", "you hold it", "over"], 1.0),
        (["open a", "open e", "take"], ["a coin", "nothing happens", "nothing happens"], 0.0),
        (["open", "open a b", "", "Open a", "open a", "bring it"], ["nothing happens"] * 4 + ["a coin"]
         + ["nothing happens"], 0.0),
        (["open a", "take", "bring", "bring"], ["a coin", "you hold it", "over", "over"], 1.0),
        (["bring", "open a", "take", "bring"], ["over"] * 4, 0.0),
    ],
)  # fmt: skip
def test_games_by_hand(replies, texts, reward):
    answers = play(*replies)
    assert [o.text for o in answers] == texts
    assert sum(o.reward for o in answers) == reward
    assert [o.done for o in answers] == [text == "over" for text in texts]
    assert all(o.reward == 0 for o in answers if not o.done)


def test_a_reset_begins_anew():
    environment = TASK.environment()
    for reply in ("open a", "take", "bring"):
        environment.reset(GAME)
        environment.step(reply)
    environment.reset(GAME)
    assert environment.step("take") == Observation("nothing happens")
    environment.reset(GAME)
    assert environment.step("bring") == Observation("over", 0.0, True)


def test_demonstrations_are_what_the_environment_plays():
    environment = TASK.environment()
    problems = {p.prompt_id: p for p in TASK.problems("train", 1500, 4)}
    demonstrations = TASK.demonstrations(1500, 4)
    assert {e.prompt_id for e in demonstrations} == set(problems)
    for e in demonstrations:
        game = problems[e.prompt_id]
        heard = [environment.reset(game)]
        assert list(e.prompt) == [*game.prompt, {"role": "user", "content": heard[0].text}]
        for reply, answer in zip(e.completion[::2], [*e.completion[1::2], None], strict=True):
            assert reply["role"] == "assistant"
            heard.append(environment.step(reply["content"]))
            assert heard[-1].done == (answer is None)
            assert answer is None or answer == {"role": "user", "content": heard[-1].text}
        assert e.reward == sum(o.reward for o in heard)
        assert e.verdict is (Verdict.RIGHT if e.reward else Verdict.WRONG)
        assert e.stop_reason is StopReason.STOP
        assert len(e.completion[::2]) <= TASK.max_turns
        assert e.metadata["answer"] == game.answer


def test_demonstrators_are_as_described():
    demonstrations = TASK.demonstrations(3000, 0)
    right = np.array([e.reward for e in demonstrations])
    assert 0.45 < right.mean() < 0.55
    turns = np.array([len(e.completion[::2]) for e in demonstrations])
    assert turns.min() == 1
    assert turns.max() == TASK.max_turns
    assert min(turns[right == 1]) == 3
    # the first turn opens the box named with care, or at random among n boxes
    first = [(e.completion[0]["content"], e.metadata["near"], e.metadata["level"]) for e in demonstrations]
    expected = np.mean([0.5 + 0.5 / 3 / level for _, _, level in first])
    assert abs(np.mean([said == f"open {near}" for said, near, _ in first]) - expected) < 0.03
    for command in ("take", "bring"):
        assert abs(np.mean([said == command for said, _, _ in first]) - 0.5 / 3) < 0.025
    again = TASK.demonstrations(3000, 0)
    assert [e.completion for e in again] == [e.completion for e in demonstrations]
    assert [e.completion for e in TASK.demonstrations(3000, 1)] != [e.completion for e in demonstrations]


def test_problems_are_distinct_seeded_and_split_for_good():
    everything = {}
    for split in ("train", "validation", "test"):
        drawn = [TASK.problems(split, 1000, seed) for seed in (0, 1)]
        assert all(len({p.prompt_id for p in problems}) == 1000 for problems in drawn)
        assert [p.prompt_id for p in drawn[0]] != [p.prompt_id for p in drawn[1]]
        assert TASK.problems(split, 1000, 0) == drawn[0]
        assert TASK.problems(split, 10, 0) == drawn[0][:10]
        assert len(TASK.problems(split)) == 1000
        everything[split] = {first_words(p) for problems in drawn for p in problems}
    assert not everything["train"] & everything["test"]
    assert not everything["train"] & everything["validation"]
    assert not everything["test"] & everything["validation"]


def test_the_coin_is_in_the_box_named_or_the_next():
    problems = TASK.problems("train", 4000, 0)
    counts = Counter()
    for p in problems:
        boxes, near = p.metadata["boxes"].split(), p.metadata["near"]
        assert len(set(boxes)) == len(boxes) == p.metadata["level"]
        counts[boxes.index(p.answer) - boxes.index(near)] += 1
    assert set(counts) == {0, 1}
    assert abs(counts[0] / 4000 - 0.5) < 0.03


def test_bad_input():
    with pytest.raises(InputError, match="no split 'dev'"):
        TASK.problems("dev")
    with pytest.raises(InputError, match="20000 different problems"):
        TASK.problems("test", 20_000)
    with pytest.raises(InputError, match="graded by its environment"):
        TASK.grade(GAME, "bring")
    assert TASK.wrong_steps(GAME, "bring") is None


def test_conversations_render_and_round_trip():
    tokenizer = TASK.tokenizer()
    assert len(tokenizer) <= 60
    for e in TASK.demonstrations(200, 1):
        tokens = tokenise(e, tokenizer)
        rendered = tokenizer.apply_chat_template([*e.prompt, *e.completion], tokenize=False)
        assert decode(tokens.ids.tolist(), tokenizer) == rendered
        assert tokenizer.unk_token_id not in tokens.ids
        actions = tokens.ids[tokens.action_mask].tolist()
        said = "".join(f"{m['content']}<eos>" for m in e.completion if m["role"] == "assistant")
        assert decode(actions, tokenizer) == said
        longest = max(len(turn.split()) for turn in said.split("<eos>")) + 1
        assert longest <= TASK.max_new_tokens


def test_a_conversation_in_ids_by_hand():
    tokenizer = TASK.tokenizer()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a coin"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<user>a coin<eos><assistant>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<user>", "a", " coin", "<eos>", "<assistant>"]
    for said in ("nothing happens", "you hold it", "empty", "over", "open e", "take", "bring"):
        assert tokenizer.unk_token_id not in tokenizer(said)["input_ids"]
