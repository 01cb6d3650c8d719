"""Work units: which are there, what binds a folder, and what a first try that fails leaves."""

import json

import pytest

from stepcredit.cli import main
from stepcredit.episodes.delimiters import COLLECTED, collected_delimiters
from stepcredit.episodes.episode import Episode
from stepcredit.episodes.store import append_episodes, load_episodes, units_of
from stepcredit.errors import InputError
from stepcredit.experiments.scratch import ModelSize, policy_from_scratch
from stepcredit.rollouts.collect import CollectConfig, collect
from stepcredit.rollouts.work_units import WorkFolder, work_units
from stepcredit.tasks.arithmetic import Arithmetic
from stepcredit.tasks.task import Problem

PROBLEMS = [Problem(f"p{k}", f"q{k}", "a") for k in range(6)]
SETTINGS = {"seed": 0, "step_delimiters": ["\n"]}


def work(folder, problems=PROBLEMS, **settings):
    return WorkFolder(folder, {**SETTINGS, **settings}, work_units(problems, 1, rows=2))


def test_two_problems_of_one_id_are_refused():
    with pytest.raises(InputError, match=r"task: 1 ids of problems occur twice, 'p2' first; give each its own"):
        work_units([*PROBLEMS, PROBLEMS[2]], 1)


class Maker:
    """Makes a unit's episodes, and fails after so many units."""

    def __init__(self, fails_after=99, error=KeyboardInterrupt):
        self.made, self.left, self.error = [], fails_after, error

    def __call__(self, unit, advance, there):
        if not self.left:
            raise self.error
        self.left -= 1
        self.made.append([p.prompt_id for p in unit])
        for problem in unit:
            yield Episode(prompt=problem.prompt, completion="a", reward=1.0, prompt_id=problem.prompt_id)
            advance(1)


def ids(episodes):
    return [e.prompt_id for e in episodes]


def finish(folder, maker=None, **given):
    return ids(work(folder, **given).finish(maker or Maker(), "working"))


def stopped(folder, after, **given):
    """A folder whose work was interrupted after so many units."""
    with pytest.raises(KeyboardInterrupt):
        finish(folder, Maker(after), **given)
    return folder


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def imported(folder, text="mine"):
    return append_episodes(folder, [Episode(prompt=text, completion="a", reward=0.0, prompt_id=text)])


ALL = [f"p{k}" for k in range(6)]


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_what_is_there_is_not_made_again(tmp_path, after):
    if after < 3:
        stopped(tmp_path / "w", after)
        assert work(tmp_path / "w").done() == after
        assert (tmp_path / "w").exists() == (after > 0)
    else:
        finish(tmp_path / "w")
    rest = Maker()
    assert finish(tmp_path / "w", rest) == ALL
    assert [i for unit in rest.made for i in unit] == ALL[2 * after :]
    assert names(tmp_path / "w") == [COLLECTED, *(f"episodes-0000{k}.parquet" for k in range(3))]
    assert json.loads((tmp_path / "w" / COLLECTED).read_text()) == SETTINGS


def test_an_import_in_between_neither_counts_nor_hides_a_unit(tmp_path):
    folder = stopped(tmp_path / "w", 1)
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"prompt": "x", "completion": "y", "reward": 1}) + "\n")
    assert main(["import", str(log), "--output_dir", str(folder), "--append"]) == 0
    assert work(folder).done() == 1
    rest = Maker()
    assert finish(folder, rest) == ALL
    assert rest.made == [["p2", "p3"], ["p4", "p5"]]
    assert [e.prompt for e in load_episodes(folder)] == ["q0", "q1", "x", "q2", "q3", "q4", "q5"]


def test_a_unit_that_was_removed_is_made_again_and_comes_back_in_its_place(tmp_path):
    finish(tmp_path)
    (tmp_path / "episodes-00001.parquet").unlink()
    assert work(tmp_path).done() == 2
    again = Maker()
    assert finish(tmp_path, again) == ALL
    assert again.made == [["p2", "p3"]]
    assert ids(load_episodes(tmp_path)) == ["p0", "p1", "p4", "p5", "p2", "p3"]


def test_a_unit_is_there_once(tmp_path):
    finish(tmp_path)
    (tmp_path / "episodes-00007.parquet").write_bytes((tmp_path / "episodes-00001.parquet").read_bytes())
    with pytest.raises(InputError, match=r"00007.parquet: holds the same work unit as episodes-00001.parquet; remove"):
        work(tmp_path).done()


def test_names_tell_which_prompts_in_which_place(tmp_path):
    assert work(tmp_path).names == work(tmp_path / "other", seed=1).names
    assert len({*work(tmp_path).names, *work(tmp_path, PROBLEMS[::-1]).names, *work(tmp_path, PROBLEMS[2:]).names}) == 8
    finish(tmp_path / "w")
    assert list(units_of(tmp_path / "w")) == work(tmp_path).names
    others = [Problem(f"x{k}", f"q{k}", "a") for k in range(6)]
    with pytest.raises(InputError, match="is a work unit of other prompts than these"):
        finish(tmp_path / "w", problems=others)
    assert units_of(tmp_path / "nothing") == {}


