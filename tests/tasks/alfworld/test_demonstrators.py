"""Demonstrations: what they say happened does happen, and carelessness costs turns."""

import re
from collections import Counter, defaultdict
from itertools import pairwise
from statistics import mean
from types import SimpleNamespace

import pytest

from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.demonstrators import (
    CARELESSNESS,
    _Demonstrator,
    as_listed,
    demonstrations,
    may_hold,
)
from stepcredit.verdict import Verdict

MAX_TURNS, SAMPLES = 16, 7
SAYS = re.compile(r"Thought: [^\n]+\nAction: ([^\n]+)")


def replies(episode):
    return [m["content"] for m in episode.completion if m["role"] == "assistant"]


def observations(episode):
    return [m["content"] for m in episode.completion if m["role"] == "user"]


def commands(episode):
    return [SAYS.fullmatch(reply)[1] for reply in replies(episode)]


@pytest.fixture(scope="module")
def problems(task):
    return task.problems("train")


@pytest.fixture(scope="module")
def played(task, problems):
    """[(problem, its episodes)]"""
    return [(p, demonstrations(task, p, SAMPLES, 0, MAX_TURNS)) for p in problems]


@pytest.fixture(scope="module")
def episodes(played):
    return [e for _, of in played for e in of]


def test_replayed_they_are_true(task, played):
    household = task.environment()
    for problem, of in played:
        for e in of:
            assert e.prompt[-1] == {"role": "user", "content": household.reset(problem).text}
            assert list(e.prompt[:-1]) == list(problem.prompt)
            *before, last = [household.step(reply) for reply in replies(e)]
            assert [o.text for o in before] == observations(e)
            assert not any(o.done or o.reward for o in before)
            assert (e.reward == 1.0) == last.done == (last.reward == 1.0)
    household.close()


def test_won_or_truncated(episodes):
    assert {e.truncated for e in episodes} == {True, False}
    for e in episodes:
        assert (e.verdict, e.reward) == ((None, None) if e.truncated else (Verdict.RIGHT, 1.0))
        assert e.metadata["turns"] == len(replies(e)) <= MAX_TURNS
        assert not e.truncated or e.metadata["turns"] == MAX_TURNS


