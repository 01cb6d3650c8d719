"""Demonstrators of mixed quality, with access to the engine's hidden state.

Each episode has a carelessness, sampled first. All demonstrators search the receptacles that can hold the target, in
the order of the room's list. Careless ones also search receptacles that cannot hold it or that they have searched, take
wrong objects, put the target into wrong receptacles, forget to clean, heat or cool it, try impossible commands (nothing
happens), and waste turns looking around. Distracted ones err rarely, but lose several turns each time. An episode fails
when the turns run out.

A thought begins with the name of the object, then its number if it is visible, its destination and its place: "the
mug 2 for the desk is at shelf 3", "the mug for the desk is not at shelf 3". This helps a small model: repeating the
name lets it compare it with a list, the place determines the next place, and the destination is not forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.game import Game
from stepcredit.tasks.alfworld.installation import alfworld_module
from stepcredit.tasks.alfworld.plan import STATIONS, Goal, Layout, kind_of, read_goal
from stepcredit.tasks.alfworld.wording import Wording, wording
from stepcredit.tasks.task import Problem
from stepcredit.verdict import Verdict

CARELESSNESS = (0.1, 0.5, 0.9)
LOST_THREAD = 0.85
"""Probability that a distracted demonstrator wastes one more turn: six or seven turns on average."""


class _Over(Exception):
    """The game is won, or the turn limit is reached."""


@dataclass
class _Play:
    """The state of a running game: the messages so far and the positions of the objects."""

    game: Game
    wording: Wording
    layout: Layout
    max_turns: int
    messages: list[dict[str, str]] = field(default_factory=list)
    where: dict[str, str] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    at: str = ""
    turns: int = 0
    won: bool = False

    def do(self, thought: str, command: str) -> None:
        """Plays one turn; raises `_Over` at the end of the game."""
        answer = self.game.step(command)
        self.turns += 1
        self.messages.append({"role": "assistant", "content": self.wording.reply(command, thought)})
        self.won = answer.won
        if self.won or self.turns == self.max_turns:
            raise _Over
        self.messages.append({"role": "user", "content": self.wording.observation(answer.text)})

    def go(self, thought: str, place: str) -> None:
        """Goes to a receptacle."""
        self.do(thought, f"go to {place}")
        self.at = place

    def arrive(self, thought: str, place: str, sought: str = "") -> None:
        """Goes to a receptacle and opens it if it is closed."""
        self.go(thought, place)
        if place in self.layout.openable and place not in self.opened:
            self.do(f"{sought} may be inside" if sought else thought, f"open {place}")
            self.opened.add(place)

    def take(self, thought: str, name: str) -> None:
        """Takes an object from the current receptacle."""
        self.do(thought, f"take {name} from {self.where.pop(name)}")

    def put(self, thought: str, name: str, place: str) -> None:
        """Puts an object into a receptacle."""
        self.where[name] = place
        self.do(thought, f"move {name} to {place}")

    def here(self, place: str) -> list[str]:
        """The objects in a receptacle."""
        return sorted(name for name, at in self.where.items() if at == place)


@dataclass
class _Demonstrator:
    play: _Play
    goal: Goal
    rng: np.random.Generator
    careless: float
    distracted: float = 0.0

    def slips(self, share: float = 1.0) -> bool:
        """Samples whether the demonstrator errs."""
        return bool(self.rng.random() < self.careless * share)

    def one_of(self, names: Sequence[str]) -> str:
        """Samples one of the names."""
        return names[int(self.rng.integers(len(names)))]

    def run(self) -> None:
        """Repeats the task until `_Over` is raised."""
        used: set[str] = set()
        while True:
            target = self.find(used)
            used.add(target)
            if self.goal.lamp:
                self.look_under_lamp()
            else:
                self.bring(target)

    def about(self, name: str) -> str:
        """The beginning of a thought: an object and its destination."""
        return f"the {name} for the {self.goal.parent or self.goal.lamp}"

    def find(self, used: set[str]) -> str:
        """Searches until a target is in hand."""
        kind, play, seen = self.goal.target, self.play, set[str]()
        thought = f"{self.about(kind)} is to be found"
        while True:
            place = self.next_place(thought, used, seen)
            play.arrive(thought, place, sought=self.about(kind))
            seen.add(place)
            targets = [n for n in play.here(place) if kind_of(n) == kind and n not in used]
            thought = f"{self.about(targets[0])} is at {place}" if targets else f"{self.about(kind)} is not at {place}"
            self.dawdle(thought, place)
            if targets:
                play.take(thought, targets[0])
                return targets[0]
            if self.slips(0.1) and not any(kind_of(n) == kind for n in play.here(place)):
                play.do(f"{self.about(f'{kind} 1')} is at {place}", f"take {kind} 1 from {place}")
            others = [n for n in play.here(place) if kind_of(n) not in ("desklamp", "floorlamp")]
            if others and self.slips(0.6):
                self.carry_about(self.one_of(others), place)

    def next_place(self, thought: str, used: set[str], seen: set[str]) -> str:
        """Next receptacle to search: one that can hold the target and is unsearched, else one that does, else any."""
        play, target = self.play, self.goal.target
        if self.slips(0.15):
            kind = kind_of(self.one_of(play.layout.receptacles))
            beyond = len(play.layout.of_kind(kind, play.layout.receptacles)) + 1
            play.do(thought, f"go to {kind} {beyond}")
        if self.slips(0.3):
            return self.one_of(play.layout.receptacles)
        likely = [p for p in play.layout.receptacles if p not in seen and may_hold(kind_of(p), target)]
        hidden = [at for name, at in sorted(play.where.items()) if kind_of(name) == target and name not in used]
        places = likely or hidden or play.layout.receptacles
        return self.one_of(places) if self.slips(0.2) else self.next_of(places)

    def next_of(self, places: Sequence[str]) -> str:
        """The next receptacle in the order of the room's list; initially the first one of a sampled kind."""
        listed = sorted(places, key=as_listed)
        if not self.play.at:
            kind = self.one_of(sorted({kind_of(p) for p in listed}))
            return next(p for p in listed if kind_of(p) == kind)
        return next((p for p in listed if as_listed(p) > as_listed(self.play.at)), listed[0])

    def carry_about(self, wrong: str, place: str) -> None:
        """Takes a wrong object and puts it back, or into the target's destination."""
        play = self.play
        play.take(f"{self.about(wrong)} will do", wrong)
        goals = play.layout.of_kind(self.goal.parent, play.layout.receptacles) if self.goal.parent else []
        if not goals or not may_hold(self.goal.parent, kind_of(wrong)) or self.rng.random() < 0.5:
            play.put(f"{self.about(wrong)} is wrong", wrong, place)
        else:
            goal, thought = self.one_of(goals), f"{self.about(wrong)} is to go in a {self.goal.parent}"
            play.arrive(thought, goal)
            play.put(thought, wrong, goal)

    def look_under_lamp(self) -> None:
        """Finds the lamp with the target in hand and switches it on."""
        play, seen = self.play, set[str]()
        thought = f"the {self.goal.lamp} is to be found"
        lamp = play.layout.of_kind(self.goal.lamp, play.layout.where)[0]
        stands = [p for p in play.layout.receptacles if kind_of(p) in LAMP_STANDS]
        while True:
            unseen = [p for p in stands if p not in seen] or play.layout.receptacles
            place = self.one_of(play.layout.receptacles) if self.slips(0.6) else self.next_of(unseen)
            seen.add(place)
            play.arrive(thought, place, sought=f"the {self.goal.lamp}")
            here = play.where[lamp] == place
            thought = f"the {lamp} is at {place}" if here else f"the {self.goal.lamp} is not at {place}"
            self.dawdle(thought, place)
            if here:
                play.do(thought, f"use {lamp}")

    def bring(self, target: str) -> None:
        """Cleans, heats or cools the target if the task requires it, and puts it into its destination."""
        play, kind, parent = self.play, self.goal.target, self.goal.parent
        goals = play.layout.of_kind(parent, play.layout.receptacles)
        forgets = self.goal.family in STATIONS and self.slips(0.6)
        if self.goal.family in STATIONS and not forgets:
            self.treat(target)
        strays = [p for p in play.layout.receptacles if may_hold(kind_of(p), kind) and kind_of(p) != parent]
        if strays and self.slips(0.5):
            self.stray(target, self.one_of(strays))
        goal = self.goal_in_use() or (self.one_of(goals) if self.slips() else goals[0])
        thought = f"{self.about(target)} is to go in a {parent}"
        self.hurry(thought, f"move {target} to {goal}", goal)
        play.arrive(thought, goal)
        play.put(thought, target, goal)
        if forgets:
            again = f"{self.about(target)} is to be {TREATED[self.goal.family]}"
            self.dawdle(again, goal)
            play.take(again, target)
            self.treat(target)
            play.arrive(thought, goal)
            play.put(thought, target, goal)

    def goal_in_use(self) -> str | None:
        """The destination of the first of two objects, which the second shares."""
        places = [at for name, at in self.play.where.items() if kind_of(name) == self.goal.target]
        return next((p for p in places if kind_of(p) == self.goal.parent), None)

    def treat(self, target: str) -> None:
        """Cleans, heats or cools the target."""
        verb, station_kind = STATIONS[self.goal.family]
        station = self.play.layout.of_kind(station_kind, self.play.layout.receptacles)[0]
        thought = f"{self.about(target)} is to be {TREATED[self.goal.family]}"
        self.hurry(thought, f"{verb} {target} with {station}", station)
        self.play.go(thought, station)
        self.play.do(thought, f"{verb} {target} with {station}")

    def hurry(self, thought: str, command: str, place: str) -> None:
        """Tries a command before going to the place where it is possible."""
        if self.play.at != place and self.slips(0.3):
            self.play.do(thought, command)

    def stray(self, target: str, place: str) -> None:
        """Puts the target into a wrong receptacle and takes it again."""
        thought = f"{self.about(target)} is to go in a {kind_of(place)}"
        self.play.arrive(thought, place)
        self.play.put(thought, target, place)
        self.play.take(f"{self.about(target)} is at {place}", target)

    def dawdle(self, thought: str, place: str) -> None:
        """Wastes turns."""
        while self.slips(0.5):
            self.look_about(thought, place)
        if self.distracted and self.rng.random() < self.distracted:  # no sample at 0
            self.look_about(thought, place)
            while self.rng.random() < LOST_THREAD:
                self.look_about(thought, place)

    def look_about(self, thought: str, place: str) -> None:
        """A turn that changes nothing."""
        self.play.do(thought, self.one_of(["look", "inventory", f"examine {place}"]))


