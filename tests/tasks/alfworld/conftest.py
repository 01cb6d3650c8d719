"""A few built games for all tests of this folder, and a cache of their own."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.build import build_games, game_specs
from stepcredit.tasks.alfworld.engine_cache import CACHE
from stepcredit.tasks.alfworld.installation import DATA

WITHOUT_ENGINE = {"test_installation.py", "test_plan.py", "test_wording.py"}
SEED = 18  # its rooms are small: the engine loads them sooner
PLAYABLE = find_spec("alfworld") is not None and sys.version_info < (3, 13)


def pytest_collection_modifyitems(items):
    engine = pytest.mark.skipif(not PLAYABLE, reason="needs the extra alfworld, on Python 3.11 or 3.12")
    left_open = pytest.mark.filterwarnings("ignore:unclosed file.*tw-pddl:ResourceWarning")  # by textworld
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(left_open)
            if item.path.name not in WITHOUT_ENGINE:
                item.add_marker(engine)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def root(tmp_path_factory, cache_folder):
    """A folder of games: one of each family in train, two in valid_unseen."""
    folder = tmp_path_factory.mktemp("alfworld")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(cache_folder))
        built = list(build_games(game_specs(folder, {"train": 6, "valid_unseen": 2}, SEED), workers=2))
    assert not any(b.was_there for b in built)
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(cache_folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(cache_folder))
        patch.delenv(DATA, raising=False)
        yield cache_folder


@pytest.fixture(scope="session")
def seed():
    return SEED


@pytest.fixture(scope="session")
def task(root):
    return ALFWorld(str(root))


@pytest.fixture(scope="session")
def files(root):
    """The games of the train split, one of each family, in the families' order."""
    return sorted(root.glob("json_2.1.1/train/*/*/game.tw-pddl"), key=lambda f: f.parent.name)
