"""Rounds of iterative training on a tiny task: what goes into a round, early stop, manifests, resuming."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doubles.parity import Parity, guessing_policy
from scripts import loaded
from stepcredit.cli import main
from stepcredit.episodes.store import load_episodes
from stepcredit.errors import InputError
from stepcredit.experiments.iteration import iterate as iterating
from stepcredit.experiments.iteration import rounds as rounds_module
from stepcredit.experiments.iteration.iterate import IterateConfig, iterate, verify
from stepcredit.experiments.iteration.manifest import changed_files
from stepcredit.experiments.iteration.rounds import Round, gain_of, seeds_of
from stepcredit.hashes import folder_hashes
from stepcredit.verdict import Verdict

TASK = f"{Path(__file__).parents[1] / 'doubles' / 'parity.py'}:Parity"
TRAIN = {"max_steps": 3, "per_device_train_batch_size": 16, "use_cpu": True, "report_to": "none", "warmup_steps": 0,
         "save_strategy": "steps", "save_steps": 1, "learning_rate": 5e-3, "value_warmup_steps": 0}  # fmt: skip
SETTINGS = {"oreo": TRAIN, "rft": {k: v for k, v in TRAIN.items() if k != "value_warmup_steps"}}
TINY = {"task": TASK, "rounds": 2, "limit": 12, "num_generations": 4, "validation_prompts": 12, "test_prompts": 10,
        "settings": json.dumps(SETTINGS)}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return str(guessing_policy(tmp_path_factory.mktemp("start")))


def config(start, out, **changes):
    return IterateConfig(**{**TINY, "model": start, "method": "oreo", "output_dir": str(out), **changes})


def made(out):
    """What a run leaves: manifests without their times, weights, results."""
    manifests = [json.loads(p.read_text()) for p in sorted(out.glob("round*/manifest.json"))]
    weights = {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("round*/train/*/model.safetensors"))}
    rows = [{k: v for k, v in row.items() if k != "value"} for row in json.loads((out / "results.json").read_text())]
    return [{k: v for k, v in m.items() if k != "seconds"} for m in manifests], weights, rows


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Two undisturbed rounds of OREO."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert iterate(config(start, out)) == {"rounds": 2}
    return out


def test_a_split_for_validation_alone_may_be_the_test(start, tmp_path):
    given = {"validation_split": "test", "validation_prompts": 5, "test_prompts": 0, "dry_run": True}
    assert iterate(config(start, tmp_path / "out", **given))["problems of test"] == 5


def test_a_start_on_the_hub_that_was_not_downloaded_yet(start, tmp_path, monkeypatch):
    """Its files are unknown at the first call, and another program may add some later."""
    whole = iterating.model_files
    out, found = tmp_path / "out", [{}, {"config.json": "a"}, {"config.json": "b"}]
    monkeypatch.setattr(iterating, "model_files", lambda model, folder: {**whole(model, folder), "files": found[0]})
    rounds = iterating._rounds(config(start, out), config(start, out).load_task())
    out.mkdir()
    iterating._check_begun(rounds)
    for _ in range(2):
        found.pop(0)
        if len(found) == 2:
            iterating._check_begun(rounds)
    with pytest.raises(InputError, match="was begun with another content of"):
        iterating._check_begun(rounds)


def test_new_files_of_a_hub_snapshot_are_no_change(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    described = {"path": str(tmp_path), "hub": "commit", "files": folder_hashes(tmp_path)}
    manifest = {"inputs": {"policy": described}, "outputs": {}}
    (tmp_path / "README.md").write_text("of another program")
    assert list(changed_files(manifest, tmp_path / "out")) == []
    local = {"inputs": {"policy": {k: v for k, v in described.items() if k != "hub"}}, "outputs": {}}
    assert [line.rpartition("/")[2] for line in changed_files(local, tmp_path / "out")] == ["README.md is new"]
    (tmp_path / "config.json").write_text("{ }")
    assert [line.rpartition("/")[2] for line in changed_files(manifest, tmp_path / "out")] == ["config.json is changed"]


def test_a_round_of_balanced_episodes(start, tmp_path):
    given = {"rounds": 1, "num_generations": 8, "balanced": 1, "test_prompts": 0}
    iterate(config(start, tmp_path / "out", **given))
    outcomes: dict[str, list[bool]] = {}
    for episode in load_episodes(tmp_path / "out" / "round1" / "episodes"):
        outcomes.setdefault(episode.prompt_id, []).append(episode.verdict is Verdict.RIGHT)
    assert len(outcomes) == 12
    assert all(sorted(found) in ([False], [True], [False, True]) for found in outcomes.values())
    assert [False, True] in map(sorted, outcomes.values())


def test_two_rounds_end_to_end(whole, start, monkeypatch):
    zero, one, two = made(whole)[0]
    assert [m["round"] for m in (zero, one, two)] == [0, 1, 2]
    assert two["inputs"]["policy"] == two["inputs"]["reference"] == one["outputs"]["policy"]
    assert zero["inputs"]["policy"] == one["inputs"]["policy"]
    assert one["outputs"]["policy"]["files"] != two["outputs"]["policy"]["files"]
    assert two["inputs"]["value_model"] is None
    assert two["inputs"]["episodes"] == [two["outputs"]["episodes"]]
    assert one["counts"]["collect"]["responses"] == one["counts"]["train"]["episodes"] == 48
    prompts = [{e.prompt_id for e in load_episodes(whole / f"round{k}" / "episodes")} for k in (1, 2)]
    assert prompts[0] != prompts[1]
    assert prompts[0] == {p.prompt_id for p in Parity().problems("train", 12, one["seeds"]["collect"])}
    assert len({one["seeds"]["collect"], one["seeds"]["train"], two["seeds"]["collect"], two["seeds"]["train"]}) == 4
    rows = json.loads((whole / "results.json").read_text())
    assert [(r["round"], r["split"], r["n"]) for r in rows] == [
        (k, split, n) for k in range(3) for split, n in (("validation", 12), ("test", 10))
    ]
    assert [r["policy"] for r in rows[::2]] == [start, "round1/train/policy", "round2/train/policy"]
    asked = [{e.prompt_id for f in whole.glob(f"round{k}/evaluation/*/responses/*/") for e in load_episodes(f)}
             for k in range(3)]  # fmt: skip
    assert asked[0] == asked[1] == asked[2]
    assert 'id="rounds"' in (whole / "report.html").read_text()
    assert not list(whole.rglob("checkpoint-*"))
    assert not list(whole.rglob("stages.json"))

    def never(*given):
        raise AssertionError("a finished round was made again")

    before = (whole / "results.json").read_bytes()
    for stage in ("collect", "train", "evaluate"):
        monkeypatch.setattr(rounds_module, stage, never)
    assert iterate(config(start, whole)) == {"rounds": 2}
    assert (whole / "results.json").read_bytes() == before


def test_rft_needs_no_reference_and_no_value_model(start, tmp_path):
    out = tmp_path / "out"
    assert iterate(config(start, out, method="rft", searches=["greedy", "sample"])) == {"rounds": 2}
    manifests = made(out)[0]
    assert [m["inputs"]["reference"] for m in manifests] == [None, None, None]
    assert "value_model" not in manifests[1]["outputs"]
    assert {(a["split"], a["search"]) for a in manifests[2]["accuracy"]} == set(
        itertools.product(("validation", "test"), ("greedy", "sample"))
    )
    assert len(json.loads((out / "results.json").read_text())) == 12


@pytest.mark.parametrize("method", ["oreo", "rft"])
@pytest.mark.parametrize(
    ("reference", "value_init", "train_on"),
    list(itertools.product(["moving", "fixed"], ["fresh", "carried"], ["round", "accumulated"])),
)
def test_what_goes_into_a_round(method, reference, value_init, train_on, start, tmp_path):
    out = tmp_path / "out"
    given = config(start, out, method=method, rounds=3, reference=reference, value_init=value_init, train_on=train_on)
    has_both = method == "oreo"
    for k, r in enumerate(iterating._rounds(given, Parity())):
        if k == 0:
            assert list(r.stages()) == ["evaluate"]
            continue
        trained, args = r.training()
        before = start if k == 1 else str(out / f"round{k - 1}" / "train" / "policy")
        assert trained.model == before
        assert trained.ref_model == (start if has_both and reference == "fixed" else None)
        assert r.reference == ((start if reference == "fixed" else before) if has_both else None)
        carried = str(out / f"round{k - 1}" / "train" / "value")
        assert trained.value_model == (carried if has_both and value_init == "carried" and k > 1 else None)
        first = 1 if train_on == "accumulated" else k
        assert trained.episodes == [str(out / f"round{j}" / "episodes") for j in range(first, k + 1)]
        assert (args.seed, args.data_seed, args.learning_rate) == (*[seeds_of(0, k)["train"]] * 2, 5e-3)
    assert not out.exists()


def test_fixed_carried_and_accumulated_are_in_the_manifest(start, tmp_path):
    out = tmp_path / "out"
    iterate(config(start, out, reference="fixed", value_init="carried", train_on="accumulated"))
    zero, one, two = made(out)[0]
    assert two["inputs"]["reference"] == one["inputs"]["reference"] == zero["inputs"]["policy"]
    assert two["inputs"]["value_model"] == one["outputs"]["value_model"]
    assert two["inputs"]["episodes"] == [one["outputs"]["episodes"], two["outputs"]["episodes"]]
    assert two["counts"]["train"]["episodes"] == 96


def test_gain_by_hand():
    found = gain_of({"a": 1.0, "b": 0.5, "c": 0.0}, {"a": 0.0, "b": 0.5, "c": 0.0}, 2)
    assert (found["against_round"], found["difference"], found["helped"]) == (2, 0.333333, True)
    assert found["low"] <= found["difference"] <= found["high"]
    assert gain_of({"a": 1.0}, {"a": 1.0}, 0)["helped"] is False


@pytest.mark.parametrize("patience", [1, 2])
def test_it_stops_where_rounds_do_not_help(patience, start, tmp_path):
    """With a learning rate of 0 no round does."""
    out, settings = tmp_path / "out", json.dumps({"rft": {**SETTINGS["rft"], "learning_rate": 0.0}})
    counts = iterate(config(start, out, method="rft", rounds=4, patience=patience, settings=settings))
    rounds = "a round" if patience == 1 else "2 rounds"
    assert counts == {
        "rounds": patience,
        "stopped": f"after round {patience}, {rounds} without a validation accuracy above that of round 0 "
        "(+0.0 points, 95% interval +0.0 to +0.0)",
    }
    run = json.loads((out / "run.json").read_text())
    assert (run["stopped"], run["best_round"]) == (counts["stopped"], 0)
    assert not (out / f"round{patience + 1}").exists()
    assert json.loads((out / "round1" / "manifest.json").read_text())["gain"]["helped"] is False


def test_a_better_round_sets_the_mark_anew(start, tmp_path, monkeypatch):
    """Validation of rounds 0 to 4: 2, 1, 3, 3, 2 of 4."""
    right = [2, 1, 3, 3, 2]
    monkeypatch.setattr(Round, "run", lambda self, stage: self.folder.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(Round, "validation", lambda self: {str(k): float(k < right[self.number]) for k in range(4)})
    monkeypatch.setattr(Round, "rows", lambda self: [])
    monkeypatch.setattr(Round, "curve", lambda self: [])
    gains = {}
    monkeypatch.setattr(Round, "write_manifest", lambda self, gain: gains.update({self.number: gain}))
    iterate(config(start, tmp_path / "out", rounds=6, patience=2))
    assert [None if g is None else (g["against_round"], g["helped"]) for g in gains.values()] == [
        None, (0, False), (0, True), (2, False), (2, False),
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "run.json").read_text())["best_round"] == 2


PLACES = {
    "a policy": "round1/train/policy/model.safetensors",
    "a config": "round2/train/policy/config.json",
    "a value model": "round2/train/value/model.safetensors",
    "episodes": "round1/episodes/episodes-00000.parquet",
    "responses": "round0/evaluation/test-greedy/responses/oreo-test-greedy-seed0-greedy1/episodes-00000.parquet",
}


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_changed_byte_is_found(place, copy, start):
    assert verify(copy) == {"rounds": 2, "changed files": 0}
    path = copy / place
    content = bytearray(path.read_bytes())
    at = content.index(b"transformers_version") if path.suffix == ".json" else len(content) // 2
    content[at] ^= 1
    path.write_bytes(bytes(content))
    name = "0-" if path.suffix == ".parquet" else path.name
    with pytest.raises(InputError, match=rf"{path.parent.name}/{name}.* is changed"):
        verify(copy)
    with pytest.raises(InputError, match=r"is changed since round \d was made; restore it"):
        iterate(config(start, copy, rounds=3))
    assert not (copy / "round3").exists()


def test_missing_and_new_files_are_found(copy, capsys, start):
    (copy / "round1" / "train" / "value" / "model.safetensors").unlink()
    (copy / "round2" / "train" / "policy" / "adapter_config.json").write_text("{}")
    flags = ["--task", TASK, "--model", start, "--method", "oreo", "--output_dir", str(copy), "--verify"]
    assert main(["iterate", *flags]) == 2
    said = capsys.readouterr().err
    assert "value/model.safetensors is missing; " in said
    assert "policy/adapter_config.json is new" in said


def test_a_round_made_anew_is_the_same(copy, whole, start):
    shutil.rmtree(copy / "round2")
    assert iterate(config(start, copy)) == {"rounds": 2}
    assert made(copy) == made(whole)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", [pytest.param("before", marks=pytest.mark.long), "after"])
def test_stopped_at_every_stage_it_ends_the_same(where, start, whole, tmp_path, monkeypatch):
    """Stopped before, or after, what a stage records, and before each manifest; each time it goes on."""
    out, reached = tmp_path / "out", set()
    run, write_manifest = Round.run, Round.write_manifest

    def once(name):
        if name not in reached:
            reached.add(name)
            raise Killed

    def stopped_run(self, stage):
        if where == "before":
            self.stages()[stage]()  # the work is done, and nothing of it recorded
        else:
            run(self, stage)
        once((self.number, stage))
        if where == "before":
            run(self, stage)

    def stopped_manifest(self, gain):
        once((self.number, "manifest"))
        write_manifest(self, gain)

    monkeypatch.setattr(Round, "run", stopped_run)
    monkeypatch.setattr(Round, "write_manifest", stopped_manifest)
    attempts = 0
    while attempts <= 10:
        try:
            assert iterate(config(start, out)) == {"rounds": 2}
            break
        except Killed:
            attempts += 1
    assert attempts == len(reached) == 7 + 3
    assert made(out) == made(whole)


@pytest.mark.long
def test_only_the_last_and_the_best_models_are_kept(start, tmp_path):
    out = tmp_path / "out"
    settings = json.dumps({"rft": {**SETTINGS["rft"], "learning_rate": 0.0}})
    given = {"method": "rft", "settings": settings, "keep_models": "last"}
    iterate(config(start, out, **given))
    assert [p.parents[2].name for p in sorted(out.rglob("model.safetensors"))] == ["round2"]
    assert verify(out) == {"rounds": 2, "changed files": 0}
    iterate(config(start, out, **{**given, "rounds": 3}))
    assert [p.parents[2].name for p in sorted(out.rglob("model.safetensors"))] == ["round3"]
    (out / "round3" / "train" / "policy" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json is changed"):
        verify(out)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": '{"oreo": {"bta": 1}}'}, "settings of oreo: unknown setting 'bta'; did you mean beta?"),
        ({"settings": '{"oreo": {"episodes": ["x"]}}'}, "settings of oreo: episodes is set by the experiment itself"),
        ({"settings": '{"all": {"ref_model": "x"}}'}, "settings of all: ref_model is set by the experiment itself"),
        ({"settings": '{"oreo": {"lora_r": 0}}'}, "settings of oreo: lora_r: 0 must be 1 or more"),
        ({"settings": '{"ppo": {}}'}, "settings: unknown setting 'ppo'"),
        ({"settings": '{"oreo": {"shared_trunk": true}}', "value_init": "carried"}, "value_init: a value model on"),
        ({"patience": 1, "validation_prompts": 0}, "patience: needs validation"),
        ({"validation_split": "test"}, "validation_split: test is the split for the test"),
        ({"test_split": "train"}, "split: 10 problems of train are prompts of train too; choose another --split"),
        ({"searches": ["beam"]}, "searches: 'beam' is none of greedy, sample"),
        ({"model": "nowhere"}, "nowhere"),
        ({"validation_split": "dev"}, "split: no split 'dev'"),
    ],
)
def test_settings_that_make_no_sense(changes, says, start, tmp_path):
    with pytest.raises(InputError) as found:
        iterate(config(start, tmp_path / "out", **changes))
    assert says in str(found.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_belongs_to_one_iteration(whole, start, tmp_path, capsys):
    with pytest.raises(InputError, match="was begun with another temperature; choose another --output_dir"):
        iterate(config(start, whole, temperature=0.5))
    other = shutil.copytree(start, tmp_path / "other")
    with pytest.raises(InputError, match="was begun with another model"):
        iterate(config(str(other), whole))
    flags = ["--task", TASK, "--model", start, "--method", "oreo", "--limit", "12", "--num_generations", "4"]
    flags += ["--validation_prompts", "12", "--test_prompts", "10", "--settings", TINY["settings"], "--dry_run"]
    assert main(["iterate", *flags, "--output_dir", str(whole)]) == 0
    assert "rounds: 3, finished: 2, responses per round: 48" in (said := capsys.readouterr().out)
    assert "stages left: 3, next: collect of round 3" in said
    assert main(["iterate", *flags, "--output_dir", str(tmp_path / "new")]) == 0
    assert "stages left: 10, next: evaluate of round 0" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_killed_at_ten_moments_it_ends_in_the_same_weights_and_manifests(start, tmp_path):
    """SIGKILL at random moments after the folder is locked; at each it goes on from where it was."""
    settings = json.dumps({"oreo": {**TRAIN, "max_steps": 12, "per_device_train_batch_size": 8}})
    flags = ["--task", TASK, "--model", start, "--method", "oreo", "--settings", settings, "--limit", "100",
             "--num_generations", "8", "--validation_prompts", "40", "--test_prompts", "40"]  # fmt: skip
    command = [sys.executable, "-m", "stepcredit.cli", "iterate", *flags, "--output_dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def begin(out):
        process = subprocess.Popen([*command, str(out)], env=environment, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        while not (out / ".lock.json").exists() and process.poll() is None:
            time.sleep(0.01)
        return process

    def ended(process, within):
        """Whether it ends by itself; otherwise it is killed."""
        try:
            assert process.wait(within) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return False
        return True

    whole, moments = tmp_path / "whole", random.Random(0)
    process, started = begin(whole), time.monotonic()
    assert ended(process, 300)
    seconds = time.monotonic() - started
    kills = folders = 0
    while kills < 10:
        out, folders = tmp_path / f"broken{folders}", folders + 1
        while not ended(begin(out), moments.uniform(0, seconds / 3) if kills < 10 else 300):
            (out / ".lock.json").unlink(missing_ok=True)  # of the dead process, whose lock is released
            kills += 1
        assert made(out) == made(whole)
    assert verify(whole) == {"rounds": 3, "changed files": 0}


def test_the_results_of_several_iterations_are_gathered_without_their_paths(whole, tmp_path):
    for name in ("oreo", "rft"):
        shutil.copytree(whole, tmp_path / "parity" / f"{name}-seed0")
        for file in ("results.json", "run.json"):
            path = tmp_path / "parity" / f"{name}-seed0" / file
            path.write_text(path.read_text().replace('"method": "oreo"', f'"method": "{name}"'))
    with loaded("rounds/gather.py") as script:
        script.gather(tmp_path / "parity", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(r["method"], r["round"], r["policy"]) for r in rows if r["split"] == "test"] == [
        (name, k, f"round{k}/train/policy" if k else "start") for name in ("oreo", "rft") for k in range(3)
    ]
    (pair,) = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert (pair["method_a"], pair["method_b"], pair["n"], pair["difference"]) == ("oreo", "rft", 10, 0.0)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["task"], list(run["settings"]), list(run["methods"])) == ("parity", ["oreo", "rft"], ["oreo", "rft"])
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "out").glob("*"))
    stages = json.loads((tmp_path / "out" / "timings.json").read_text())
    seconds = [json.loads(p.read_text())["seconds"]["train"] for p in whole.glob("round[12]/manifest.json")]
    assert {s["phase"]: s["seconds"] for s in stages}["train"] == pytest.approx(2 * sum(seconds), abs=0.11)
