"""Two processes train as one does: losses, metrics and weights after some steps, in double precision."""

import functools
import os
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from process_cases import CASES, SAVED, SHARDED, outcome
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from doubles.processes import in_two_processes

HERE = Path(__file__).parent
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(the folder of the runs of two processes, what came out in each); made once for all workers of the suite."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "two"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            in_two_processes(HERE / "process_cases.py", folder)
            (folder / "done").touch()
    return folder, [torch.load(folder / f"found-{rank}.pt") for rank in range(2)]


def assert_same(found, expected):
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-10, atol=1e-12, msg=name)
    assert len(found["logs"]) == len(expected["logs"])
    for row, wanted in zip(found["logs"], expected["logs"]):
        single = {"loss", "train_loss"}  # transformers adds the losses of micro-batches in single precision
        assert row == {k: pytest.approx(v, rel=1e-6 if k in single else 1e-10, abs=1e-12) for k, v in wanted.items()}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What one process does in a case; each is run once."""
    return functools.cache(lambda case: outcome(case, tmp_path_factory.mktemp("one"), 1))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(case, two, one):
    for found in two[1]:
        assert_same(found[case], one(case))


def test_a_run_that_two_processes_resume(two):
    weights = two[1][0]["resumed"]["weights"]
    assert all(torch.equal(p, weights[name]) for name, p in two[1][0][SAVED]["weights"].items())


def test_one_process_goes_on_where_two_stopped(two, tmp_path):
    folder, (found, _) = two
    assert_same(found["resumed"], outcome(SAVED, tmp_path, 1, str(folder / SAVED / "checkpoint-2")))


@pytest.mark.parametrize("case", SHARDED)
def test_fsdp2_does_what_one_process_does(case, two, one):
    assert_same(two[1][0]["sharded", case], one(case))


def test_a_run_with_fsdp2_that_is_resumed(two):
    weights = two[1][0]["sharded, resumed"]["weights"]
    assert all(torch.equal(p, weights[name]) for name, p in two[1][0]["sharded", SAVED]["weights"].items())


@pytest.mark.parametrize("case", SHARDED)
def test_fsdp2_leaves_a_part_of_each_weight_in_each_process(case, two, one):
    first, second = (found["sharded", case]["shards"] for found in two[1])
    assert set(one(case)["weights"]) <= set(first) == set(second)
    for name, (whole, part) in first.items():
        other = second[name][1]
        assert part[0] + other[0] == whole[0], name
        assert part[1:] == other[1:] == whole[1:], name
    assert sum(part != whole for whole, part in first.values()) > 0.9 * len(first)


@pytest.mark.parametrize("case", SHARDED)
def test_a_sharded_model_is_saved_plainly(case, two, one):
    folder = two[0] / "sharded" / case
    weights = one(case)["weights"]
    found = {"policy": AutoModelForCausalLM.from_pretrained(folder / "policy").double()}
    if (folder / "value").exists():
        found["value"] = AutoModelForTokenClassification.from_pretrained(folder / "value").double()
    assert ("value" in found) == any(name.startswith("value.") for name in weights)
    for part, model in found.items():
        saved = dict(model.named_parameters())
        for name, expected in weights.items():
            name = name.removeprefix(f"{part}.")
            if name in saved:
                torch.testing.assert_close(saved[name], expected, rtol=1e-6, atol=1e-9, msg=name)
