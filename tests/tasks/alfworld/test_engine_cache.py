"""The cache: the stock functions are back in place after every call, and nothing is remembered that can change."""

import sys
from types import SimpleNamespace

import pytest

from stepcredit.tasks.alfworld import engine_cache
from stepcredit.tasks.alfworld.engine_cache import CACHE, _Grammar, cache_folder, cached_environment
from stepcredit.tasks.alfworld.game import Game
from stepcredit.tasks.alfworld.installation import alfworld_module

GO = "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]"
OPEN = "open {r}"
OPENED = "{r.name | opened(r:receptacle)}"
BOTH = "{r.name | receptacleatlocation(r:receptacle, l:location) & opened(r:receptacle)}"


def stock():
    return [
        alfworld_module("fast_downward").load_lib,
        alfworld_module("fast_downward").pddl2sas,
        alfworld_module("textworld.envs.pddl.textgen")._parse_and_convert,
        alfworld_module("textworld.logic")._parse_and_convert,
    ]


class Deriving:
    """A grammar that counts."""

    def __init__(self):
        self.asked = []

    def derive(self, start, context):
        self.asked.append(start)
        return f"words {len(self.asked)}"


@pytest.fixture
def counted():
    grammar = Deriving()
    actions = {name: SimpleNamespace(template=t) for name, t in zip("abcd", (GO, OPEN, OPENED, BOTH))}
    logic = SimpleNamespace(grammar=grammar, actions=actions)

    def action(*predicates):
        return SimpleNamespace(effects=[SimpleNamespace(literal=SimpleNamespace(predicate=p)) for p in predicates])

    return _Grammar(logic, SimpleNamespace(actions=[action("atlocation"), action("checked", "opened")])), grammar


def context(**ids):
    return {"variables": {name: SimpleNamespace(id=id) for name, id in ids.items()}}


def test_constant_words_are_derived_once(counted):
    ours, grammar = counted
    first = ours.derive(GO, context(a="agent1", lstart="loc_1", lend="loc_2", r="shelf_1"))
    assert ours.derive(GO, context(a="agent1", lstart="loc_7", lend="loc_2", r="shelf_1")) == first
    assert grammar.asked == [GO]
    assert ours.derive(OPEN, context(r="shelf_1")) == ours.derive(OPEN, context(r="shelf_1")) == "words 2"


def test_other_things_have_other_words(counted):
    ours, grammar = counted
    words = {
        ours.derive(GO, context(lend="loc_2", r="shelf_1")),
        ours.derive(GO, context(lend="loc_3", r="shelf_1")),
        ours.derive(GO, context(lend="loc_2", r="shelf_2")),
        ours.derive(GO, context(lend="shelf_1", r="loc_2")),
        ours.derive(OPEN, context(r="shelf_1")),
        ours.derive(OPEN, context(r="shelf_2")),
    }
    assert len(words) == len(grammar.asked) == 6


@pytest.mark.parametrize("start", [OPENED, BOTH, "#look.feedback#", "#intro#"])
def test_what_an_action_changes_and_what_is_no_command_is_derived_anew(counted, start):
    ours, grammar = counted
    words = [ours.derive(start, context(r="shelf_1", l="loc_1")) for _ in range(3)]
    assert words == ["words 1", "words 2", "words 3"]
    assert grammar.asked == [start] * 3


def test_in_real_games_places_are_constant(files):
    game = Game(files[0])
    constant = game._pddl._logic.grammar._constant
    assert any(t.startswith("go to [") for t in constant)
    changing = {e.literal.predicate for a in game._pddl._pddl_state.task.actions for e in a.effects}
    assert "receptacleatlocation" not in changing
    assert {"atlocation", "opened", "inreceptacle", "holds"} <= changing
    game.close()


def test_the_stock_functions_are_back_after_every_call(files):
    before, arguments = stock(), list(sys.argv)
    engine_cache._translation.cache_clear()
    game = Game(files[0])
    assert stock() == before
    first = game.reset().text
    assert stock() == before
    assert game.step("look").text != ""
    assert stock() == before
    assert game.reset().text == first
    game.close()
    assert stock() == before
    assert sys.argv == arguments
    assert all("stepcredit" not in function.__module__ for function in before)


