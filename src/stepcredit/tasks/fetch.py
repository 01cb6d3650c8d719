"""The embedded interactive task: fetch a coin from one of some boxes.

    find the coin , open , take , bring                 user: the instructions; the same for all problems
    ok                                                  assistant
    boxes d b f a c , coin near f                       user: the first observation: the coin is in f, or in the next
                                                        box of the list, a
    open f                                              assistant: the first action
    empty                                               user
    open a                                              assistant
    a coin                                              user
    take                                                assistant: works only right after opening the box with the coin
    you hold it                                         user
    bring                                               assistant: the game ends, with a reward of 1 for the coin in
                                                        hand and 0 without it

The answer to anything else, also to opening a missing box, is `nothing happens`, and the coin is out of sight again.

The demonstrators take the right action at every second turn on average. Otherwise they open a random box, take, or
bring, with equal probability: they waste turns on wrong boxes, and half of them end without the coin. At the last turn
they always bring. Bringing without the coin loses the game; a wasted turn only makes it longer.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise, permutations
from typing import Any

import numpy as np

from stepcredit.episodes.episode import Episode, Message, StopReason
from stepcredit.errors import InputError
from stepcredit.tasks.digits import SPLITS
from stepcredit.tasks.environment import InteractiveTaskDefaults, Observation
from stepcredit.tasks.task import Problem
from stepcredit.verdict import REWARD_THRESHOLD, Verdict

BOXES = "abcdef"
SIZES = (4, 5, 6)
CARELESS = 0.5

_PROMPT: tuple[Message, ...] = (
    {"role": "user", "content": "find the coin , open , take , bring"},
    {"role": "assistant", "content": "ok"},
)
_EMPTY, _COIN, _TAKEN, _NOTHING, _OVER = "empty", "a coin", "you hold it", "nothing happens", "over"
_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class FetchEnvironment:
    """One game of the module docstring. Deterministic."""

    def __init__(self) -> None:
        self._boxes: list[str] = []
        self._coin = ""
        self._in_sight = self._in_hand = self._over = False

    def reset(self, problem: Problem) -> Observation:
        """Returns the list of boxes and the hint about the coin."""
        self._boxes = str(problem.metadata["boxes"]).split()
        self._coin = problem.answer
        self._in_sight = self._in_hand = self._over = False
        return Observation(first_words(problem))

    def step(self, reply: str) -> Observation:
        """Executes a command. After the end of the game, commands have no effect."""
        words = reply.split()
        if self._over or words == ["bring"]:
            reward = float(self._in_hand and not self._over)
            self._over = True
            return Observation(_OVER, reward, done=True)
        if words == ["take"] and self._in_sight:
            self._in_sight, self._in_hand = False, True
            return Observation(_TAKEN)
        is_open = len(words) == 2 and words[0] == "open" and words[1] in self._boxes
        self._in_sight = is_open and words[1] == self._coin and not self._in_hand
        if not is_open:
            return Observation(_NOTHING)
        return Observation(_COIN if self._in_sight else _EMPTY)

    def close(self) -> None:
        """Nothing to release."""


class Fetch(InteractiveTaskDefaults):
    """The game of the module docstring. Problems are sampled; the first observation determines the split."""

    name = "fetch"
    version = "1"
    max_new_tokens = 6
    max_turns = 8

    def tokenizer(self) -> Any:
        """A tokenizer with one token per word; `<eos>` ends every turn of its chat template."""
        from stepcredit.tasks.word_tokenizer import word_tokenizer  # local: workers do not load transformers

        first = ["<user>", "<assistant>", "find", "ok", "boxes", "open", "take", "bring", "empty", "a", "you",
                 "nothing", "over"]  # fmt: skip
        later = ["the", "coin", ",", "open", "take", "bring", "near", "hold", "it", "happens", *BOXES]
        tokenizer = word_tokenizer(first + [f" {word}" for word in later])
        tokenizer.chat_template = _TEMPLATE
        return tokenizer

    def problems(self, split: str, count: int | None = None, seed: int = 0) -> Sequence[Problem]:
        """Returns `count` different problems of a split (default 1,000), sampled with the seed.

        Raises:
            InputError: unknown split, or more problems than the split has.
        """
        if split not in SPLITS:
            raise InputError(f"no split {split!r}; there is {', '.join(SPLITS)}", "split")
        games = _games(split)
        count = 1000 if count is None else count
        if count > len(games):
            raise InputError(f"{count} different problems; the {split} split has {len(games)}", "limit")
        rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
        return [games[k] for k in rng.permutation(len(games))[:count]]

    def environment(self) -> FetchEnvironment:
        """A new environment."""
        return FetchEnvironment()

    def demonstrations(self, count: int, seed: int) -> list[Episode]:
        """Episodes of the mixed demonstrators, one per problem of the train split."""
        rng = np.random.default_rng([seed, 1])
        return [_played(problem, self.max_turns, rng) for problem in self.problems("train", count, seed)]


def first_words(problem: Problem) -> str:
    """The first observation: "boxes d b f a c , coin near f"."""
    return f"boxes {problem.metadata['boxes']} , coin near {problem.metadata['near']}"


@cache
def _games(split: str) -> list[Problem]:
    """All problems of a split. Problems with the same first observation are in the same split."""
    low, high = SPLITS[split]
    games = []
    for size in SIZES:
        for boxes in permutations(BOXES, size):
            for near, following in pairwise(boxes):
                metadata = {"boxes": " ".join(boxes), "near": near, "level": size}
                same = [
                    Problem(
                        f"fetch {metadata['boxes']} near {near} coin {coin}",
                        list(_PROMPT),
                        coin,
                        metadata=dict(metadata),
                    )
                    for coin in (near, following)
                ]
                if low <= zlib.crc32(first_words(same[0]).encode()) % 100 < high:
                    games += same
    return games


def _played(problem: Problem, max_turns: int, rng: np.random.Generator) -> Episode:
    """An episode of a demonstrator."""
    environment = FetchEnvironment()
    seen = [environment.reset(problem)]
    said: list[str] = []
    while not seen[-1].done:
        is_last = len(said) == max_turns - 1
        said.append("bring" if is_last else _turn(problem, said, [o.text for o in seen], rng))
        seen.append(environment.step(said[-1]))
    reward = sum(o.reward for o in seen)
    messages: list[Message] = []
    for reply, answer in zip(said, seen[1:], strict=True):
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": answer.text}]
    return Episode(
        prompt=[*_PROMPT, {"role": "user", "content": seen[0].text}],
        completion=messages[:-1],
        reward=reward,
        verdict=Verdict.RIGHT if reward >= REWARD_THRESHOLD else Verdict.WRONG,
        prompt_id=problem.prompt_id,
        stop_reason=StopReason.STOP,
        metadata={"answer": problem.answer, "extracted": None, **problem.metadata},
    )


def _turn(problem: Problem, said: list[str], seen: list[str], rng: np.random.Generator) -> str:
    """The next reply of a demonstrator, careless or not."""
    boxes = str(problem.metadata["boxes"]).split()
    if rng.random() < CARELESS:
        return (f"open {boxes[rng.integers(len(boxes))]}", "take", "bring")[rng.integers(3)]
    if _TAKEN in seen:
        return "bring"
    if seen[-1] == _COIN:
        return "take"
    near = str(problem.metadata["near"])
    answers = dict(zip(said, seen[1:], strict=True))
    return f"open {near}" if answers.get(f"open {near}") != _EMPTY else f"open {boxes[boxes.index(near) + 1]}"
