"""Offline learning on built ALFWorld games: run.py GAMES OUT [--seeds 0 1 2] [--splits …] [--methods …]

GAMES is what `stepcredit alfworld build --out GAMES --train 480 --valid_seen 100 --valid_unseen 100` made. A small
Llama from nothing reads and practises what demonstrators of mixed quality did. For each seed it is fine-tuned on them,
plays every training game five times, and learns from these episodes by each method; all are evaluated on both splits.
Rows go to OUT/results.json; finished work is kept in OUT and not done again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stepcredit.episodes.episode import Episode, StopReason
from stepcredit.episodes.store import append_episodes, load_episodes
from stepcredit.models.scratch import ModelSize, policy_from_scratch
from stepcredit.models.vocabulary import END, USER, trained_tokenizer
from stepcredit.pipeline.alfworld import DemonstrateConfig, demonstrate
from stepcredit.pipeline.collect import CollectConfig, collect
from stepcredit.pipeline.evaluate import EvaluateConfig, evaluate
from stepcredit.pipeline.results import read_rows, versions, write_json
from stepcredit.pipeline.train import TrainConfig, train
from stepcredit.pipeline.variants import Variant, variant_of
from stepcredit.tasks.alfworld.demonstrators import CARELESSNESS
from stepcredit.training.methods import METHODS

STYLE, TURNS = "think", 20
SIZE = ModelSize(hidden_size=128, intermediate_size=384, layers=3, heads=4, max_length=1024)
PATTERN = (
    r"Thought: the|\nAction:|Observation: [A-Z][a-z]*(?: [a-z]+\b(?! \d))*| (?:is|may|will) [a-z ]*?(?:\ba\b|(?=\n))"
    r"|,(?: (?:you see|and))? an?\b|[A-Z][a-z]*(?: [a-z]+\b(?! \d))*"
    r"| ?[A-Za-z]+| ?\d+| ?[^A-Za-z0-9\s]+|\s+"
)
"""Names and numbers apart, both to be copied; a list's glue and the first words of a sentence are one token each."""
THOUGHT = re.compile(r"Thought: the ([a-z]+)( \d+)? is (not )?here")
READINGS, GLIMPSES, PRACTICES = 3, 3, 9
SHARED: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "max_length": SIZE.max_length,
    "step_delimiters": [],
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": not torch.cuda.is_available(),
}
READING: dict[str, Any] = {"learning_rate": 2e-3, "num_train_epochs": 1, "warmup_steps": 0.05}
GLIMPSE: dict[str, Any] = {
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "warmup_steps": 0.05,
    "per_device_train_batch_size": 32,
}
PRACTICE: dict[str, Any] = {
    "learning_rate": 6e-4,
    "num_train_epochs": 1,
    "warmup_steps": 0.05,
    "per_device_train_batch_size": 4,
}
SFT: dict[str, Any] = {"learning_rate": 5e-4, "num_train_epochs": 1, "warmup_steps": 0.05}
# A game that the turn limit ended is lost: reward 0, as in the paper.
LEARNING: dict[str, Any] = {"truncated": "zero", "num_train_epochs": 1, "gradient_accumulation_steps": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "rft": {"learning_rate": 3e-4, "num_train_epochs": 3},
    "dpo": {"learning_rate": 1e-4, "beta": 0.1, "max_pairs_per_prompt": 2},
    "oreo": {
        "learning_rate": 3e-4,
        "value_learning_rate": 1e-3,
        "value_warmup_steps": 30,
        "beta": 0.03,
        "kl_coef": 0.01,
    },
}
BEST_OF = 5
VALUED = "oreo-step"
"""Whose V chooses among replies. One reply is one action, as V is read once a reply."""


def demonstrations(games: Path, out: Path) -> Path:
    """The demonstrators' episodes, the same for all seeds."""
    folder = out / "demonstrations"
    demonstrate(DemonstrateConfig(out=str(folder), data=str(games), prompt_style=STYLE, samples=8, max_turns=TURNS))
    return folder