def test_a_closed_game_leaves_its_library_to_the_next(files, monkeypatch):
    """As many libraries as games at a time; the words are those of a game that has loaded its own."""
    interface = alfworld_module("fast_downward.interface")
    loaded, stock_loading = [], interface.load_lib
    monkeypatch.setattr(interface, "load_lib", lambda: loaded.append(None) or stock_loading())
    monkeypatch.setattr(engine_cache, "_SPARE_LIBRARIES", [])

    def words(games):
        """Of each game, played in turns."""
        said = [[game.reset()] for game in games]
        go = [next(c for c in first.admissible if c.startswith("go to ")) for (first,) in said]
        for commands in [go, ["look"] * len(games), ["inventory"] * len(games)]:
            for game, command, of in zip(games, commands, said):
                of.append(game.step(command))
        return said

    alone = [Game(files[i]) for i in range(2)]
    assert len(loaded) == 2
    said = words(alone)
    assert said[0] != said[1]
    for game in alone:
        game.close()
        game.close()  # once is enough
    for i in (0, 1, 0):
        game = Game(files[i])
        assert words([game]) == [said[i]]
        game.close()
    again = [Game(files[i]) for i in range(2)]
    assert words(again) == said
    for game in again:
        game.close()
    assert len(loaded) == 2


@pytest.mark.parametrize("broken", ["no file", "no problem", "no grammar"])
def test_the_stock_functions_are_back_after_a_load_that_raises(files, broken, monkeypatch, tmp_path):
    json = alfworld_module("json")
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    before, arguments = stock(), list(sys.argv)
    data = json.loads(files[0].read_text())
    if broken == "no problem":
        data["pddl_problem"] = "(define (problem"
    if broken == "no grammar":
        data["grammar"] = "grammar ::"
    file = tmp_path / "game.tw-pddl"
    if broken != "no file":
        file.write_text(json.dumps(data))
    with pytest.raises((Exception, SystemExit)):
        Game(file)
    assert stock() == before
    assert sys.argv == arguments
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.sas.z"))


def test_a_translation_is_made_once_and_kept_whole(files, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE, str(tmp_path))
    engine_cache._translation.cache_clear()
    interface = alfworld_module("fast_downward.interface")
    arguments, stock_translation, made = sys.argv, interface.pddl2sas, []

    def counting(*texts):
        made.append(texts)
        return stock_translation(*texts)

    monkeypatch.setattr(interface, "pddl2sas", counting)
    game = Game(files[0])
    game.reset()
    game.reset()
    game.close()
    assert len(made) == 1
    assert sys.argv is arguments
    (kept,) = (f for f in tmp_path.rglob("*") if f.is_file())
    assert kept.parent == cache_folder() == tmp_path / "alfworld"
    assert kept.name.endswith(".sas.z")
    engine_cache._translation.cache_clear()
    Game(files[0]).close()
    assert len(made) == 1
    engine_cache._translation(made[0][0], made[0][1].replace("trial", "trail"))
    assert len(made) == 2  # another problem is another translation
    engine_cache._translation.cache_clear()


def test_from_disk_comes_the_task_that_the_translation_made(files, monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE, str(tmp_path))
    game = alfworld_module("json").loads(files[1].read_text())
    known = []
    for _ in range(2):
        engine_cache._translation.cache_clear()
        task, sas = engine_cache._translation(game["pddl_domain"], game["pddl_problem"])
        actions = [
            (a.name, a.precondition.dump.__qualname__, [str(e.literal) for e in a.effects]) for a in task.actions
        ]
        things = [(o.name, o.type_name) for o in task.objects], [str(fact) for fact in task.init]
        known.append((sas, actions, [t.name for t in task.types], things, len(task.axioms)))
    assert known[0] == known[1]
    engine_cache._translation.cache_clear()


def test_symbols_are_not_shared_by_derivations():
    first = engine_cache._symbols("go to {r.name}", rule_name="symbols")
    first[-1].context = {"variables": "of one derivation"}
    again = engine_cache._symbols("go to {r.name}", rule_name="symbols")
    assert [str(s) for s in again] == [str(s) for s in first]
    assert again[-1].context == {}


def test_where_translations_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "stepcredit" / "alfworld"


def test_the_class_is_made_once_and_is_textworlds():
    assert cached_environment() is cached_environment()
    assert issubclass(cached_environment(), alfworld_module("textworld.envs.pddl.pddl").PddlEnv)
