"""What is said where the engine cannot run, and what importing it leaves behind."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from stepcredit.errors import InputError
from stepcredit.tasks.alfworld import installation
from stepcredit.tasks.alfworld.alfworld_task import ALFWorld
from stepcredit.tasks.alfworld.installation import DATA

needs_engine = pytest.mark.skipif(
    installation.importlib.util.find_spec("alfworld") is None or sys.version_info >= (3, 13),
    reason="needs the extra alfworld, on Python 3.11 or 3.12",
)


@pytest.fixture
def without_extra(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(installation, "importlib", SimpleNamespace(import_module=absent))
    monkeypatch.setattr(installation, "sys", SimpleNamespace(version_info=(3, 11, 0)))


def test_the_missing_extra_is_named(without_extra, tmp_path):
    (tmp_path / "json_2.1.1").mkdir()
    for act in (
        lambda: installation.alfworld_module("textworld"),
        lambda: installation.shipped("data"),
        lambda: ALFWorld(str(tmp_path)).problems("train"),
    ):
        with pytest.raises(InputError, match=r"pip install 'stepcredit\[alfworld\]'.*No module named"):
            act()


@pytest.mark.parametrize(("version", "told"), [((3, 13, 0), "not 3.13"), ((3, 14, 1), "not 3.14")])
def test_a_python_that_is_too_new_for_the_engine(monkeypatch, version, told):
    monkeypatch.setattr(installation, "sys", SimpleNamespace(version_info=version))
    with pytest.raises(InputError, match=f"Python 3.11 or 3.12, {told}"):
        installation.alfworld_module("json")


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 99)])
def test_pythons_that_the_engine_runs_on(monkeypatch, version):
    monkeypatch.setattr(installation, "sys", SimpleNamespace(version_info=version))
    assert installation.alfworld_module("json").loads("1") == 1


def test_the_task_is_made_without_the_extra(without_extra, tmp_path):
    assert ALFWorld(str(tmp_path)).environment() is not None


@needs_engine
def test_the_package_does_not_choose_a_folder_of_games_for_us(tmp_path):
    """alfworld sets $ALFWORLD_DATA when it is imported."""
    script = (
        "import os; from stepcredit.tasks.alfworld.alfworld_task import ALFWorld\n"
        "for _ in range(2):\n"
        "    try: ALFWorld().problems('train')\n"
        "    except ValueError as error: print(error)\n"
        f"print(os.environ.get({DATA!r}))"
    )
    environment = {k: v for k, v in os.environ.items() if k != DATA} | {"HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    first, second, left = said.stdout.splitlines()
    assert "no folder of games; give --data or $ALFWORLD_DATA" in first
    assert second == first
    assert left == "None"