def base(demonstrated: Path, out: Path) -> Path:
    """A policy from nothing that plays like a careful demonstrator; it stands for a pretrained one, one for all seeds.

    It reads all demonstrations, what the game says included, which teaches it to copy names; learns from short pieces
    of them whether a name is among those in sight, which it does not learn from whole ones in the time there is; and
    then practises what the most careful demonstrators did. Each time it sees them with names exchanged as well, so that
    a name is worth what it is worth in this game.
    """
    here, scratch = out / "base", out / "base" / "scratch"
    if not (scratch / "model.safetensors").exists():  # written last
        shutil.rmtree(here, ignore_errors=True)
        shown = list(load_episodes(demonstrated))
        said = [m["content"] for e in shown for m in (*e.prompt, *e.completion)]
        tokenizer, groups = trained_tokenizer(said, pattern=PATTERN), exchangeable(said)
        careful = [e for e in shown if e.reward and e.metadata["carelessness"] == min(CARELESSNESS)]
        append_episodes(here / "reading", [as_text(e, tokenizer) for e in varied(shown, groups, READINGS)])
        seen = [g for e in varied(shown, groups, GLIMPSES) for g in glimpses(e, tokenizer)]
        append_episodes(here / "glimpses", seen)
        append_episodes(here / "practice", varied(careful, groups, PRACTICES))
        tokenizer.save_pretrained(scratch)
        policy_from_scratch(tokenizer, SIZE, seed=0).save_pretrained(scratch)
    read = learnt("sft", scratch, here / "reading", here / "read", 0, READING)
    glimpsed = learnt("sft", read, here / "glimpses", here / "glimpsed", 0, GLIMPSE)
    return learnt("sft", glimpsed, here / "practice", here / "practised", 0, PRACTICE)


def glimpses(episode: Episode, tokenizer: Any) -> list[Episode]:
    """Short texts about whether what is sought is there: the task, one turn, what is seen then, the name it looks for.

    The rest of the thought is learnt, where it is true.
    """
    said, found = [*episode.prompt, *episode.completion], []
    task = {"role": "user", "content": said[0]["content"].split("\n\n")[-1]}
    for i in range(3, len(said), 2):
        seen, thought = said[i - 1]["content"], THOUGHT.match(said[i]["content"])
        if thought and "you see a" in seen and (thought[3] or f" a {thought[1]}{thought[2]}" in seen):
            before = tokenizer.apply_chat_template([task, *said[i - 2 : i]], tokenize=False, add_generation_prompt=True)
            here, rest = before + said[i]["content"][: thought.end(1)], thought[0][thought.end(1) :] + "\nAction:"
            found.append(as_learnt(episode, here, rest, 100 * episode.sample + i))
    return found


def varied(episodes: list[Episode], groups: list[list[str]], times: int) -> list[Episode]:
    """Each episode as it is, and `times` - 1 times with the names of each group exchanged at random."""
    rng = random.Random(0)
    return [
        replace(renamed(e, groups, rng) if k else e, sample=e.sample * times + k)
        for e in episodes
        for k in range(times)
    ]


def renamed(episode: Episode, groups: list[list[str]], rng: random.Random) -> Episode:
    """The episode with each group's names exchanged."""
    names = {old: new for group in groups for old, new in zip(group, rng.sample(group, len(group)), strict=True)}
    known = re.compile(rf"\b(?:{'|'.join(names)})\b")

    def said(messages: Any) -> list[dict[str, str]]:
        return [{**m, "content": known.sub(lambda found: names[found.group()], m["content"])} for m in messages]

    return replace(episode, prompt=said(episode.prompt), completion=said(episode.completion))


def exchangeable(said: list[str]) -> list[list[str]]:
    """Kinds of things that were taken, and kinds of places that were gone to and neither opened nor used."""
    text = "\n".join(said)
    kinds = {verb: set(re.findall(rf"{verb} ([a-z]+) \d", text)) for verb in ("take", "go to", "open", "with")}
    return [sorted(kinds["take"]), sorted(kinds["go to"] - kinds["open"] - kinds["with"])]


def as_text(episode: Episode, tokenizer: Any) -> Episode:
    """A conversation as one text behind its first token, every other token of which is learnt."""
    text = tokenizer.apply_chat_template([*episode.prompt, *episode.completion], tokenize=False)
    return as_learnt(episode, USER, text.removeprefix(USER).removesuffix(END), episode.sample)


