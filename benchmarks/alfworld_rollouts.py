"""Rollouts on ALFWorld games against one stock environment at a time: alfworld_rollouts.py GAMES POLICY [--games 24 …]

The baseline is ALFWorld as it comes: its own `AlfredTWEnv` with one game, reset for every episode, and a policy that
replies to one conversation. Ours are the same episodes with the same draws: environments that remember translations
and parses, in worker processes, and replies drawn in one batch. The words of both are compared, turn by turn.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

from stepcredit.engines.engine import SamplingParams
from stepcredit.engines.transformers import TransformersEngine
from stepcredit.episodes.episode import Episode
from stepcredit.files import write_json
from stepcredit.models.loading import load_policy, load_tokenizer
from stepcredit.results.provenance import versions
from stepcredit.rollouts.environment_workers import EnvironmentWorkers
from stepcredit.rollouts.local_environments import LocalEnvironments
from stepcredit.rollouts.multi_turn import MultiTurnRollouts
from stepcredit.searching.spec import SearchSpec
from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.engine_cache import CACHE
from stepcredit.tasks.alfworld.wording import wording
from stepcredit.tasks.environment import Observation
from stepcredit.tasks.task import Problem

CONFIG: dict[str, Any] = {
    "dataset": {"data_path": "", "num_train_games": -1},
    "env": {
        "task_types": [1, 2, 3, 4, 5, 6],
        "goal_desc_human_anns_prob": 0,
        "domain_randomization": False,
        "expert_type": "handcoded",
    },
    "general": {"training_method": "dqn"},
    "rl": {"training": {"max_nb_steps_per_episode": 50}},
}


class StockHousehold:
    """A game on ALFWorld as it comes, in our wording."""

    def __init__(self, task: ALFWorld) -> None:
        self._task = task
        self._words = wording(task.prompt_style)
        self._env: Any = None

    def reset(self, problem: Problem) -> Observation:
        """A new environment for the game, as its users make one."""
        self.close()
        folder = self._task.root / Path(problem.metadata["game"]).parent
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            stock = AlfredTWEnv({**CONFIG, "dataset": {**CONFIG["dataset"], "data_path": str(folder)}}, "train")
            self._env = stock.init_env(batch_size=1)
        (text,), _ = self._env.reset()
        return Observation(self._words.opening(text))

    def step(self, reply: str) -> Observation:
        """What it says."""
        (text,), _, _, infos = self._env.step([self._words.command(reply)])
        won = bool(infos["won"][0])
        return Observation(self._words.observation(text), float(won), won)

    def close(self) -> None:
        """Let go of it."""
        if self._env is not None:
            self._env.close()
        self._env = None


def timed(run: Callable[[], list[Episode]]) -> tuple[float, list[Episode]]:
    started = time.perf_counter()
    episodes = run()
    return time.perf_counter() - started, episodes


def said(episodes: Sequence[Episode]) -> list[Any]:
    return [(e.prompt_id, e.sample, list(e.prompt), list(e.completion)) for e in episodes]


def compare(args: argparse.Namespace) -> dict[str, Any]:
    task = ALFWorld(str(args.games_folder), "act")
    problems = list(task.problems(args.split, args.games))
    tokenizer = load_tokenizer(args.policy)
    policy = load_policy(args.policy, dtype=torch.float64)  # so that batches change no draw
    spec = SearchSpec("sample", args.samples, SamplingParams(max_new_tokens=24, seed=0))

    def one_at_a_time() -> list[Episode]:
        environments = LocalEnvironments(lambda: StockHousehold(task))
        engine = TransformersEngine(policy, tokenizer, 1)
        return MultiTurnRollouts(engine, environments, args.max_turns).episodes(problems, spec)

    def together() -> list[Episode]:
        with EnvironmentWorkers(task.environment, args.workers) as environments:
            engine = TransformersEngine(policy, tokenizer, args.batch_size)
            return MultiTurnRollouts(engine, environments, args.max_turns).episodes(problems, spec)

    rows = []
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as cache:
            os.environ[CACHE] = cache
            stock_seconds, stock = timed(one_at_a_time)
            first_seconds, first = timed(together)
            again_seconds, again = timed(together)
        assert said(stock) == said(first) == said(again), "an observation or a draw differs"
        turns = sum(e.metadata["turns"] for e in stock)
        rows.append({"turns": turns, "stock": stock_seconds, "ours": first_seconds, "ours again": again_seconds})
        print(json.dumps(rows[-1]))
    median = {name: statistics.median(row[name] for row in rows) for name in ("stock", "ours", "ours again")}
    return {
        "games": len(problems), "episodes": len(problems) * args.num_generations,
        "turns": rows[0]["turns"], "rows": rows,
        "ratio": median["stock"] / median["ours"], "ratio again": median["stock"] / median["ours again"],
        "seconds a turn": {name: seconds / rows[0]["turns"] for name, seconds in median.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games_folder", type=Path)
    parser.add_argument("policy")
    parser.add_argument("--split", default="train")
    parser.add_argument("--games", type=int, default=24)
    parser.add_argument("--num_generations", type=int, default=5)
    parser.add_argument("--max_turns", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    found = compare(args)
    settings = {k: v for k, v in vars(args).items() if k not in ("games_folder", "policy", "out")}
    write_json(args.output, {**found, "settings": settings, "processors": os.cpu_count(), **versions()})
    print(f"{found['ratio']:.1f} times as fast; {found['ratio again']:.1f} with the translations kept on disk")


if __name__ == "__main__":
    main()