def test_other_settings_are_refused_from_the_first_unit_on(tmp_path):
    folder = stopped(tmp_path / "w", 1)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(InputError, match="was collected with another more, seed; choose another --output_dir"):
        finish(folder, seed=1, more="x")
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    (folder / COLLECTED).unlink()
    with pytest.raises(InputError, match=r"collect.json: damaged or half-written, cannot be read \(No such file"):
        finish(folder)


@pytest.mark.parametrize("error", [InputError("bad"), RuntimeError("dead"), KeyboardInterrupt()])
def test_a_first_try_that_fails_leaves_the_folder_as_it_was(tmp_path, error):
    with pytest.raises(type(error)):
        finish(tmp_path / "a" / "w", Maker(0, error))
    assert not list(tmp_path.iterdir())
    (tmp_path / "w").mkdir()
    with pytest.raises(type(error)):
        finish(tmp_path / "w", Maker(0, error))
    assert names(tmp_path / "w") == []
    assert finish(tmp_path / "w", seed=1) == ALL


DAMAGED = [b"", b"{}", b"[]", b'{"seed": 0, "step', b"\x93\x00\xff", b"null"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_manifest_is_repaired_where_nothing_is_finished(tmp_path, capsys, content):
    """As a killed first try leaves it, with its lock and a shard that was being written."""
    (tmp_path / COLLECTED).write_bytes(content)
    for name in (".lock", ".lock.json", ".episodes-1-dead.part", ".collect.json.1-dead.part"):
        (tmp_path / name).write_bytes(b"PAR1")
    assert work(tmp_path).done() == 0
    assert finish(tmp_path) == ALL
    assert f"{tmp_path / COLLECTED}: was damaged; no work unit was finished" in capsys.readouterr().err
    assert json.loads((tmp_path / COLLECTED).read_text()) == SETTINGS


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_manifest_of_finished_units_is_told_and_nothing_is_written(tmp_path, content):
    folder = stopped(tmp_path / "w", 1)
    (folder / COLLECTED).write_bytes(content)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    for ask in (lambda: work(folder).done(), lambda: finish(folder), lambda: collected_delimiters(folder)):
        with pytest.raises(InputError, match=r"collect.json: damaged or half-written, .*; restore it, or choose"):
            ask()
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_settings_of_a_killed_first_try_bind_nobody(tmp_path, capsys):
    (tmp_path / COLLECTED).write_text(json.dumps({**SETTINGS, "seed": 5}))
    assert finish(tmp_path) == ALL
    assert json.loads((tmp_path / COLLECTED).read_text()) == SETTINGS
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("with_manifest", [False, True])
def test_what_was_not_collected_here_is_left_alone(tmp_path, with_manifest):
    (tmp_path / "w").mkdir()
    (tmp_path / "f").write_text("x")
    imported(tmp_path / "w")
    if with_manifest:  # as before shards had names
        (tmp_path / "w" / COLLECTED).write_text(json.dumps(SETTINGS))
    for ask in (work(tmp_path / "w").done, lambda: finish(tmp_path / "w")):
        with pytest.raises(InputError, match="is not empty and was not collected here"):
            ask()
    with pytest.raises(InputError, match="f: is a file; give a folder"):
        work(tmp_path / "f").done()
    with pytest.raises(InputError, match="there are no prompts"):
        work(tmp_path / "x", []).done()
    assert names(tmp_path / "w") == [*[COLLECTED] * with_manifest, "episodes-00000.parquet"]


def test_delimiters_of_a_manifest(tmp_path):
    assert collected_delimiters(tmp_path) is None
    for told, expected in ((["\n", "."], ("\n", ".")), ([], ()), ("x", None), ([1], None), (None, None)):
        (tmp_path / COLLECTED).write_text(json.dumps({"seed": 1, "step_delimiters": told}))
        if expected is None:
            with pytest.raises(InputError, match=r"collect\.json: has no step delimiters"):
                collected_delimiters(tmp_path)
        else:
            assert collected_delimiters(tmp_path) == expected


# ---- collect -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("policy"), Arithmetic().tokenizer()
    policy_from_scratch(tokenizer, ModelSize(16, 32, 1, 2), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("bad", [{"model": "no/such"}, {"temperature": -1.0}, {"top_p": 0.0}])
def test_collect_whose_first_try_fails_goes_on_with_other_settings(policy, tmp_path, bad):
    good = {"task": "arithmetic", "model": policy, "output_dir": str(tmp_path / "e"), "limit": 2, "num_generations": 2}
    with pytest.raises(InputError):
        collect(CollectConfig(**{**good, **bad}))
    assert not list(tmp_path.iterdir())
    assert collect(CollectConfig(**good))["responses"] == 4
