"""What a stage will run on, found without importing torch."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Literal

from gptcore.config import Runtime

Device = Literal["cpu", "cuda"]


def resolve_device(runtime: Runtime) -> Device:
    """`runtime.device`, with auto resolved: cuda where a driver's device node stands and torch is no CPU build."""
    if runtime.device != "auto":
        return runtime.device
    torch_has_cuda = not importlib.metadata.version("torch").endswith("+cpu")
    return "cuda" if torch_has_cuda and Path("/dev/nvidia0").exists() else "cpu"


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto` by a static table: bfloat16 on a GPU, float32 on a CPU (which may have no bf16 units)."""
    return dtype if dtype != "auto" else {"cpu": "float32", "cuda": "bfloat16"}[device]
