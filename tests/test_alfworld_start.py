"""What the small ALFWorld model learns from before anything else: texts, with names exchanged."""

import random
import re
from dataclasses import replace

import pytest

from scripts import RUNS, loaded
from stepcredit.episodes.episode import Episode, StopReason

SAID = [
    ("the mug for the bed is to be found", "go to desk 1", "On the desk 1, you see a mug 2, and a pen 1."),
    ("the mug 2 for the bed is at desk 1", "take mug 2 from desk 1", "You pick up the mug 2 from the desk 1."),
    ("the mug 2 for the bed is to go in a bed", "go to shelf 1", "On the shelf 1, you see a pen 2."),
    ("the mug for the bed is not at shelf 1", "go to desk 2", "On the desk 2, you see nothing."),
    ("the mug for the bed is not at desk 2", "go to desk 1", "On the desk 1, you see a pen 1."),
    ("the mug 1 for the bed is at desk 1", "take mug 1 from desk 1", "Nothing happens."),
    ("the mug for the bed is not at desk 1", "open desk 1", ""),
]
TURNS = [(f"Thought: {thought}\nAction: {action}", answer) for thought, action, answer in SAID]


@pytest.fixture(scope="module")
def start():
    with loaded("alfworld/start.py") as module:
        yield module


@pytest.fixture
def episode():
    said = [m for reply, answer in TURNS for m in ({"role": "assistant", "content": reply}, seen(answer))]
    room = "Looking around you, you see a desk 2, a desk 1, and a lamp 1.\n\nYour task is to: put some mug on bed."
    return Episode(
        prompt=[{"role": "user", "content": room}],
        completion=said[:-1],
        reward=1.0,
        prompt_id="game",
        sample=2,
        stop_reason=StopReason.STOP,
    )


def seen(answer):
    return {"role": "user", "content": f"Observation: {answer}"}


def test_glimpses(start, episode):
    """Of seven thoughts two: not the first, nor one about what goes somewhere, of an empty place, or that is false."""
    tokenizer = start.trained_tokenizer(
        [m["content"] for m in [*episode.prompt, *episode.completion]], pattern=start.PATTERN
    )
    task = "<|user|>Your task is to: put some mug on bed.<|end|>"
    template = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Your task is to: put some mug on bed."}], tokenize=False
    )
    assert template == task
    assert [(g.prompt, g.completion, g.sample) for g in start.glimpses(episode, tokenizer)] == [
        (
            f"{task}<|assistant|>{TURNS[i][0]}<|end|><|user|>Observation: {TURNS[i][1]}<|end|>"
            "<|assistant|>Thought: the mug",
            completion,
            200 + 2 * i + 3,
        )
        for i, completion in [
            (0, " 2 for the bed is at desk 1\nAction:"),
            (2, " for the bed is not at shelf 1\nAction:"),
        ]
    ]


def test_decisions(start, episode):
    """What is to be done with what was taken; and that the thing is not there, two turns after it was looked for."""
    tokenizer = start.trained_tokenizer(
        [m["content"] for m in [*episode.prompt, *episode.completion]], pattern=start.PATTERN
    )
    task = "<|user|>Your task is to: put some mug on bed.<|end|>"

    def turn(i):
        return f"<|assistant|>{TURNS[i][0]}<|end|><|user|>Observation: {TURNS[i][1]}<|end|>"

    assert [(d.prompt, d.completion, d.sample) for d in start.decisions(episode, tokenizer)] == [
        (task + turn(1) + "<|assistant|>Thought: the mug", " 2 for the bed is to go in a bed\nAction:", 205),
        (task + turn(4) + turn(5) + "<|assistant|>Thought: the mug", " for the bed is not at desk 1\nAction:", 213),
    ]


