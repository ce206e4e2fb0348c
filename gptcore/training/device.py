"""Where training runs: the device, its arithmetic, and how fast it could be at best."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from gptcore.config import Runtime
from gptcore.hardware import resolve_device, resolve_dtype, usable_threads
from gptcore.speed import peak_bfloat16


def choose_device(runtime: Runtime) -> torch.device:
    """The device meant by `runtime.device`; ValueError when a GPU is asked for and torch can use none."""
    device = resolve_device(runtime)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"runtime.device is {runtime.device}, but torch can use no GPU here; set it to cpu")
    return torch.device(device)


def cpu_threads(runtime: Runtime, processes: int = 1) -> int:
    """Threads of each process: `runtime.threads`, or the cores shared out, of which OMP_NUM_THREADS may allow fewer.

    More in all than there are cores would slow each other down five- to tenfold.
    """
    return runtime.threads or max(1, usable_threads(runtime) // processes)


@contextmanager
def arithmetic(runtime: Runtime) -> Iterator[torch.device]:
    """Inside, torch computes with `runtime.threads` threads and the same bits every time; yields the device."""
    device = choose_device(runtime)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # cuBLAS reads this when it starts; without it deterministic mode refuses matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(cpu_threads(runtime))
    torch.use_deterministic_algorithms(True)
    # We read no uninitialised memory; filling it costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield device
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


def torch_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The type meant by `auto`, float32 or bfloat16."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[resolve_dtype(dtype, device.type)]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Forward passes inside use the type; weights stay in float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Operations a second at best, or None where the table does not know the device."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    return peak_bfloat16(torch.cuda.get_device_name(device))
