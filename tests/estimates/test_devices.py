"""Devices by name."""

import psutil
import pytest

from stepcredit.errors import InputError
from stepcredit.estimates.devices import GPUS, device_of


@pytest.mark.parametrize("name", ["H100", "h100", "NVIDIA H100", "nvidia-h100"])
def test_a_gpu_by_any_spelling(name):
    device = device_of(name, 2)
    assert (device.memory, device.half, device.is_gpu, device.is_here) == (80e9, 989e12, True, False)


def test_this_machine():
    device = device_of("cpu", 2)
    assert device.memory == psutil.virtual_memory().total
    assert device.name == "this machine's CPU, 2 threads"
    assert device.is_here
    assert not device.is_gpu


@pytest.mark.parametrize(
    ("name", "says"), [("H1000", "did you mean H100?"), ("A100", "did you mean A100"), ("TPU", "choose from cpu, T4")]
)
def test_another_name(name, says):
    with pytest.raises(InputError, match="unknown device") as error:
        device_of(name, 2)
    assert says in str(error.value)


def test_every_gpu_is_faster_in_half_precision():
    assert all(gpu.half > gpu.single > 1e12 for gpu in GPUS.values())
