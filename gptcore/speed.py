"""How fast a machine computes, by static tables: nothing is timed, torch is not imported."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gptcore.config import Runtime
from gptcore.hardware import Device, resolve_device

PEAK_BFLOAT16 = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 836e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165e12,
}
"""Dense bfloat16 operations a second with float32 sums (the vendor's data sheets), by a part of the device's name."""
GPU_SHARE = 0.35
"""Of that peak, what training reaches at GPT-2's width of 768 and above; below, less in proportion. Guessed."""
CORE_FLOPS = 67e9
"""Float32 operations a second of a core with 256-bit vectors in large matrix products: 134 GFLOP/s on two."""
CPU_SHARE = 0.5
"""Of that, what training reaches: 0.44 in `quickstart` (benchmarks/RESULTS.md), more where layers are wide."""


@dataclass(frozen=True)
class Machine:
    """What training will run on."""

    device: Device
    name: str | None
    """The GPU's name; None for a CPU, and where the driver does not say."""
    cores: int
    memory_bytes: int | None
    """Of the GPU that has least, or RAM; None where the driver does not say."""

    def flops(self, dtype: str, n_embd: int, threads: int | None = None) -> float | None:
        """Operations a second that training reaches, estimated; None where the tables do not know the device."""
        if self.device == "cpu":
            # bfloat16 without units for it is slower than any table says; dtype auto is float32 here.
            return CPU_SHARE * CORE_FLOPS * (threads or self.cores)
        peak = peak_bfloat16(self.name) if self.name and dtype == "bfloat16" else None
        return GPU_SHARE * min(1.0, n_embd / 768) * peak if peak else None


def peak_bfloat16(name: str) -> float | None:
    """The table's entry that fits a GPU's name best."""
    known = [part for part in PEAK_BFLOAT16 if part in name]
    return PEAK_BFLOAT16[max(known, key=len)] if known else None


def this_machine(runtime: Runtime) -> Machine:
    """The machine at hand; of several GPUs the first one's name and the least memory."""
    device, cores = resolve_device(runtime), os.cpu_count() or 1
    if device == "cpu":
        return Machine(device, None, cores, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    name, memory = _gpus()
    return Machine(device, name, cores, memory)


def _gpus() -> tuple[str | None, int | None]:
    """The first one's name and the least memory, bytes, from the driver: torch would take a GPU's memory to say it."""
    import pynvml  # a GPU's machines only

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        least = min(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles)
        return str(pynvml.nvmlDeviceGetName(handles[0])), least
    except pynvml.NVMLError:  # asked for by name where there is none: training will say so
        return None, None
