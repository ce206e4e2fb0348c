"""Several processes train what one trains: real ones, under torchrun, speaking gloo over loopback."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from team_process import trouble_with
from test_finetune import SKILL, write_base
from test_finetune import config as finetune_config
from tiny_training import MODEL, close_workspaces, history, inputs, pretrain_config, workspace, write_tokens

from gptcore.config import EXECUTION_OF_TRAINING, Preset, Runtime, Training
from gptcore.model.gpt import GPTConfig
from gptcore.model.loss import IGNORED
from gptcore.model.weights import load_model
from gptcore.presets import ConfigError, load_preset
from gptcore.stages import stages
from gptcore.training.batches import Batch, Example, lay
from gptcore.training.checkpoint_names import MARKER, latest_step
from gptcore.training.finetune import finetune
from gptcore.training.fitting import fitting
from gptcore.training.launch import WorkerFailed
from gptcore.training.pretrain import pretrain
from gptcore.work import Interrupted, Work

STILL = MODEL.model_copy(update={"dropout": 0.0})
"""Without dropout, whose masks differ from process to process."""
STEPS = 200
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


@pytest.mark.parametrize("how", [{}, {"packing": True, "method": "lora"}], ids=["padded", "packed-lora"])
def test_two_processes_fine_tune_what_one_fine_tunes(tmp_path: Path, how: dict[str, Any]) -> None:
    """Batches of unequal answers, padded or packed, and of odd numbers of rows: shares are uneven."""
    base = write_base(tmp_path / "base")

    def tuned(name: str, devices: int) -> dict[tuple[int, str], float]:
        runtime = Runtime(device="cpu", threads=1)
        work = Work(tmp_path / name, {"pretrain": base / "pretrain", "corpus": base / "corpus"}, runtime)
        finetune(finetune_config(steps=30, eval_every=10, devices=devices, **how), SKILL, work)
        work.metrics.close()
        return losses(work.directory)

    assert tuned("two", 2) == pytest.approx(tuned("one", 1), abs=1e-5)
    assert (tmp_path / "two/skill.json").read_bytes() == (tmp_path / "one/skill.json").read_bytes()


# Models that are shared in other ways

KINDS = {"gpt2": "adamw", "modern": "muon"}
BROKEN_AT = 23


def settings(family: str) -> dict[str, Any]:
    return {
        "model": {"family": family},
        "config": {"steps": 50, "eval_every": 10, "eval_tokens": 128, "optimizer": KINDS[family]},
    }


def alone(root: Path, name: str, family: str, stop_at: int | None = None) -> None:
    """The same in one process, to the end or to a step."""
    work, given = workspace(root, name), settings(family)

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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both, unbroken, broken off, and begun or ended by one process or by another team."""
    root = tmp_path_factory.mktemp("shared")
    inputs(root)
    cases: list[dict[str, Any]] = []
    for family in KINDS:
        alone(root, f"one-{family}", family)
        for parallel in ("fsdp", "tensor"):
            case, name = {"parallel": parallel, **settings(family)}, f"{parallel}-{family}"
            cases.append({**case, "name": name})
            cases.append({**case, "name": f"from-{name}", "stop_at": BROKEN_AT})
            alone(root, f"to-{name}", family, stop_at=BROKEN_AT)
            cases.append({**case, "name": f"to-{name}", "micro_batch_tokens": 32})
    fsdp, tensor = ({"parallel": parallel, **settings("modern")} for parallel in ("fsdp", "tensor"))
    broken = {**fsdp, "name": "broken"}
    cases += [{**broken, "stop_at": BROKEN_AT, "full_disk": [10, 20]}, broken]
    cases += [{**fsdp, "name": "fsdp-to-tensor", "stop_at": BROKEN_AT}, {**tensor, "name": "fsdp-to-tensor"}]
    run_by_two(root, cases)
    return root


def same_losses(found: Path, expected: Path) -> bool:
    theirs = losses(expected)
    return len(theirs) == 10 and losses(found) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("parallel", ["fsdp", "tensor"])