def test_conversations_alternate_and_end_with_the_policy(episodes):
    for e in episodes:
        assert e.is_chat
        roles = [m["role"] for m in [*e.prompt, *e.completion]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert len(commands(e)) == len(replies(e))  # every one has a thought and an action


def test_episodes_say_which_game_and_sample_they_are(played):
    for problem, of in played:
        assert [e.sample for e in of] == list(range(SAMPLES))
        for e in of:
            assert e.prompt_id == problem.prompt_id
            assert {k: e.metadata[k] for k in problem.metadata} == problem.metadata


def test_carelessness_costs_turns(played):
    """Measured against the mean of each game."""
    extra = defaultdict(list)
    for _, of in played:
        usual = mean(e.metadata["turns"] for e in of)
        for e in of:
            extra[e.metadata["carelessness"]].append(e.metadata["turns"] - usual)
    assert set(extra) == set(CARELESSNESS)
    assert min(map(len, extra.values())) > 8
    careful, careless = mean(extra[min(CARELESSNESS)]), mean(extra[max(CARELESSNESS)])
    assert careless > careful + 1


def test_what_nothing_comes_of(episodes):
    """The careless ask for what cannot be done there; nothing comes of anything else."""
    why = Counter()
    for e in episodes:
        there = set(re.findall(r"an? ([a-z]+ \d+)", e.prompt[-1]["content"]))
        place, seen = None, ""
        for command, answer in zip(commands(e), observations(e), strict=False):
            verb, _, rest = command.partition(" ")
            if answer != "Observation: Nothing happens.":
                place = rest.removeprefix("to ") if verb == "go" else place
                seen = answer if verb in ("go", "open") else seen
            elif verb == "go":
                goal = rest.removeprefix("to ")
                assert goal == place or goal not in there
                why["already there" if goal == place else "no such place"] += 1
            elif verb == "take":
                thing, _, at = rest.partition(" from ")
                assert at == place
                assert f"a {thing}" not in seen
                why["not there"] += 1
            else:
                assert verb in ("move", "clean", "heat", "cool")
                assert not rest.endswith(f" {place}")
                why["too far away"] += 1
    assert set(why) == {"already there", "no such place", "not there", "too far away"}, why


def test_what_they_think_is_here_is_here(episodes):
    """Unless nothing comes of it."""
    right = wrong = 0
    for e in episodes:
        seen = ""
        for reply, answer in zip(replies(e), observations(e), strict=False):
            thought, command = reply.removeprefix("Thought: the ").split("\nAction: ")
            if " is at " in thought and command.startswith("take "):
                named, _, place = thought.partition(" is at ")
                believed = named.partition(" for the ")[0]
                assert command == f"take {believed} from {place}"
                here = f" a {believed}" in seen or seen.startswith("Observation: You move the " + believed)
                assert here == ("Nothing happens" not in answer), (seen, reply, answer)
                right, wrong = right + here, wrong + (not here)
            if command.startswith(("go ", "open ", "move ")) and "Nothing happens" not in answer:
                seen = answer
    assert right > wrong > 0


def test_thoughts_say_what_a_thing_is_for(episodes):
    """All but those about the lamp: what the task's last word says."""
    lamps = 0
    for e in episodes:
        purpose = e.prompt[-1]["content"].removesuffix(".").rpartition(" ")[2]
        for reply in replies(e):
            thought = reply.partition("\n")[0]
            named = re.match(r"Thought: the [a-z]+(?: \d+)? for the ([a-z]+) (?:is|may|will) ", thought)
            lamps += not named
            assert named[1] == purpose if named else "lamp" in thought
    assert lamps > 0


def test_rooms_list_their_places_in_this_order(problems, task):
    household = task.environment()
    for problem in problems:
        (room,) = re.findall(r"you see (.*?)\.\n", household.reset(problem).text)
        listed = re.findall(r"an? ([a-z]+ \d+)", room)
        assert len(listed) > 3
        assert listed == sorted(listed, key=as_listed)
    household.close()


def test_the_careful_search_in_the_order_of_the_list(task, problems):
    """One round through the list, never twice to a place, until the first thing is taken."""
    searched = 0
    for problem in problems:
        for e in demonstrations(task, problem, 3, 1, MAX_TURNS, careless=0.0):
            said = commands(e)
            taken = next((i for i, c in enumerate(said) if c.startswith("take ")), len(said))
            gone = [as_listed(c.removeprefix("go to ")) for c in said[:taken] if c.startswith("go to ")]
            first_again = min(range(len(gone)), key=gone.__getitem__)
            assert gone[first_again:] + gone[:first_again] == sorted(set(gone)), gone
            searched += len(gone) > 2
    assert searched > 3


def test_the_distracted_lose_the_thread_for_several_turns(task, problems):
    """Turns that change nothing come in runs, which those who are neither careless nor distracted do not have."""
    runs = {}
    for distracted in (0.0, 0.5):
        found = []
        for problem in problems:
            for e in demonstrations(task, problem, 3, 1, MAX_TURNS, careless=0.0, distracted=distracted):
                assert e.metadata["distraction"] == distracted
                idle = "".join("i" if c.startswith(("look", "inventory", "examine")) else "." for c in commands(e))
                found += [len(run) for run in re.findall(r"i+", idle)]
        runs[distracted] = found
    assert runs[0.0] == []
    assert len(runs[0.5]) > 20
    assert mean(runs[0.5]) > 3  # 1 / (1 − 0.85), less what the turn limit and the end of a search cut


@pytest.mark.parametrize(
    ("at", "goes"), [("desk 2", {"desk 1"}), ("desk 1", {"shelf 1"}), ("shelf 1", {"bed 1"}), ("", {"bed 1", "desk 2"})]
)
def test_where_they_go_next(at, goes):
    """The next in the list, the first one behind the last; at the start the first of any kind."""
    places = ["bed 1", "desk 1", "desk 2", *(["shelf 1"] if at else [])]
    went = {
        _Demonstrator.next_of(SimpleNamespace(play=SimpleNamespace(at=at), one_of=lambda kinds, i=i: kinds[i]), places)
        for i in range(2)
    }
    assert went == goes


@pytest.mark.parametrize(
    ("seen", "used", "goes"),
    [
        (set(), set(), "fridge 1"),
        ({"fridge 1"}, set(), "microwave 1"),
        ({"fridge 1", "microwave 1"}, set(), "shelf 1"),  # cannot hold it, and does
        ({"fridge 1", "microwave 1"}, {"egg 1"}, "bed 1"),  # there is none: anywhere
    ],
)
def test_where_the_careful_look(seen, used, goes):
    places = ("shelf 1", "microwave 1", "bed 1", "fridge 1")
    play = SimpleNamespace(layout=SimpleNamespace(receptacles=places), where={"egg 1": "shelf 1"})
    careful = SimpleNamespace(
        play=play, goal=SimpleNamespace(target="egg"), slips=lambda _share=1.0: False, next_of=lambda among: min(among)
    )
    assert _Demonstrator.next_place(careful, "", used, seen) == goes


@pytest.mark.parametrize(("at", "tried"), [("fridge 1", []), ("shelf 1", ["cool egg 1 with fridge 1"])])
def test_they_hurry_only_where_it_is_in_vain(at, tried):
    said = []
    play = SimpleNamespace(at=at, do=lambda _thought, command: said.append(command))
    always = SimpleNamespace(play=play, slips=lambda _share: True)
    _Demonstrator.hurry(always, "", "cool egg 1 with fridge 1", "fridge 1")
    assert said == tried


def test_what_they_do(episodes):
    """Every verb occurs, the last command of a won game is one that can win, and nothing is opened twice."""
    verbs = Counter(c.split()[0] for e in episodes for c in commands(e))
    assert set(verbs) == {"go", "open", "take", "move", "clean", "heat", "cool", "use", "look", "inventory", "examine"}
    for e in episodes:
        opened = [c for c in commands(e) if c.startswith("open ")]
        assert len(set(opened)) == len(opened)
        if e.verdict is Verdict.RIGHT:
            assert commands(e)[-1].split()[0] == ("use" if "light" in e.metadata["type"] else "move")
        done = [c for c, o in zip(commands(e), observations(e), strict=False) if "Nothing happens" not in o]
        for before, after in pairwise(done):
            assert not (before.startswith("take ") and after.startswith("take "))  # there is one hand


def test_equal_seeds_equal_episodes(task, problems):
    def all_of(*arguments):
        return [(e.prompt, e.completion, e.metadata, e.sample) for e in demonstrations(task, problems[0], *arguments)]

    three = all_of(3, 5, 8)
    assert all_of(3, 5, 8) == three
    assert all_of(1, 5, 8) == three[:1]
    assert all_of(3, 6, 8) != three
    assert len({str(completion) for _, completion, _, _ in three}) > 1
    shorter = all_of(3, 5, 3)  # the limit cuts, and changes nothing before
    for (_, long, _, _), (_, short, _, _) in zip(three, shorter):
        assert long[: len(short)] == short
        assert len(short) == 5


def test_in_commands_alone(task, problems):
    act = ALFWorld(task.data, "act")
    (problem,) = (p for p in act.problems("train") if p.prompt_id == problems[-1].prompt_id)
    (episode,) = demonstrations(act, problem, 1, 0, 6)
    (spoken,) = demonstrations(task, problems[-1], 1, 0, 6)
    assert replies(episode) == commands(spoken)
    assert observations(episode) == [o.removeprefix("Observation: ") for o in observations(spoken)]
    assert len(episode.prompt) == 1
    household = act.environment()
    assert household.reset(problem).text == episode.prompt[0]["content"] == spoken.prompt[-1]["content"]
    assert [household.step(r).text for r in replies(episode)][: len(observations(episode))] == observations(episode)
    household.close()


@pytest.mark.parametrize(
    ("place", "thing", "fits"),
    [("fridge", "egg", True), ("microwave", "mug", True), ("drawer", "egg", False), ("moon", "egg", False)],
)
def test_what_holds_what(place, thing, fits):
    assert may_hold(place, thing) is fits
