"""Several processes for one training stage: torchrun starts them, this process tells what they tell, and ends them.

1. A socket, and a job file that names it. 2. torchrun, bound to this process. 3. Every worker says hello; from then on
its death is seen. 4. Progress and lines are passed on, signals handed down. 5. However it ends, no worker is left.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from gptcore import durable
from gptcore.config import Training
from gptcore.config_part import Part
from gptcore.hardware import resolve_device
from gptcore.training.device import cpu_threads
from gptcore.training.guard import Diverged, NotFinite
from gptcore.training.memory import TooLarge
from gptcore.training.team import Member
from gptcore.work import Interrupted, Outcome, Work

ROOT = Path(__file__).parents[2]
ERRORS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "FileNotFoundError": FileNotFoundError,
    "Diverged": Diverged,
    "NotFinite": NotFinite,
    "TooLarge": TooLarge,
}
"""What a worker's error is here; any other is a WorkerFailed."""
LOOK_EVERY_S = 0.2
"""Between two looks at torchrun and at this process's own signals."""
LAST_WORDS_S = 1.0
"""After a first failure, for the one that caused it to arrive."""
GOODBYE_S = 10.0
"""For torchrun to notice that its workers have ended well."""
JOIN_S = 86_400
"""For the other machines to come to the rendezvous: their data stages may take long."""


class WorkerFailed(RuntimeError):
    """A training process failed in a way that is no user's error."""


class WorkerDied(WorkerFailed):
    """A training process was killed."""


def several(config: Training, work: Work) -> bool:
    """Whether this call is to start a team rather than to be a part of one."""
    return config.devices * work.runtime.nodes > 1 and not isinstance(work, Member)


def launch(stage: str, given: Mapping[str, Part], config: Training, parallel: str, work: Work) -> Outcome:
    """Run a stage function in `config.devices` processes here; what it returns in one process is returned.

    given: its arguments before the workspace. ValueError and the other exceptions of `ERRORS` as in one process;
    OSError when the disk is full at the end; WorkerFailed when a process dies; Interrupted after a checkpoint.
    """
    runtime = work.runtime.model_copy(update={"threads": cpu_threads(work.runtime, config.devices)})
    if resolve_device(work.runtime) == "cuda" and (found := torch.cuda.device_count()) < config.devices:
        raise ValueError(f"devices is {config.devices}, but torch sees {found} GPUs here; lower it")
    job = {
        "stage": stage,
        "given": {name: part.model_dump(mode="json") for name, part in given.items()},
        "parallel": parallel,
        "directory": str(work.directory.absolute()),
        "inputs": {name: str(path.absolute()) for name, path in work.inputs.items()},
        "runtime": runtime.model_dump(mode="json"),
    }
    with work.deferred_interrupts(), _Crew(job, config.devices, work) as crew:
        while not crew.ended:
            if work.pending is not None:
                crew.hand_down(work.pending)
            crew.receive(LOOK_EVERY_S)
    work.stop_if_interrupted()
    (outcome,) = crew.outcomes[:1]
    notes = {**outcome["notes"], "devices": config.devices, "parallel": parallel}
    return Outcome(results=tuple(outcome["results"]), metrics=outcome["metrics"], notes=notes)