def test_searches(start, episode):
    """Where to look next: of three thoughts one is about a place that is left; none in a room without it."""
    pytest.importorskip("alfworld", reason="what may hold what is alfworld's")
    tokenizer = start.trained_tokenizer(
        [m["content"] for m in [*episode.prompt, *episode.completion]], pattern=start.PATTERN
    )
    room = episode.prompt[0]["content"]
    assert [(s.prompt, s.completion, s.sample) for s in start.searches(episode, tokenizer, 1, random.Random(0))] == [
        (
            f"<|user|>{room}<|end|><|assistant|>{TURNS[2][0]}<|end|><|user|>Observation: {TURNS[2][1]}<|end|>"
            "<|assistant|>Thought: the mug for the bed is not at shelf 1\nAction: go to",
            " desk 2",
            207,
        )
    ]
    without = {"role": "user", "content": room.replace(" a desk 2,", "")}
    assert start.searches(replace(episode, prompt=[without]), tokenizer, 1, random.Random(0)) == []
    several = start.searches(episode, tokenizer, 30, random.Random(0))
    assert [s.sample for s in several] == [207 * 30 + k for k in range(30)]  # somebody went to a desk: they stay
    assert {s.prompt.count(" a lamp 1") for s in several} == {0, 1}


def test_elsewhere(start, episode):
    """The same episode in rooms that have at least the places that it goes to."""
    own, *others = start.elsewhere(episode, 20, random.Random(0))
    assert own.prompt == episode.prompt
    assert [e.sample for e in (own, *others)] == list(range(40, 60))
    assert all(e.completion == episode.completion for e in others)
    rooms = {e.prompt[0]["content"] for e in others}
    assert rooms == {
        own.prompt[0]["content"],
        own.prompt[0]["content"].replace(", and a lamp 1", "").replace("2,", "2, and"),
    }


ROOM = "In it, you see a bed 1, a desk 3, a desk 2, a desk 1, a shelf 2, a shelf 1, and a toilet 1.\n\nYour task is."


@pytest.mark.parametrize(
    ("sought", "at", "visited", "goes"),
    [
        ("mug", "desk 3", {"desk 3"}, "desk 2"),
        ("mug", "desk 1", {"desk 1"}, "shelf 2"),
        ("mug", "shelf 1", {"shelf 1", "desk 3"}, "desk 2"),  # round to the first one that is left
        ("pillow", "desk 1", set(), "bed 1"),  # the only place that holds one
        ("pillow", "desk 1", {"bed 1"}, None),
    ],
)
def test_the_next_place(start, sought, at, visited, goes):
    pytest.importorskip("alfworld", reason="what may hold what is alfworld's")
    assert start.next_place(ROOM, sought, at, visited) == goes


def test_smaller_rooms(start):
    """Kinds that nobody went to have any number of places, from none to what they had; the rest stays as it is."""
    rng, whole = random.Random(0), start.LISTED.findall(ROOM)
    rooms = [start.smaller(ROOM, {"desk 2"}, rng) for _ in range(60)]
    counts = {kind: set() for kind in ("bed", "desk", "shelf", "toilet")}
    for room in rooms:
        places = start.LISTED.findall(room)
        assert [p for p in whole if p in places] == places
        for kind in counts:
            of_kind = [p for p in places if p.startswith(kind)]
            assert of_kind == [p for p in whole if p.startswith(kind)][-len(of_kind) :][: len(of_kind)]
            counts[kind].add(len(of_kind))
        assert re.sub(r"you see .*\.\n", "", room) == re.sub(r"you see .*\.\n", "", ROOM)
    assert counts == {"bed": {0, 1}, "desk": {3}, "shelf": {0, 1, 2}, "toilet": {0, 1}}
    assert ROOM in rooms


def test_texts_are_learnt_but_for_their_first_token(start, episode):
    tokenizer = start.trained_tokenizer([m["content"] for m in episode.completion], pattern=start.PATTERN)
    text = start.as_text(episode, tokenizer)
    whole = tokenizer.apply_chat_template([*episode.prompt, *episode.completion], tokenize=False)
    assert text.prompt + text.completion + "<|end|>" == whole
    assert (text.prompt, text.sample, text.reward) == ("<|user|>", 2, 1.0)


