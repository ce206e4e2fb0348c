"""Processes that end with the one that started them, even when that one is killed.

As a program: `python -m gptcore.training.bound PARENT ARGUMENT ...` is torchrun with these arguments, bound to the
process PARENT. torchrun's workers stand in sessions of their own, out of reach of a signal to the group.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Be killed when `parent`, which must have started this process, ends; at once, if it already has."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.argv[1:2] = []
    runpy.run_module("torch.distributed.run", run_name="__main__")