def as_learnt(episode: Episode, prompt: str, completion: str, sample: int) -> Episode:
    """A text whose completion is learnt."""
    return Episode(
        prompt=prompt,
        completion=completion,
        reward=1.0,
        prompt_id=episode.prompt_id,
        sample=sample,
        stop_reason=StopReason.STOP,
    )


def learnt(method: str, model: Path, episodes: Path, out: Path, seed: int, given: dict[str, Any]) -> Path:
    """A policy trained by a method; its folder."""
    if not (out / "run.json").exists():
        variant = Variant("sft") if method == "sft" else variant_of(method)
        args = METHODS[variant.method].config(
            output_dir=str(out), seed=seed, data_seed=seed, **{**SHARED, **variant.given, **given}
        )
        train(TrainConfig(model=str(model), episodes=str(episodes)), args)
    return out / "policy"


def playing(games: Path) -> dict[str, Any]:
    """How the games are played, in collection and evaluation alike."""
    return {
        "task": "alfworld",
        "data": str(games),
        "prompt_style": STYLE,
        "max_turns": TURNS,
        "max_new_tokens": 32,
    }


def scored(games: Path, here: Path, policy: Path, method: str, split: str, seed: int, **given: Any) -> None:
    """Rows of one policy on one split, unless they are there."""
    out = here / f"evaluate-{method}-{split}-{given.get('search', 'all')}"
    if (out / "run.json").exists():
        return
    evaluate(
        EvaluateConfig(
            **playing(games),
            split=split,
            policy=str(policy),
            method=method,
            out=str(out),
            seed=seed,
            **given,
        )
    )


def one_seed(games: Path, out: Path, seed: int, methods: list[str], splits: list[str], best_of: int) -> None:
    here = out / f"seed{seed}"
    demonstrated = demonstrations(games, out)
    sft = learnt("sft", base(demonstrated, out), demonstrated, here / "sft", seed, SFT)
    collect(
        CollectConfig(
            **playing(games),
            policy=str(sft),
            samples=5,
            seed=seed,
            out=str(here / "episodes"),
            batch_size=128,
        )
    )
    policies = {"sft": sft}
    for method in methods:
        settings = {**LEARNING, **SETTINGS[variant_of(method).method], **SETTINGS.get(method, {})}
        policies[method] = learnt(method, sft, here / "episodes", here / method, seed, settings)
    for split in splits:
        for method, policy in policies.items():
            scored(games, here, policy, method, split, seed, search="greedy")
            if method in ("sft", VALUED) and best_of > 1 and VALUED in policies and split == splits[0]:
                value = str(here / VALUED / "value")
                scored(games, here, policy, method, split, seed, search="all", width=best_of, value=value)
            else:
                scored(games, here, policy, method, split, seed, search="sample")


def gather(out: Path) -> None:
    """All rows in one file, each once; without the paths of one machine."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in sorted(out.glob("seed*/evaluate-*/results.json")):
        for row in read_rows(file):
            key = tuple(row[name] for name in ("method", "split", "search", "width", "seed"))
            rows[key] = {**row, **{k: v and Path(v).parent.name for k, v in row.items() if k in ("policy", "value")}}
    write_json(out / "results.json", list(rows.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=["rft", "dpo", VALUED])
    parser.add_argument("--splits", nargs="*", default=["valid_unseen", "valid_seen"])
    parser.add_argument("--best_of", type=int, default=BEST_OF)
    args = parser.parse_args()
    for seed in args.seeds:
        one_seed(args.games, args.out, seed, args.methods, args.splits, args.best_of)
    gather(args.out)
    built = json.loads((args.games / "built.json").read_text(encoding="utf-8"))
    about = {k: v for k, v in built.items() if k != "out"}
    start = {
        "size": vars(SIZE),
        "reading": {"variants": READINGS, **READING},
        "glimpses": {"variants": GLIMPSES, **GLIMPSE},
        "practice": {"variants": PRACTICES, **PRACTICE},
    }
    settings = {"style": STYLE, "turns": TURNS, "start": start, "sft": SFT, "learning": LEARNING, "methods": SETTINGS}
    write_json(args.out / "run.json", {"built": about, **settings, **versions()})


if __name__ == "__main__":
    main()
