"""Teams of processes in tests: runs of one and of several, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_training import MODEL, history, pretrain_config, workspace

from gptcore.training.pretrain import pretrain
from gptcore.work import Interrupted

STILL = MODEL.model_copy(update={"dropout": 0.0})
"""Without dropout, whose masks differ from process to process."""
WITHIN_S = 20.0
"""In which processes whose launcher is gone must be gone too, on a busy machine."""
KINDS = {"gpt2": "adamw", "modern": "muon"}
"""Families by the optimizer that they are tried with."""
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "grouped": ({"family": "modern", "n_head": 4, "n_kv_head": 2}, "muon"),
    "squared": ({"family": "modern", "activation": "relu_squared"}, "muon"),
    "gpt1": ({"family": "gpt1"}, "adamw"),
    "gpt3": ({"family": "gpt3", "window": 8}, "adamw"),
}
"""More shapes, with an optimizer each. A band of 8 in a context of 32 is computed in chunks."""
BROKEN_AT = 23


def losses(directory: Path) -> dict[tuple[int, str], float]:
    return {(step, key): value for step, key, value in history(directory) if key.endswith("loss")}


def processes_of(root: Path) -> list[psutil.Process]:
    """Those whose command line names a path below `root`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(root) in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def assert_all_gone(root: Path) -> None:
    until = time.monotonic() + WITHIN_S
    while (left := processes_of(root)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def settings(kind: str) -> dict[str, Any]:
    """Of a family in KINDS, or of a shape in OTHERS."""
    model, optimizer = OTHERS[kind] if kind in OTHERS else ({"family": kind}, KINDS[kind])
    return {
        "model": model,
        "config": {"steps": 50, "eval_every": 10, "eval_tokens": 128, "optimizer": optimizer},
    }


def alone(root: Path, name: str, kind: str, stop_at: int | None = None) -> None:
    """The same in one process, to the end or to a step."""
    work, given = workspace(root, name), settings(kind)

    def stop(done: float, *_: object, **__: object) -> None:
        if stop_at is not None and done >= stop_at:
            work._pending = signal.SIGTERM

    work.on_progress = stop
    with pytest.raises(Interrupted) if stop_at else nullcontext():
        pretrain(STILL.model_copy(update=given["model"]), pretrain_config(**given["config"]), work)


def run_by_two(root: Path, cases: list[dict[str, Any]], devices: int = 2) -> None:
    script, arguments = Path(__file__).with_name("team_process.py"), [str(root), json.dumps(cases)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    surroundings = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run([*torchrun, str(script), *arguments], capture_output=True, text=True, env=surroundings)
    assert done.returncode == 0, done.stderr


def same_losses(found: Path, expected: Path) -> bool:
    theirs = losses(expected)
    return len(theirs) == 10 and losses(found) == pytest.approx(theirs, abs=1e-5)