def test_names_are_exchanged_within_their_group(start, episode):
    groups = [["mug", "pen"], ["bed", "desk", "shelf"]]
    exchanged = [start.renamed(episode, groups, random.Random(seed)) for seed in range(20)]
    orders = set()
    for other in exchanged:
        new = {}
        for before, after in zip([*episode.prompt, *episode.completion], [*other.prompt, *other.completion]):
            assert before["role"] == after["role"]
            old_words, new_words = (re.findall(r"\w+|\W", m["content"]) for m in (before, after))
            assert len(old_words) == len(new_words)
            for old, word in zip(old_words, new_words):
                assert new.setdefault(old, word) == word  # the same everywhere
        for group in groups:
            assert sorted(new[name] for name in group) == group
        assert all(old == word for old, word in new.items() if old not in [*groups[0], *groups[1]])
        orders.add(tuple(new[name] for group in groups for name in group))
    assert len(orders) > 6


def test_which_names_may_be_exchanged(start, episode):
    """Things that were taken; places that were gone to, but not those that were opened."""
    said = [m["content"] for m in episode.completion]
    assert start.exchangeable(said) == {"things": ["mug"], "places": ["shelf"]}


def test_variants_are_numbered_and_begin_with_the_episode_itself(start, episode):
    three = start.varied([episode, episode], [["mug", "pen"]], 3)
    assert [e.sample for e in three] == [6, 7, 8] * 2
    assert [three[0].completion, three[3].completion] == [episode.completion] * 2
    assert any(e.completion != episode.completion for e in three)


def test_places_are_what_they_are_in_practice(start, episode, tmp_path):
    """Where a thing may be is learnt there; what is sought has another name in other variants."""
    commands = ["take pen 1 from shelf 1", "go to bed 1"]
    said = [{"role": "assistant", "content": f"Action: {command}"} for command in commands]
    other = replace(episode, completion=[said[0], seen("Nothing happens."), said[1]], prompt_id="other")
    pytest.importorskip("alfworld", reason="what may hold what is alfworld's")
    start.prepare([episode, other], [], tmp_path)
    practised = [e for e in start.load_episodes(tmp_path / "practice" / "episodes") if e.prompt_id == "game"]
    actions = [[m["content"].partition("Action: ")[2] for m in e.completion[::2]] for e in practised]
    assert len(actions) == start.LESSONS["practice"].names * start.LESSONS["practice"].rooms
    assert {(a[0], a[2], a[3]) for a in actions} == {("go to desk 1", "go to shelf 1", "go to desk 2")}
    assert {a[1] for a in actions} == {"take mug 2 from desk 1", "take pen 2 from desk 1"}


def test_who_practises_and_who_is_read(start, episode, tmp_path):
    """Whatever was played is read; what a careful demonstrator won is practised."""
    pytest.importorskip("alfworld", reason="what may hold what is alfworld's")
    lost = replace(episode, reward=None, stop_reason=StopReason.LENGTH, prompt_id="lost")
    careless = replace(episode, prompt_id="careless")
    start.prepare([episode, lost], [careless], tmp_path)
    heard = {
        lesson: {e.prompt_id for e in start.load_episodes(tmp_path / lesson / "episodes")} for lesson in start.LESSONS
    }
    everybody = {"game", "lost", "careless"}
    assert heard == {
        "reading": everybody,
        "glimpses": everybody,
        "searches": {"game", "lost"},
        "practice": {"game"},
        "rehearsal": everybody,
    }


def test_the_kept_start_plays(start):
    """Its weights load as any model's do, and it says what it looks for and where it goes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kept = RUNS / "alfworld" / "started"
    model, tokenizer = (kind.from_pretrained(kept) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (start.SIZE.hidden_size, start.SIZE.layers)
    room = "You are in the middle of a room. Looking quickly around you, you see a bed 1, a desk 1, and a shelf 1."
    asked = [{"role": "user", "content": f"{room}\n\nYour task is to: put some pen on shelf."}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**ids, max_new_tokens=32, do_sample=False)[0, ids["input_ids"].shape[1] :]
    reply = tokenizer.decode(said).partition("<|end|>")[0]
    assert re.fullmatch(r"Thought: the pen for the [a-z]+ is to be found\nAction: go to [a-z]+ \d", reply), reply
