"""Processes that do units of work, one at a time each, and never outlive the process that asked.

Not `multiprocessing`: its spawned children import the parent's main module again (seconds, when that is a pipeline),
and its forked ones inherit locks. A worker here is a fresh interpreter that imports one module.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptcore.work import Work

Message = dict[str, Any]
Tell = Callable[[Message], None]

ROOT = Path(__file__).parents[2]
BOOT = (
    "import signal; [signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]; "
    "import sys; sys.path.insert(0, sys.argv[1]); from gptcore.text.workers import serve; serve(sys.argv[2])"
)
ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "FileNotFoundError": FileNotFoundError}


class WorkerDied(RuntimeError):
    """A worker ended without an answer: killed, out of memory, or a fault of ours."""


def spread_tasks(function: str, tasks: Sequence[Message], work: Work) -> Generator[tuple[int, Message], None, None]:
    """`run_tasks`, or what the work brings in its place (`runtime.engine`)."""
    return (work.spread or run_tasks)(function, tasks, work.runtime.workers)


def run_tasks(function: str, tasks: Sequence[Message], workers: int) -> Generator[tuple[int, Message], None, None]:
    """Do `tasks` in fresh processes, in order of handing out; yields (task index, message) as messages arrive.

    `function` is "module:name" of a callable (task, tell) -> Message; what it tells and returns comes out here, the
    latter with {"done": true} added. A ValueError, FileNotFoundError or OSError of the worker is raised here again.
    Leaving the iterator early, by an exception or an interrupt too, kills the workers.
    """
    waiting = list(enumerate(tasks))[::-1]
    busy: dict[int, int] = {}
    crew: list[_Worker] = []
    try:
        for _ in range(min(workers, len(tasks))):
            crew.append(_Worker(function))
        with selectors.DefaultSelector() as selector:
            for number, worker in enumerate(crew):
                selector.register(worker.replies, selectors.EVENT_READ, number)
                busy[number], task = waiting.pop()
                worker.send(task)
            while busy:
                for key, _ in selector.select():
                    number = key.data
                    worker = crew[number]
                    for message in worker.receive():
                        yield busy[number], message
                        if message.get("done"):
                            del busy[number]
                            if waiting:
                                busy[number], task = waiting.pop()
                                worker.send(task)
    finally:
        for worker in crew:
            worker.kill()


class _Worker:
    """The parent's end of one process."""

    def __init__(self, function: str) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # USE_TORCH: `datasets` would import torch, 180 MB that no worker needs.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, str(ROOT), function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env={**os.environ, "OMP_NUM_THREADS": "1", "USE_TORCH": "0"},
        )
        assert self._process.stdout is not None
        self.replies = self._process.stdout
        self._buffer = b""

    def send(self, task: Message) -> None:
        """Hand out a task."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
        except BrokenPipeError:
            self._raise_death()

    def receive(self) -> list[Message]:
        """The whole messages that have arrived; raises what the worker raised."""
        chunk = os.read(self.replies.fileno(), 1 << 16)
        if not chunk:
            self._raise_death()
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            if "error" in message:
                raise_from(message)
        return messages

    def kill(self) -> None:
        """End the process, wherever it is; what it has committed stays."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _raise_death(self) -> None:
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise WorkerDied(f"a worker {how}" + (f": {last[0]}" if last else "") + "; run again to go on")


def raise_from(message: Message) -> None:
    """Raise what `answer` caught."""
    if message["error"] == "OSError":
        raise OSError(message["errno"], message["message"], message["path"])
    error = ERRORS.get(message["error"], WorkerDied)(message["message"])
    if "trace" in message:
        error.add_note(message["trace"])
    raise error


def serve(function: str) -> None:
    """A worker's life: tasks from stdin, messages to stdout, the end when stdin closes.

    The parent holds the only writing end of stdin, so its death, by SIGKILL too, closes it; a thread waits for that
    and ends the process within a moment, in the middle of whatever it does.
    """
    replies = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # what libraries print must not mix with messages
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            tasks.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()

    def tell(message: Message) -> None:
        replies.write(json.dumps(message).encode() + b"\n")

    while True:
        tell(answer(function, json.loads(tasks.get()), tell))


def answer(function: str, task: Message, tell: Tell) -> Message:
    """What "module:name" makes of a task, with {"done": true}, or the error that it raised, for `raise_from`."""
    module, _, name = function.partition(":")
    try:
        return {**getattr(importlib.import_module(module), name)(task, tell), "done": True}
    except (ValueError, FileNotFoundError) as error:
        known = next(name for name, kind in ERRORS.items() if isinstance(error, kind))
        return {"error": known, "message": str(error)}
    except OSError as error:
        reason = error.strerror or str(error)
        return {"error": "OSError", "errno": error.errno or errno.EIO, "message": reason, "path": error.filename}
    except Exception as error:
        last = f"a worker failed: {type(error).__name__}: {error}"
        return {"error": "WorkerDied", "message": last, "trace": traceback.format_exc()}
