"""DeepSpeed's ZeRO-2 in two processes on CPUs trains as one process does: the same weights, bit for bit.

DeepSpeed compiles an operator when it is first used: minutes.
"""

from pathlib import Path

import pytest
import torch
from deepspeed_cases import CASES, SAVED, SINGLE
from process_cases import outcome

from doubles.processes import in_two_processes
from stepcredit import InputError, OREOConfig

pytest.importorskip("deepspeed", reason="needs deepspeed: pip install deepspeed")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    script = Path(__file__).parent / "deepspeed_cases.py"
    in_two_processes(script, folder, seconds=1800, DS_ACCELERATOR="cpu", LOCAL_WORLD_SIZE="2")
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_zero2_does_what_one_process_does(case, two, tmp_path):
    expected = outcome(case, tmp_path, 1, None, SINGLE)
    for found in two:
        assert found[case]["weights"].keys() == expected["weights"].keys()
        for name, weight in expected["weights"].items():
            assert torch.equal(found[case]["weights"][name], weight), name


def test_a_run_with_zero2_that_is_resumed(two):
    weights = two[0]["resumed"]["weights"]
    assert all(torch.equal(p, weights[name]) for name, p in two[0][SAVED]["weights"].items())


def test_zero3_is_refused_before_a_model_is_loaded(tmp_path):
    with pytest.raises(InputError, match=r"^zero_stage: 3 shards weights"):
        OREOConfig(output_dir=str(tmp_path), report_to="none", deepspeed={"zero_optimization": {"stage": 3}})
