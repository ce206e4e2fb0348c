"""What a stage will run on, found without importing torch."""

from __future__ import annotations

import importlib.metadata
import os
import re
from functools import cache
from pathlib import Path
from typing import Literal

from gptcore.config import Runtime

Device = Literal["cpu", "cuda"]


@cache
def library_version(distribution: str) -> str:
    """An installed distribution's version. importlib.metadata.version would parse the whole METADATA as an e-mail."""
    metadata = importlib.metadata.distribution(distribution).read_text("METADATA")
    found = re.search(r"^Version: (\S+)$", metadata or "", re.MULTILINE)
    if found is None:
        raise importlib.metadata.PackageNotFoundError(distribution)
    return found[1]


def resolve_device(runtime: Runtime) -> Device:
    """`runtime.device`, with auto resolved: cuda where a driver's device node stands and torch is no CPU build."""
    if runtime.device != "auto":
        return runtime.device
    torch_has_cuda = not library_version("torch").endswith("+cpu")
    return "cuda" if torch_has_cuda and Path("/dev/nvidia0").exists() else "cpu"


def usable_threads(runtime: Runtime) -> int:
    """CPU threads of all processes of a stage: `runtime.threads`, else OMP_NUM_THREADS, else one a core."""
    return runtime.threads or int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


@cache
def processor() -> str:
    """The CPU's name, as Linux says it; the architecture where it says none."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else os.uname().machine


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto` by a static table: bfloat16 on a GPU, float32 on a CPU (which may have no bf16 units)."""
    return dtype if dtype != "auto" else {"cpu": "float32", "cuda": "bfloat16"}[device]