def test_a_shared_model_learns_what_one_process_learns(shared: Path, parallel: str, family: str) -> None:
    assert same_losses(shared / f"{parallel}-{family}", shared / f"one-{family}")
    ids = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))
    ours, theirs = (load_model(shared / name)(ids) for name in (f"{parallel}-{family}", f"one-{family}"))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("parallel", ["fsdp", "tensor"])
def test_one_process_goes_on_where_two_stopped_and_two_where_one_did(shared: Path, parallel: str, family: str) -> None:
    assert latest_step(shared / f"from-{parallel}-{family}/checkpoints") == BROKEN_AT
    alone(shared, f"from-{parallel}-{family}", family)
    for way in ("from", "to"):
        assert same_losses(shared / f"{way}-{parallel}-{family}", shared / f"one-{family}")


def test_a_shared_run_broken_off_ends_with_the_same_bytes(shared: Path) -> None:
    """After a full disk of the second process, too, which stops the saves of both."""
    broken, unbroken = shared / "broken", shared / "fsdp-modern"
    assert (broken / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert history(broken) == history(unbroken)
    refused, saved, resumed = (broken / "said").read_text().splitlines()
    assert refused.startswith("no room for the checkpoint of step 14 (File too large)")
    assert saved.startswith("checkpoint of step 21 saved")
    assert resumed == f"resuming at step {BROKEN_AT} of 50"


def test_another_kind_of_team_goes_on(shared: Path) -> None:
    assert same_losses(shared / "fsdp-to-tensor", shared / "one-modern")


def test_shards_are_safetensors_with_digests(shared: Path) -> None:
    (directory,) = (shared / "fsdp-modern/checkpoints").iterdir()
    shards = {f"shards/{path.name}" for path in (directory / "shards").iterdir()}
    assert len(shards) == 2 and {Path(name).suffix for name in shards} == {".safetensors"}
    assert shards < set(json.loads((directory / MARKER).read_text())["files"])


@pytest.mark.parametrize(
    ("shape", "memory", "expected"),
    [
        (GPTConfig("gpt2", 12, 12, 768, 1024, 50257), 24e9, "ddp"),
        (GPTConfig("gpt2", 48, 25, 1600, 1024, 50257), 24e9, "fsdp"),  # 1.5 B parameters: 25 GB
        (GPTConfig("gpt2", 96, 96, 12288, 2048, 50257), 80e9, "fsdp"),  # GPT-3: a block's 1.8 B parameters pass
        (GPTConfig("gpt2", 96, 96, 12288, 2048, 50257), 24e9, "tensor"),
    ],
)
def test_auto_is_the_simplest_that_fits(shape: GPTConfig, memory: float, expected: str) -> None:
    assert fitting(shape, memory) == expected


def test_an_adapter_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    work = Work(tmp_path / "run", {"pretrain": base / "pretrain", "corpus": base / "corpus"}, Runtime(device="cpu"))
    with pytest.raises(
        ValueError, match=r"finetune\.qa: method lora with parallel fsdp.* take parallel ddp, or method"
    ):
        finetune(finetune_config(method="lora", devices=2, parallel="fsdp"), SKILL, work)
    work.metrics.close()


def test_heads_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    with pytest.raises(ValueError, match="3 do not divide 2"):
        pretrain(MODEL, pretrain_config(devices=3, parallel="tensor"), work)
    work.runtime = Runtime(nodes=2, rendezvous="localhost:1")
    with pytest.raises(ValueError, match=r"not runtime\.nodes 2"):
        pretrain(MODEL, pretrain_config(devices=2, parallel="tensor"), work)


# Bad batches, and the best weights

HURT = {"hurt": [12, 41, 43, 46]}
"""A single skip; then a series, after which the run goes back."""
TOLD = [3.0, 1.0, 2.0, 2.0, 2.0]
"""Validation losses of five evaluations: the second is the best."""
HURT_CONFIG = {"steps": 60, "eval_every": 10, "eval_tokens": 128, "spike_window": 16, "most_skips": 3}
TEAMS_HURT = {"ddp": "gpt2", "fsdp": "modern", "tensor": "modern"}


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one and two processes in trouble; those of the best weights are broken off after the best."""
    root = tmp_path_factory.mktemp("hurt")
    inputs(root)
    cases: list[dict[str, Any]] = []
    for parallel, family in TEAMS_HURT.items():
        shape, optimizer = {"family": family}, {"optimizer": KINDS[family]}
        bad = {"model": shape, "config": {**HURT_CONFIG, **optimizer}, "trouble": HURT}
        best = {"model": shape, "config": {**settings(family)["config"], "keep_best": True}}
        cases.append({**bad, "name": f"hurt-{parallel}", "parallel": parallel})
        begun, ended = ({"trouble": {"told": losses}} for losses in (TOLD[:2], TOLD[2:]))
        cases.append({**best, **begun, "name": f"best-{parallel}", "parallel": parallel, "stop_at": BROKEN_AT})
        cases.append({**best, **ended, "name": f"best-{parallel}", "parallel": parallel})
        for name, case, trouble in (("hurt", bad, HURT), ("best", best, {"told": TOLD})):
            if not (root / f"one-{name}-{family}").exists():
                work = workspace(root, f"one-{name}-{family}")
                with trouble_with(**trouble):
                    pretrain(STILL.model_copy(update=shape), pretrain_config(**case["config"]), work)
                (work.directory / "said").write_text("".join(f"{line}\n" for line in work.said))  # type: ignore[attr-defined]
    run_by_two(root, cases)
    return root


def state(directory: Path) -> dict[str, Any]:
    (checkpoint,) = (directory / "checkpoints").iterdir()
    found: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return found


@pytest.mark.parametrize("parallel", TEAMS_HURT)
def test_two_processes_skip_and_go_back_as_one_does(hurt: Path, parallel: str) -> None:
    two, one = hurt / f"hurt-{parallel}", hurt / f"one-hurt-{TEAMS_HURT[parallel]}"
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    for name in ("step", "tokens", "passed_over", "rollbacks"):
        assert state(two)[name] == state(one)[name]
    assert state(two)["rollbacks"] == 1 and state(two)["passed_over"] > 0
    ours, theirs = ((directory / "said").read_text().splitlines() for directory in (two, one))
    assert [line.split("; ")[1] for line in ours] == [line.split("; ")[1] for line in theirs]
    assert ours[0].startswith("loss is nan at step 13; 1 of") and "back to the checkpoint of step 35" in ours[1]


@pytest.mark.parametrize("parallel", TEAMS_HURT)
def test_the_weights_of_the_best_evaluation_survive_a_break(hurt: Path, parallel: str) -> None:
    two, one = hurt / f"best-{parallel}", hurt / f"one-best-{TEAMS_HURT[parallel]}"
    assert state(two)["watched"]["best"]["step"] == 20 and "the model of step 20 is kept" in (two / "said").read_text()
    ids = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(0))
    ours, theirs = (load_model(directory)(ids) for directory in (two, one))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# More than two processes


@pytest.mark.soak
def test_three_processes_broken_off_end_with_the_same_bytes(tmp_path: Path) -> None:
    """Sums of three depend on their order, which must not depend on when the process began."""
    inputs(tmp_path)
    case = {"parallel": "ddp", "model": {"dropout": 0.1}, "config": {"steps": 50, "batch_tokens": 192}}
    cases = [{**case, "name": "whole"}, {**case, "name": "broken", "stop_at": BROKEN_AT}, {**case, "name": "broken"}]
    run_by_two(tmp_path, cases, devices=3)
    whole, broken = (tmp_path / name / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


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

    def start() -> list[multiprocessing.process.BaseProcess]:
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


# The share of a process


@pytest.mark.parametrize("of", [2, 3])
def test_the_shares_of_a_packed_batch_keep_their_examples_apart(of: int) -> None:
    rows = [[Example([1, 2], [3]), Example([4], [5, 6])], [Example([7, 8], [9])]]
    shares = [lay(rows).share(number, of) for number in range(of)]
    positions = torch.cat([share.positions for share in shares if share.positions is not None])
    assert positions[:2].tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert positions[2:].tolist() == [[0, 1, 2, 3]] * (of - 2), "empty rows hold one example that counts nothing"


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
