"""The base model of all seeds: a small Llama trained from scratch on demonstrations, in five stages (`LESSONS`).

- reading: all demonstrations, including the game's messages. This teaches the model to copy names.
- glimpses: short excerpts that teach whether a name is among the objects in sight. The model does not learn this from
  whole demonstrations in the available time.
- searches: short excerpts that teach where to look next.
- practice: the actions of careful demonstrators in games they won.
- rehearsal: conversations and excerpts together, because practice alone makes the model forget the excerpts.

Reading and glimpses also use copies with exchanged names, so that the model relies on what a name means in the current
game. Practice exchanges only the names of things, because it also has to teach which places may hold a thing.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from vocabulary import END, USER, trained_tokenizer

from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.experiments.variants import Variant, variant_of
from stepcredit.tasks.alfworld.demonstrators import as_listed, may_hold
from stepcredit.tasks.alfworld.plan import kind_of
from stepcredit.training.methods import METHODS
from stepcredit.training.train import TrainConfig, train

SIZE = ModelSize(hidden_size=128, intermediate_size=384, layers=3, heads=4, max_length=1024)
PATTERN = (
    r"Thought: the| for the|\nAction:|Observation: [A-Z][a-z]*(?: [a-z]+\b(?! \d))*"
    r"| (?:is|may|will) [a-z ]*?(?:\bat?\b|(?=\n))"
    r"|,(?: (?:you see|and))? an?\b|[A-Z][a-z]*(?: [a-z]+\b(?! \d))*"
    r"| ?[A-Za-z]+| ?\d+| ?[^A-Za-z0-9\s]+|\s+"
)
"""Names and numbers are separate tokens, so that both can be copied. Connecting words of a list and the first words of
a sentence are one token each."""
THOUGHT = re.compile(
    r"Thought: the ([a-z]+)( \d+)?(?: for the [a-z]+)? is (?:(not )?at |(?P<todo>to (?:be |go in ))).*"
)
IN_VAIN = "Nothing happens."
SEARCH = re.compile(r"Thought: the (?P<sought>[a-z]+) for the [a-z]+ is not at (?P<at>[a-z]+ \d+)\nAction: go to")
LISTED = re.compile(r" an? ([a-z]+ \d+)")
SHARED: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "max_length": SIZE.max_length,
    "step_delimiters": [],
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": not torch.cuda.is_available(),
}


@dataclass(frozen=True)
class Lesson:
    """One training stage.

    Attributes:
        names: copies of each episode, each with another set of names; the first keeps its own.
        exchanged: the kinds of names that are exchanged in the other copies.
        rooms: copies of each episode, each in another room; the first is its own, the others are smaller.
        training: settings of the training run.
    """

    names: int
    exchanged: tuple[str, ...]
    rooms: int
    training: dict[str, Any]


ONCE: dict[str, Any] = {"num_train_epochs": 1, "warmup_steps": 0.05}
PIECES: dict[str, Any] = {**ONCE, "learning_rate": 1e-3, "per_device_train_batch_size": 32}
LESSONS = {
    "reading": Lesson(2, ("things", "places"), 1, {**ONCE, "learning_rate": 2e-3}),
    "glimpses": Lesson(5, ("things", "places"), 1, PIECES),
    "searches": Lesson(1, (), 10, PIECES),
    "practice": Lesson(2, ("things",), 3, {**ONCE, "learning_rate": 6e-4, "per_device_train_batch_size": 4}),
    "rehearsal": Lesson(2, ("things",), 4, {**ONCE, "learning_rate": 6e-4, "gradient_accumulation_steps": 4}),
}
TEXTS = 20_000
"""Number of short texts of each kind in the rehearsal, next to its conversations."""


def start(careful: Path, careless: Path, here: Path) -> Path:
    """Train a policy that plays like a careful demonstrator; it stands for a pretrained model."""
    policy = here / "scratch"
    if not (policy / "model.safetensors").exists():  # written last
        shutil.rmtree(here, ignore_errors=True)
        prepare(list(load_episodes(careful)), list(load_episodes(careless)), here)
    for name, lesson in LESSONS.items():
        policy = learnt("sft", policy, here / name / "episodes", here / name, 0, lesson.training)
    return policy


def prepare(careful: list[Episode], careless: list[Episode], here: Path) -> None:
    """Write the episodes of all stages and the untrained policy."""
    shown, won = careful + careless, [e for e in careful if e.reward]
    said = [m["content"] for e in shown for m in (*e.prompt, *e.completion)]
    tokenizer, groups = trained_tokenizer(said, pattern=PATTERN), exchangeable(said)
    rng, rooms = random.Random(0), {name: lesson.rooms for name, lesson in LESSONS.items()}

    def named(name: str, episodes: list[Episode]) -> list[Episode]:
        return varied(episodes, [groups[kind] for kind in LESSONS[name].exchanged], LESSONS[name].names)

    glimpsed = named("glimpses", shown)
    lessons = {
        "reading": [as_text(e, tokenizer) for e in named("reading", shown)],
        "glimpses": [g for e in glimpsed for g in glimpses(e, tokenizer)],
        "searches": [s for e in careful for s in searches(e, tokenizer, rooms["searches"], rng)],
        "practice": [p for e in named("practice", won) for p in elsewhere(e, rooms["practice"], rng)],
    }
    decided = [d for e in glimpsed for d in decisions(e, tokenizer)]
    texts = [rng.sample(kind, min(TEXTS, len(kind))) for kind in (lessons["glimpses"], lessons["searches"], decided)]
    again = [p for e in named("rehearsal", won) for p in elsewhere(e, rooms["rehearsal"], rng)]
    lessons["rehearsal"] = [*again, *(text for kind in texts for text in kind)]
    for name, episodes in lessons.items():
        append_episodes(here / name / "episodes", episodes)
    tokenizer.save_pretrained(here / "scratch")
    policy_from_scratch(tokenizer, SIZE, seed=0).save_pretrained(here / "scratch")


def glimpses(episode: Episode, tokenizer: Any) -> list[Episode]:
    """Short texts that teach whether the object is in sight: the task, one turn, its observation and the object's name.

    The completion is the rest of the thought. Thoughts that are not true are left out.
    """
    return [
        rest_of_thought(episode, i, 1, thought, tokenizer)
        for i, thought, heard in thoughts(episode, 1)
        if not thought["todo"] and is_seen(thought, heard)
    ]


def decisions(episode: Episode, tokenizer: Any) -> list[Episode]:
    """Short texts that teach what to do with a thing, and what to think after a turn without effect.

    The latter also contain the turn before that one.
    """
    todo = [(i, 1, thought) for i, thought, _ in thoughts(episode, 1) if thought["todo"]]
    again = [
        (i, 2, thought)
        for i, thought, heard in thoughts(episode, 2)
        if heard.endswith(IN_VAIN) and (thought["todo"] or is_seen(thought, heard))
    ]
    return [rest_of_thought(episode, *turn, tokenizer) for turn in [*todo, *again]]


def thoughts(episode: Episode, turns: int) -> list[tuple[int, re.Match[str], str]]:
    """(index, thought, observations of the last `turns` turns) for every thought after that many turns."""
    said, found = [*episode.prompt, *episode.completion], []
    for i in range(1 + 2 * turns, len(said), 2):
        thought = THOUGHT.match(said[i]["content"])
        if thought:
            found.append((i, thought, "\n".join(m["content"] for m in said[i - 2 * turns + 1 : i : 2])))
    return found


def is_seen(thought: re.Match[str], heard: str) -> bool:
    """Whether the observation lists anything, and lists the thing if the thought says it is there."""
    return "you see a" in heard and bool(thought[3] or f" a {thought[1]}{thought[2]}" in heard)


def rest_of_thought(episode: Episode, i: int, turns: int, thought: re.Match[str], tokenizer: Any) -> Episode:
    """An episode whose prompt is the task, the last turns and the thought up to its first name; the rest is learnt."""
    said = [*episode.prompt, *episode.completion]
    task = {"role": "user", "content": said[0]["content"].split("\n\n")[-1]}
    shown = [task, *said[i - 2 * turns : i]]
    before = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
    here, rest = before + thought[0][: thought.end(1)], thought[0][thought.end(1) :] + "\nAction:"
    return as_learnt(episode, here, rest, 100 * episode.sample + i)


def searches(episode: Episode, tokenizer: Any, rooms: int, rng: random.Random) -> list[Episode]:
    """Short texts that teach where to look next: the task, one turn, its observation, and that the object is not there.

    The completion is the next place: the next in the room's list that may hold the object and was not visited. Each
    text is written for the original room and for `rooms` - 1 rooms without some of the places that were not visited.
    Otherwise the model would memorise places that most rooms have.
    """
    said, found, visited = [*episode.prompt, *episode.completion], [], set[str]()
    for i in range(3, len(said), 2):
        visited.update(re.findall(r"go to ([a-z]+ \d+)", said[i - 2]["content"]))
        thought = SEARCH.match(said[i]["content"])
        for k in range(rooms if thought else 0):
            room = smaller(said[0]["content"], visited, rng) if k else said[0]["content"]
            goes = next_place(room, thought["sought"], thought["at"], visited)
            if goes is not None:
                shown = [{"role": "user", "content": room}, *said[i - 2 : i]]
                before = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
                found.append(
                    as_learnt(episode, before + thought[0], f" {goes}", (100 * episode.sample + i) * rooms + k)
                )
    return found


def elsewhere(episode: Episode, rooms: int, rng: random.Random) -> list[Episode]:
    """The episode in its room and in `rooms` - 1 rooms without some unvisited places, in which it is right as well."""
    room, *others = episode.prompt
    visited = {place for m in episode.completion for place in re.findall(r"go to ([a-z]+ \d+)", m["content"])}
    return [
        replace(
            episode,
            prompt=[{**room, "content": smaller(room["content"], visited, rng)} if k else room, *others],
            sample=episode.sample * rooms + k,
        )
        for k in range(rooms)
    ]


def next_place(room: str, sought: str, at: str, visited: set[str]) -> str | None:
    """Where a careful demonstrator looks next; None if every place that may hold the object was visited."""
    likely = [p for p in LISTED.findall(room) if p not in visited and may_hold(kind_of(p), sought)]
    return next((p for p in likely if as_listed(p) > as_listed(at)), likely[0] if likely else None)


def smaller(room: str, visited: set[str], rng: random.Random) -> str:
    """The room without some places: of a random half of the unvisited kinds, only a random number is kept."""
    places, gone = LISTED.findall(room), {kind_of(p) for p in visited}
    counts = Counter(map(kind_of, places))
    left = {k: n if k in gone or rng.random() < 0.5 else rng.randint(0, n) for k, n in counts.items()}
    kept = [f"a {p}" for p in places if as_listed(p)[1] >= -left[kind_of(p)]]
    listed = ", ".join([*kept[:-1], f"and {kept[-1]}"]) if len(kept) > 1 else "".join(kept)
    return re.sub(r"you see .*\.", f"you see {listed}.", room, count=1)


def varied(episodes: list[Episode], groups: list[list[str]], times: int) -> list[Episode]:
    """Each episode unchanged, and `times` - 1 copies with the names of each group exchanged at random."""
    rng = random.Random(0)
    return [
        replace(renamed(e, groups, rng) if k else e, sample=e.sample * times + k)
        for e in episodes
        for k in range(times)
    ]


def renamed(episode: Episode, groups: list[list[str]], rng: random.Random) -> Episode:
    """The episode with the names of each group exchanged."""
    names = {old: new for group in groups for old, new in zip(group, rng.sample(group, len(group)), strict=True)}
    known = re.compile(rf"\b(?:{'|'.join(names)})\b")

    def said(messages: Any) -> list[dict[str, str]]:
        return [{**m, "content": known.sub(lambda found: names[found.group()], m["content"])} for m in messages]

    return replace(episode, prompt=said(episode.prompt), completion=said(episode.completion))


def exchangeable(said: list[str]) -> dict[str, list[str]]:
    """Kinds of things that were taken, and kinds of places that were visited but neither opened nor used."""
    text = "\n".join(said)
    kinds = {verb: set(re.findall(rf"{verb} ([a-z]+) \d", text)) for verb in ("take", "go to", "open", "with")}
    return {"things": sorted(kinds["take"]), "places": sorted(kinds["go to"] - kinds["open"] - kinds["with"])}


def as_text(episode: Episode, tokenizer: Any) -> Episode:
    """A conversation as one text: the prompt is its first token, and all other tokens are learnt."""
    text = tokenizer.apply_chat_template([*episode.prompt, *episode.completion], tokenize=False)
    return as_learnt(episode, USER, text.removeprefix(USER).removesuffix(END), episode.sample)


def as_learnt(episode: Episode, prompt: str, completion: str, sample: int) -> Episode:
    """An episode whose completion is learnt."""
    return Episode(
        prompt=prompt,
        completion=completion,
        reward=1.0,
        prompt_id=episode.prompt_id,
        sample=sample,
        stop_reason=StopReason.STOP,
    )


def learnt(method: str, model: Path, episodes: Path, out: Path, seed: int, given: dict[str, Any]) -> Path:
    """Train a policy by a method, unless this is done already, and return its folder."""
    if not (out / "run.json").exists():
        variant = Variant("sft") if method == "sft" else variant_of(method)
        args = METHODS[variant.method].config(
            output_dir=str(out), seed=seed, data_seed=seed, **{**SHARED, **variant.settings, **given}
        )
        train(TrainConfig(model=str(model), episodes=[str(episodes)]), args)
    return out / "policy"
