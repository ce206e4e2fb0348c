"""Processes that train together, and machines, are killed for real; the run goes on as if nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from teams import STILL, assert_all_gone, processes_of, same_losses
from tiny_training import MODEL, history, inputs, pretrain_config, workspace

from gptcore.training.checkpoint_names import latest_step
from gptcore.training.launch import WorkerFailed
from gptcore.training.pretrain import pretrain
from gptcore.work import Interrupted

STEPS = 200
"""Of the runs that are killed: long enough to be hit while they train."""

pytestmark = pytest.mark.timeout(600)  # a launch imports torch three times, which takes long on a busy machine


def run_two(root: Path, name: str) -> None:
    """What the killed process does: launch two workers; like the command line, it ends with 128 + an interrupt."""
    work = workspace(root, name)
    try:
        with work.signals():
            pretrain(MODEL, pretrain_config(steps=STEPS, eval_every=40, devices=2), work)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)
    except WorkerFailed as failed:
        (root / name / "failed").write_text(str(failed))
        sys.exit(1)


def kill_launcher(process: BaseProcess, _: list[psutil.Process]) -> None:
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)


def kill_torchrun(_: BaseProcess, found: list[psutil.Process]) -> None:
    next(p for p in found if "gptcore.training.bound" in p.info["cmdline"]).kill()


def kill_worker(_: BaseProcess, found: list[psutil.Process]) -> None:
    random.choice([p for p in found if "gptcore.training.worker" in p.info["cmdline"][:5]]).kill()


def kill_all(process: BaseProcess, found: list[psutil.Process]) -> None:
    kill_launcher(process, found)
    for each in found:
        each.kill()


def interrupt(process: BaseProcess, _: list[psutil.Process]) -> None:
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)


How = Callable[[BaseProcess, list[psutil.Process]], None]
EXIT: dict[How, int] = {
    kill_launcher: -signal.SIGKILL,
    kill_torchrun: 1,
    kill_worker: 1,
    kill_all: -signal.SIGKILL,
    interrupt: 143,
}


class Kills:
    """Runs of `run_two` under one root, and one of them unbroken."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["gptcore.training.pretrain", "gptcore.training.launch", "pytest"])
        inputs(root)
        process = self.start("whole")
        self.wait_until_training("whole", process)
        began = time.monotonic()
        process.join()
        assert process.exitcode == 0
        self.trains_s = time.monotonic() - began

    def start(self, name: str) -> BaseProcess:
        process = self.processes.Process(target=run_two, args=(self.root, name))
        process.start()
        return process

    def wait_until_training(self, name: str, process: BaseProcess) -> None:
        """Until the run has logged something it had not before."""
        log = self.root / name / "metrics.jsonl"
        before = log.stat().st_mtime_ns if log.exists() else 0
        while process.is_alive() and not (log.exists() and log.stat().st_size and log.stat().st_mtime_ns > before):
            time.sleep(0.01)

    def break_off(self, name: str, how: How, after: float) -> bool:
        """Start the run and, so long after it trains, end it so; whether it was alive to be ended."""
        process = self.start(name)
        self.wait_until_training(name, process)
        process.join(after)
        found = processes_of(self.root)
        alive = process.is_alive() and sum("gptcore.training.worker" in p.info["cmdline"][:5] for p in found) == 2
        if alive:
            how(process, found)
        process.join()
        assert process.exitcode in ((EXIT[how], 0) if alive else (0,)), process.exitcode
        assert_all_gone(self.root)
        return alive and process.exitcode != 0

    def finish(self, name: str) -> None:
        """Run it to its end; it must equal the unbroken one."""
        process = self.start(name)
        process.join()
        assert process.exitcode == 0
        for file in ("model.safetensors", "config.json"):
            assert (self.root / name / file).read_bytes() == (self.root / "whole" / file).read_bytes()
        assert history(self.root / name) == history(self.root / "whole")
        assert [p.name for p in (self.root / name / "checkpoints").iterdir()] == [f"step-{STEPS:06d}"]


def test_a_team_goes_on_after_a_signal_and_after_kills(tmp_path: Path) -> None:
    kills, steps = Kills(tmp_path), []
    for how in (interrupt, kill_torchrun, kill_launcher):
        assert kills.break_off("broken", how, random.uniform(0.0, 0.25) * kills.trains_s)
        steps.append(latest_step(tmp_path / "broken/checkpoints"))
    assert "was killed" in (tmp_path / "broken/failed").read_text()
    assert steps[0] and steps == sorted(steps, key=lambda step: step or 0), steps
    kills.finish("broken")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_five_kills_leave_no_trace(tmp_path: Path) -> None:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    draw = random.Random(seed)
    kills, done, home = Kills(tmp_path), 0, 0
    while done < 25:
        home += 1
        for _ in range(5):
            how = draw.choice([kill_launcher, kill_torchrun, kill_worker, kill_all])
            done += kills.break_off(f"broken-{home}", how, draw.uniform(0.0, 0.3) * kills.trains_s)
        kills.finish(f"broken-{home}")
    print(f"{done} kills")


# Several machines, played by this one


def run_machine(root: Path, number: int, port: int, parallel: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    runtime = {"nodes": 2, "node_rank": number, "rendezvous": f"127.0.0.1:{port}"}
    work, devices = workspace(root / f"home-{number}", **runtime), 2 if parallel == "fsdp" else 1
    pretrain(STILL, pretrain_config(steps=50, eval_every=10, devices=devices, parallel=parallel), work)


@pytest.mark.soak
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_machines_learn_what_one_process_learns(tmp_path: Path, parallel: str) -> None:
    """Each in a home of its own; one is killed, and both go on from the newest checkpoint that both have."""
    one = workspace(tmp_path, "one")
    pretrain(STILL, pretrain_config(steps=50, eval_every=10), one)
    processes = multiprocessing.get_context("forkserver")
    for number in range(2):
        inputs(tmp_path / f"home-{number}")

    def start() -> list[BaseProcess]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        both = [processes.Process(target=run_machine, args=(tmp_path, n, port, parallel)) for n in range(2)]
        for process in both:
            process.start()
        return both

    both, homes = start(), [tmp_path / f"home-{number}/run" for number in range(2)]
    while latest_step(homes[1] / "checkpoints") is None and both[1].is_alive():
        time.sleep(0.01)
    both[1].kill()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [1, -signal.SIGKILL]
    assert_all_gone(tmp_path)
    both = start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    for home in homes:
        assert same_losses(home, one.directory)
    assert len({(home / "model.safetensors").read_bytes() for home in homes}) == 1
