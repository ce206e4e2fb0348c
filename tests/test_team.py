"""Several processes train what one trains: real ones, under torchrun, speaking gloo over loopback."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from test_finetune import SKILL, write_base
from test_finetune import config as finetune_config
from tiny_training import MODEL, close_workspaces, history, inputs, pretrain_config, workspace, write_tokens

from gptcore.config import EXECUTION_OF_TRAINING, Preset, Runtime, Training
from gptcore.model.gpt import IGNORED
from gptcore.presets import ConfigError, load_preset
from gptcore.stages import stages
from gptcore.training.batches import Batch
from gptcore.training.checkpoint_names import latest_step
from gptcore.training.finetune import finetune
from gptcore.training.launch import WorkerFailed
from gptcore.training.pretrain import pretrain
from gptcore.work import Interrupted, Work

STILL = MODEL.model_copy(update={"dropout": 0.0})
"""Without dropout, whose masks differ from process to process."""
STEPS = 300
"""Of the runs that are killed: long enough to be hit while they train."""
WITHIN_S = 20.0
"""In which processes whose launcher is gone must be gone too, on a busy machine."""

pytestmark = pytest.mark.timeout(600)  # a launch imports torch three times, which takes long on a busy machine


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_workspaces()


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


# What several processes change


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    config = pretrain_config(steps=50, eval_every=10)
    one, two = workspace(tmp_path, "one"), workspace(tmp_path, "two", micro_batch_tokens=32)
    shown = []
    two.on_progress = lambda done, total, unit, **values: shown.append((done, total, unit, values))
    pretrain(STILL, config, one)
    outcome = pretrain(STILL, config.model_copy(update={"devices": 2}), two)
    alone, together = losses(one.directory), losses(two.directory)
    assert len(alone) == 10 and together == pytest.approx(alone, abs=1e-5)
    assert outcome.results == ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    assert all((two.directory / name).is_file() for name in outcome.results)
    assert outcome.notes == {"devices": 2, "parallel": "ddp"}
    assert outcome.metrics["pretrain/tokens"] == 50 * 128 and shown[-1][:3] == (50, 50, "step")
    assert processes_of(tmp_path) == []


def test_two_processes_fine_tune_what_one_fine_tunes(tmp_path: Path) -> None:
    """Batches of unequal answers, padded and of odd numbers of rows: shares are uneven."""
    base = write_base(tmp_path / "base")

    def tuned(name: str, devices: int) -> dict[tuple[int, str], float]:
        runtime = Runtime(device="cpu", threads=1)
        work = Work(tmp_path / name, {"pretrain": base / "pretrain", "corpus": base / "corpus"}, runtime)
        finetune(finetune_config(steps=30, eval_every=10, devices=devices), SKILL, work)
        work.metrics.close()
        return losses(work.directory)

    assert tuned("two", 2) == pytest.approx(tuned("one", 1), abs=1e-5)
    assert (tmp_path / "two/skill.json").read_bytes() == (tmp_path / "one/skill.json").read_bytes()


@pytest.mark.parametrize("of", [1, 2, 3, 4])
def test_the_shares_of_a_batch_are_its_rows_and_of_one_size(of: int) -> None:
    ids = torch.arange(1, 16).view(5, 3)
    weights = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, ids + 1, 15, weights)
    shares = [batch.share(number, of) for number in range(of)]
    assert len({share.inputs.shape for share in shares}) == 1
    counted = torch.cat([share.targets for share in shares]) != IGNORED
    assert torch.equal(torch.cat([share.inputs for share in shares])[counted], ids.flatten())
    assert sum(share.weight for share in shares) == pytest.approx(batch.weight, rel=1e-6)


def test_how_a_model_is_shared_enters_no_key() -> None:
    assert set(Training.model_fields) > EXECUTION_OF_TRAINING
    one = load_preset("quickstart")
    two = load_preset("quickstart", ["pretrain.devices=2", "pretrain.parallel=fsdp", "finetune.qa.devices=2"])
    for name, stage in stages(one).items():
        assert stage.identity(one) == stage.identity(two), name


def test_rows_that_cannot_be_shared_evenly_are_refused() -> None:
    message = (
        r"pretrain\.devices 3 on runtime\.nodes 1 cannot share the 4 rows of a batch \(batch_tokens 1024 / context"
    )
    with pytest.raises(ConfigError, match=message):
        load_preset("quickstart", ["pretrain.devices=3"])
    assert isinstance(load_preset("quickstart", ["pretrain.devices=4"]), Preset)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime={nodes: 2, rendezvous: 'a:1', node_rank: 2}", "node_rank 2 must be below nodes 2"),
        ("runtime={nodes: 2}", "nodes 2 need a rendezvous"),
        ("runtime={rendezvous: nowhere}", "rendezvous"),
    ],
)
def test_machines_that_could_not_meet_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset("quickstart", [override])


# Failures


def test_what_a_worker_refuses_is_refused_here(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    write_tokens(tmp_path / "other", torch.arange(64).numpy(), torch.tensor([1, 299]).numpy())
    work.inputs = {**work.inputs, "tokens": tmp_path / "other"}
    with pytest.raises(ValueError, match=r"raise corpus\.validation_share"):
        pretrain(MODEL, pretrain_config(devices=2), work)
    assert processes_of(tmp_path) == []


# Kills


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


def kill_launcher(process: multiprocessing.process.BaseProcess, _: list[psutil.Process]) -> None:
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)


def kill_torchrun(_: multiprocessing.process.BaseProcess, found: list[psutil.Process]) -> None:
    next(p for p in found if "gptcore.training.bound" in p.info["cmdline"]).kill()


def kill_worker(_: multiprocessing.process.BaseProcess, found: list[psutil.Process]) -> None:
    random.choice([p for p in found if "gptcore.training.worker" in p.info["cmdline"][:5]]).kill()


def kill_all(process: multiprocessing.process.BaseProcess, found: list[psutil.Process]) -> None:
    kill_launcher(process, found)
    for each in found:
        each.kill()


def interrupt(process: multiprocessing.process.BaseProcess, _: list[psutil.Process]) -> None:
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)


EXIT = {kill_launcher: -signal.SIGKILL, kill_torchrun: 1, kill_worker: 1, kill_all: -signal.SIGKILL, interrupt: 143}


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

    def start(self, name: str) -> multiprocessing.process.BaseProcess:
        process = self.processes.Process(target=run_two, args=(self.root, name))
        process.start()
        return process

    def wait_until_training(self, name: str, process: multiprocessing.process.BaseProcess) -> None:
        """Until the run has logged something it had not before."""
        log = self.root / name / "metrics.jsonl"
        before = log.stat().st_mtime_ns if log.exists() else 0
        while process.is_alive() and not (log.exists() and log.stat().st_size and log.stat().st_mtime_ns > before):
            time.sleep(0.01)

    def break_off(self, name: str, how: object, after: float) -> bool:
        """Start the run and, so long after it trains, end it so; whether it was alive to be ended."""
        process = self.start(name)
        self.wait_until_training(name, process)
        process.join(after)
        found = processes_of(self.root)
        alive = process.is_alive() and sum("gptcore.training.worker" in p.info["cmdline"][:5] for p in found) == 2
        if alive:
            how(process, found)  # type: ignore[operator]
        process.join()
        assert process.exitcode in ((EXIT[how], 0) if alive else (0,)), process.exitcode  # type: ignore[index]
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
