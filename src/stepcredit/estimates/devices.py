"""Devices: memory and speed of GPUs from their data sheets, and this machine's CPU or GPU."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import psutil
import torch

from stepcredit.errors import InputError, quoted

UTILISATION = 0.35
"""Share of a GPU's peak that training reaches: assumed, the middle of what is published for dense models of this size
(30 to 50%)."""
BANDWIDTH_SHARE = 0.7
"""Share of a GPU's memory bandwidth that the optimizer reaches: assumed."""
CONTEXT = 0.6e9
"""Bytes that a process holds on a GPU before the first tensor: assumed."""


@dataclass(frozen=True)
class Device:
    """A device to train on.

    Attributes:
        name: its name.
        memory: bytes.
        single, half: dense operations a second in float32 and in half precision; 0: not known, to be measured.
        bandwidth: bytes a second; 0: to be measured.
        has_bf16: whether it computes in bf16.
        is_gpu: whether it is a GPU.
    """

    name: str
    memory: float
    single: float = 0.0
    half: float = 0.0
    bandwidth: float = 0.0
    has_bf16: bool = True
    is_gpu: bool = True

    @property
    def is_here(self) -> bool:
        """Whether it is this machine's, so that its speed is measured."""
        return not self.single


def _gpu(name: str, gigabytes: float, single: float, half: float, bandwidth: float, has_bf16: bool = True) -> Device:
    return Device(name, gigabytes * 1e9, single * 1e12, half * 1e12, bandwidth * 1e9, has_bf16)


GPUS = {
    gpu.name.lower(): gpu
    for gpu in (
        _gpu("T4", 16, 8.1, 65, 320, has_bf16=False),
        _gpu("V100", 32, 15.7, 125, 900, has_bf16=False),
        _gpu("RTX-3090", 24, 35.6, 71, 936),
        _gpu("RTX-4090", 24, 82.6, 165, 1008),
        _gpu("A10", 24, 31.2, 125, 600),
        _gpu("A10G", 24, 35, 70, 600),
        _gpu("L4", 24, 30.3, 121, 300),
        _gpu("L40S", 48, 91.6, 362, 864),
        _gpu("A100-40GB", 40, 19.5, 312, 1555),
        _gpu("A100-80GB", 80, 19.5, 312, 2039),
        _gpu("H100", 80, 67, 989, 3350),
        _gpu("H200", 141, 67, 989, 4800),
        _gpu("B200", 180, 75, 2250, 8000),
    )
}
"""Memory in GB, TFLOP/s in float32 (no TF32) and dense in fp16 or bf16 with float32 sums, GB/s: the vendor's data
sheets, SXM where there are several forms; the A10G's are those of its cloud provider."""


def device_of(name: str | None, threads: int) -> Device:
    """Returns a device by name: one of `GPUS`, cpu, or None for this machine's GPU, or CPU where there is none.

    Raises:
        InputError: the name is not known.
    """
    if name is None and torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        return Device(about.name, float(about.total_memory))
    if name is None or name.lower() == "cpu":
        words = f"this machine's CPU, {threads} thread{'s' * (threads > 1)}"
        return Device(words, float(psutil.virtual_memory().total), is_gpu=False)
    wanted = name.lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
    if wanted not in GPUS:
        near = [n for n in GPUS if wanted and n.startswith(wanted)] or difflib.get_close_matches(wanted, GPUS, 1)
        hint = f"; did you mean {GPUS[near[0]].name}?" if near else ""
        raise InputError(f"unknown device {quoted(name)}{hint}; choose from cpu, "
                         f"{', '.join(gpu.name for gpu in GPUS.values())}", "device")  # fmt: skip
    return GPUS[wanted]
