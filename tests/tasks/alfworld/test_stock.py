"""Stock ALFWorld on built games: it loads and wins all of them, and its observations are ours, word for word."""

import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from stepcredit.tasks.alfworld import engine_cache
from stepcredit.tasks.alfworld.game import Game
from stepcredit.tasks.alfworld.installation import alfworld_module
from stepcredit.tasks.alfworld.scenario import FAMILIES

RANDOM_TURNS = 14


def walkthrough(file):
    return json.loads(file.read_text())["walkthrough"]


def random_play(game, seed):
    """Admissible commands for the most part, others between them."""
    rng = np.random.default_rng(seed)
    commands, answer = [], game.reset()
    for turn in range(RANDOM_TURNS):
        admissible = [c for c in answer.admissible if not c.startswith(("examine", "help"))] or answer.admissible
        odd = {3: "", 6: "dance with mug 1", 9: f"  {answer.admissible[0]} ", 11: answer.admissible[0].upper()}
        commands.append(odd.get(turn, admissible[int(rng.integers(len(admissible)))]))
        answer = game.step(commands[-1])
    return commands


def told(game, *plays):
    """(text, won, admissible commands) from a reset on, for each play."""
    return [[astuple(game.reset()), *(astuple(game.step(c)) for c in play)] for play in plays]


def stock_told(file, play):
    textworld = alfworld_module("textworld")
    alfred = alfworld_module("alfworld.agents.environment.alfred_tw_env")
    infos = textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"])
    env = textworld.start(str(file), infos, [alfred.AlfredDemangler(shuffle=False), alfred.AlfredInfos])

    def answer(state):
        return state.feedback, state["won"], tuple(state["admissible_commands"])

    try:
        return [answer(env.reset()), *(answer(env.step(c)[0]) for c in play)]
    finally:
        env.close()


@pytest.fixture(scope="module")
def won_by_stock(root):
    """Game → what ALFWorld's own environment tells while it is played by its walkthrough."""
    alfred = alfworld_module("alfworld.agents.environment.alfred_tw_env")
    told = {}
    for split, mode, setting in (
        ("train", "train", "data_path"),
        ("valid_unseen", "eval_out_of_distribution", "eval_ood_data_path"),
    ):
        games = alfred.AlfredTWEnv(
            {
                "dataset": {setting: str(root / "json_2.1.1" / split), "num_train_games": -1, "num_eval_games": -1},
                "env": {
                    "task_types": [1, 2, 3, 4, 5, 6],
                    "goal_desc_human_anns_prob": 0,
                    "domain_randomization": False,
                    "expert_type": "handcoded",
                },
                "general": {"training_method": "dqn"},
                "rl": {"training": {"max_nb_steps_per_episode": 50}},
            },
            train_eval=mode,
        )
        games.game_files = sorted(games.game_files)
        env = games.init_env(batch_size=1)
        for _ in games.game_files:
            texts, infos = env.reset()
            file = Path(infos["extra.gamefile"][0])
            told[file] = [(texts[0], infos["won"][0], tuple(infos["admissible_commands"][0]))]
            for command in walkthrough(file):
                texts, _, _, infos = env.step([command])
                told[file].append((texts[0], infos["won"][0], tuple(infos["admissible_commands"][0])))
        env.close()
    return told


def test_stock_alfworld_loads_and_wins_every_game(root, won_by_stock):
    """By its walkthrough, with the last command and not before."""
    assert set(won_by_stock) == set(root.glob("json_2.1.1/*/*/*/game.tw-pddl"))
    assert len(won_by_stock) == 8
    for file, told in won_by_stock.items():
        assert [won for _, won, _ in told] == [False] * len(walkthrough(file)) + [True]
        for command, (_, _, admissible) in zip(walkthrough(file), told, strict=False):
            assert command in admissible


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=FAMILIES)
def test_the_same_words_as_stock(files, won_by_stock, number, monkeypatch):
    """A random play, and after another reset the walkthrough; once more with the translation from disk."""
    file = files[number]
    game = Game(file)
    plays = random_play(game, number), walkthrough(file)
    ours = told(game, *plays)
    game.close()
    assert ours[0] == stock_told(file, plays[0])
    assert ours[1] == won_by_stock[file]
    assert ours[0][4][0] == ours[0][7][0] == "Nothing happens."

    for known in (engine_cache._translation, engine_cache._parsed_symbols, engine_cache._rule):
        known.cache_clear()
    monkeypatch.setattr(alfworld_module("fast_downward.interface"), "pddl2sas", None)  # must not be needed
    from_disk = Game(file)
    assert told(from_disk, *plays) == ours
    from_disk.close()


def test_games_beside_each_other_do_not_mix(files):
    alone = []
    for file in files[:2]:
        game = Game(file)
        alone.append(told(game, walkthrough(file))[0])
        game.close()
    games = [Game(file) for file in files[:2]]
    beside = [[astuple(game.reset())] for game in games]
    for turn in range(max(map(len, alone)) - 1):
        for game, file, heard in zip(games, files, beside, strict=False):
            if turn < len(walkthrough(file)):
                heard.append(astuple(game.step(walkthrough(file)[turn])))
    for game in games:
        game.close()
    assert beside == alone