class _Worker:
    """This end of one worker's socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.ours = uid == os.getuid()
        self.process = os.pidfd_open(pid)
        self.rank: int | None = None
        self.ended = False
        self._unread = b""

    def messages(self) -> list[dict[str, Any]]:
        """What has arrived; the last is {"gone": true} when the worker has closed its end."""
        try:
            chunk = self.socket.recv(1 << 16)
        except ConnectionResetError:
            chunk = b""
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        return [*map(json.loads, lines), *([] if chunk else [{"gone": True}])]

    def end(self) -> None:
        """Kill it, wherever it is, and wait until it is gone."""
        self.socket.close()
        try:
            signal.pidfd_send_signal(self.process, signal.SIGKILL)
        except ProcessLookupError:
            pass
        else:
            select.select([self.process], [], [])
        os.close(self.process)


class _Crew:
    """The workers of one launch on this machine; leaving the block ends them all."""

    def __init__(self, job: dict[str, Any], devices: int, work: Work) -> None:
        self.work, self.devices = work, devices
        self.outcomes: list[dict[str, Any]] = []
        self._workers: list[_Worker] = []
        self._failures: list[Exception] = []
        self._judged_at = 0.0
        self._interrupted: int | None = None
        self._handed_down = False
        self._selector = selectors.DefaultSelector()
        # An address without a file, so that nothing stays behind; whoever connects must be this user.
        address = f"gptmill-{secrets.token_hex(16)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"\0{address}")
        self._listener.listen(devices)
        self._selector.register(self._listener, selectors.EVENT_READ)
        path = work.scratch / "team.json"
        durable.write_json(path, {**job, "address": address})
        self.log = work.scratch / "team.log"
        with self.log.open("wb") as log:
            self._torchrun = subprocess.Popen(
                [sys.executable, "-m", "gptcore.training.bound", str(os.getpid()), *_torchrun(devices, work, path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process to hear
                env=_environment(job["runtime"], work),
            )

    def __enter__(self) -> _Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._torchrun.wait(GOODBYE_S)
            except subprocess.TimeoutExpired:
                self.work.say("torchrun did not end with its workers and is killed")
        self._listener.close()  # a worker that comes only now finds nobody, and ends
        self._torchrun.kill()
        self._torchrun.wait()
        for worker in self._workers:
            worker.end()
        self._selector.close()

    @property
    def ended(self) -> bool:
        """Whether every worker has done its part; raises what stopped one."""
        if self._failures and (self._all_ended or time.monotonic() > self._judged_at):
            raise min(self._failures, key=_echo)
        if self._interrupted is not None and not self._failures:
            raise Interrupted(self._interrupted)
        return self._all_ended and not self._failures

    @property
    def _all_ended(self) -> bool:
        return len(self._workers) == self.devices and all(worker.ended for worker in self._workers)

    def hand_down(self, signum: int) -> None:
        """Tell a signal to the workers, once; raises Interrupted while there is nothing to save."""
        if len(self._workers) < self.devices:
            raise Interrupted(signum)
        if not self._handed_down:
            self._handed_down = True
            for worker in self._workers:
                with suppress(BrokenPipeError):  # it has ended; what it said comes next
                    worker.socket.sendall(json.dumps({"signal": signum}).encode() + b"\n")

    def receive(self, timeout: float) -> None:
        """Wait for news and act on it."""
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._welcome()
            else:
                self._hear(key.data)
        if self._torchrun.poll() is not None and not self._all_ended:
            self._fail(WorkerFailed(f"torchrun {_how(self._torchrun.returncode)}{self._last_line()}"))

    def _welcome(self) -> None:
        connection, _ = self._listener.accept()
        worker = _Worker(connection)
        if worker.ours:
            self._workers.append(worker)
            self._selector.register(connection, selectors.EVENT_READ, worker)
        else:
            connection.close()

    def _hear(self, worker: _Worker) -> None:
        for message in worker.messages():
            match message:
                case {"hello": rank}:
                    worker.rank = rank
                case {"progress": [done, total, unit, shown]}:
                    self.work.progress(done, total, unit, **shown)
                case {"say": line}:
                    self.work.say(line)
                case {"results": _}:
                    worker.ended = True
                    if message["results"]:
                        self.outcomes.append(message)
                case {"interrupted": signum}:
                    worker.ended = True
                    self._interrupted = signum
                case {"error": _}:
                    worker.ended = True
                    self._fail(_error(message))
                case {"gone": True}:
                    self._selector.unregister(worker.socket)
                    if not worker.ended:
                        worker.ended = True
                        self._fail(WorkerDied(f"training process {worker.rank} was killed; run again to go on"))

    def _fail(self, error: Exception) -> None:
        """Note a failure, and wait for others: the first to arrive may be but the echo of the cause."""
        if not self._failures:
            self._judged_at = time.monotonic() + LAST_WORDS_S
        self._failures.append(error)

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def _echo(failure: Exception) -> int:
    """How far a failure is from its cause: a process whose neighbour is gone fails too, with a lost connection."""
    if not isinstance(failure, WorkerFailed):
        return 0
    return 1 if isinstance(failure, WorkerDied) else 2


def _torchrun(devices: int, work: Work, job: Path) -> list[str]:
    """torchrun's arguments."""
    runtime = work.runtime
    meeting = ["--standalone"]
    if runtime.nodes > 1:
        meeting = [f"--nnodes={runtime.nodes}", f"--node-rank={runtime.node_rank}", "--rdzv-backend=static"]
        meeting += [f"--rdzv-endpoint={runtime.rendezvous}", f"--rdzv-conf=timeout={JOIN_S}"]
    worker = ["-m", "gptcore.training.worker", str(job.absolute())]
    return [*meeting, f"--nproc-per-node={devices}", "--max-restarts=0", "--monitor-interval=0.1", *worker]


def _environment(runtime: dict[str, Any], work: Work) -> dict[str, str]:
    """This process's, with the code it runs itself and the threads of a worker."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(runtime["threads"])}
    own["PYTHONFAULTHANDLER"] = "1"  # a crash leaves its place in the log
    if work.runtime.nodes == 1:
        own["GLOO_SOCKET_IFNAME"] = "lo"  # a host's name may lead nowhere
    return {**os.environ, **own}


def _error(message: dict[str, Any]) -> Exception:
    error: Exception
    if message.get("errno"):
        error = OSError(message["errno"], message["message"], message["path"])
    elif message["error"] in ERRORS:
        error = ERRORS[message["error"]](message["message"])
    else:
        error = WorkerFailed(f"a training process failed: {message['error']}: {message['message']}")
    error.add_note(message["trace"])
    return error


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