TREATED = {family: {"clean": "cleaned", "heat": "heated", "cool": "cooled"}[v] for family, (v, _) in STATIONS.items()}
LAMP_STANDS = ("desk", "dresser", "sidetable", "shelf")


def as_listed(place: str) -> tuple[str, int]:
    """Sort key of the room's list of receptacles: by kind, with descending numbers."""
    kind, number = place.rsplit(" ", 1)
    return kind, -int(number)


def may_hold(receptacle_kind: str, object_kind: str) -> bool:
    """Whether a receptacle of one kind can hold objects of another, in the engine's spelling."""
    return object_kind in _holdable().get(receptacle_kind, frozenset())


@cache
def _holdable() -> dict[str, frozenset[str]]:
    allowed = alfworld_module("alfworld.gen.constants").VAL_RECEPTACLE_OBJECTS
    return {kind.lower(): frozenset(o.lower() for o in held) for kind, held in allowed.items()}


def demonstrations(
    task: ALFWorld,
    problem: Problem,
    samples: int,
    seed: int,
    max_turns: int,
    careless: float | None = None,
    distracted: float = 0.0,
) -> list[Episode]:
    """Returns `samples` demonstrations of a game, as episodes without token ids.

    Episodes cut by the turn limit are truncated and have no reward.

    Args:
        task: the task, with games and prompt format.
        problem: the game.
        samples: number of demonstrations.
        seed: seed of the demonstrators.
        max_turns: maximum number of turns.
        careless: their carelessness; None samples it per episode.
        distracted: probability of a distraction at each searched receptacle.
    """
    game, words = Game(task.root / problem.metadata["game"]), wording(task.prompt_style)
    try:
        return [_demonstration(game, words, problem, s, seed, max_turns, careless, distracted) for s in range(samples)]
    finally:
        game.close()


def _demonstration(
    game: Game,
    words: Wording,
    problem: Problem,
    sample: int,
    seed: int,
    max_turns: int,
    careless: float | None,
    distracted: float,
) -> Episode:
    opening, layout = words.opening(game.reset().text), game.layout()
    rng = np.random.default_rng([seed, sample, *problem.prompt_id.encode()])
    careless = float(rng.choice(CARELESSNESS)) if careless is None else careless
    play = _Play(game, words, layout, max_turns, where=dict(layout.where))
    with contextlib.suppress(_Over):
        _Demonstrator(play, read_goal(game.file), rng, careless, distracted).run()
    return Episode(
        prompt=[*words.instructions, {"role": "user", "content": opening}],
        completion=play.messages,
        reward=1.0 if play.won else None,
        verdict=Verdict.RIGHT if play.won else None,
        prompt_id=problem.prompt_id,
        sample=sample,
        stop_reason=StopReason.STOP if play.won else StopReason.LENGTH,
        metadata={"turns": play.turns, "carelessness": careless, "distraction": distracted, **problem.metadata},
    )
