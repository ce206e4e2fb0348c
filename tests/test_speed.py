"""Machines are rated by tables; the driver is asked for a GPU's name and memory, and may be absent."""

import os
import sys
from types import SimpleNamespace

import pytest

from gptcore.config import Runtime
from gptcore.speed import CORE_FLOPS, CPU_SHARE, Machine, peak_bfloat16, this_machine


class NVMLError(Exception):
    pass


def driver(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """NVML as it answers with, or without, a driver."""

    def start() -> None:
        if not there:
            raise NVMLError

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=start,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: f"NVIDIA H100 80GB HBM{handle + 3}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=(85_520_809_984, 42_000_000_000)[handle]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


def test_a_cpu_is_rated_by_its_cores() -> None:
    machine = this_machine(Runtime(device="cpu"))
    assert (machine.device, machine.name, machine.cores) == ("cpu", None, os.cpu_count())
    assert machine.memory_bytes
    assert machine.memory_bytes > 10**8
    assert machine.flops("float32", 128) == CPU_SHARE * CORE_FLOPS * machine.cores
    assert machine.flops("float32", 128, threads=3) == 3 * CPU_SHARE * CORE_FLOPS


def test_a_gpu_is_rated_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, there=True)
    machine = this_machine(Runtime(device="cuda"))
    assert (machine.name, machine.memory_bytes) == ("NVIDIA H100 80GB HBM3", 42_000_000_000), "the least of the two"
    wide, narrow = machine.flops("bfloat16", 768), machine.flops("bfloat16", 192)
    assert wide
    assert narrow == wide / 4
    assert machine.flops("bfloat16", 4096) == wide
    assert machine.flops("float32", 768) is None


def test_a_gpu_without_a_driver_is_not_rated(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, there=False)
    machine = this_machine(Runtime(device="cuda"))
    assert (machine.name, machine.memory_bytes) == (None, None)
    assert machine.flops("bfloat16", 768) is None


def test_the_longest_name_that_fits_is_taken() -> None:
    assert peak_bfloat16("NVIDIA H200 NVL") == 836e12
    assert peak_bfloat16("NVIDIA H200") == 989e12
    assert peak_bfloat16("NVIDIA Unheard-of") is None
    assert Machine("cuda", "NVIDIA Unheard-of", 8, None).flops("bfloat16", 768) is None
