"""What a running stage is given: its directory, its inputs, and where to report."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from gptcore.config import Runtime

Metrics = Mapping[str, float]
Spread = Callable[[str, Sequence[dict[str, Any]], int], Generator[tuple[int, dict[str, Any]], None, None]]
"""Does tasks somewhere: (function, tasks, workers) -> (task index, message) as they come."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM reached a stage; whatever it had to save is saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when there is no room: disk, quota, size limit."""


@contextmanager
def suppress_full_disk() -> Iterator[None]:
    """Pass over an OSError that only says that there is no room now."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise


class MetricLog:
    """The truth of a stage's metrics: a local JSONL file, one line a log call, {"t": ms, "step": n, "m": {...}}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_torn_line()
        self._unwritten = b""
        self._file = path.open("ab", buffering=0)

    def _drop_torn_line(self) -> None:
        """A kill in the middle of a write leaves half a line; its step is logged again after the resume."""
        if self.path.exists():
            data = self.path.read_bytes()
            if data and not data.endswith(b"\n"):
                os.truncate(self.path, data.rfind(b"\n") + 1)

    def append(self, metrics: Metrics, step: int) -> None:
        """Add one line; while the disk is full it waits in memory, so training goes on."""
        line = {"t": round(time.time() * 1000), "step": step, "m": {k: float(v) for k, v in metrics.items()}}
        self._unwritten += json.dumps(line).encode() + b"\n"
        with suppress_full_disk():
            self._write()

    def _write(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def position(self) -> int:
        """Bytes so far, synced to disk: what a checkpoint remembers; OSError when the disk is full."""
        self._write()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def rewind(self, position: int) -> None:
        """Forget what was logged after a checkpoint; those steps will be computed, and logged, again."""
        self._unwritten = b""
        size = os.fstat(self._file.fileno()).st_size
        if position > size:
            raise ValueError(f"{self.path} holds {size} bytes, the checkpoint remembers {position}: metrics were lost")
        os.ftruncate(self._file.fileno(), position)

    def close(self) -> None:
        """Write what waits and close the file; OSError when the disk is still full."""
        try:
            self._write()
        finally:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metric log, in order; an absent file is an empty log."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _silent(*_: Any, **__: Any) -> None:
    return None


@dataclass
class Work:
    """The workspace of one stage.

    `directory` becomes the stage's output when the manifest is written; until then it is unfinished work.
    `scratch` (inside it) holds committed units of work for a resume, and is gone after the commit.
    `kept` is a folder for units that later work can use too; None where there shall be none.
    `cache` is where digests of files are remembered; None where nobody did.
    `spread` hands tasks out to other machines, as gptcore/text/workers.py does to processes of this one.
    """

    directory: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)
    runtime: Runtime = field(default_factory=Runtime)
    on_progress: Callable[..., None] = _silent
    on_say: Callable[[str], None] = _silent
    kept: Path | None = None
    cache: Path | None = None
    spread: Spread | None = None

    def __post_init__(self) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.metrics = MetricLog(self.directory / "metrics.jsonl")
        self._pending: int | None = None
        self._deferring = False

    @property
    def scratch(self) -> Path:
        """Units of unfinished work."""
        return self.directory / "scratch"

    def log(self, metrics: Metrics, step: int = 0) -> None:
        """Record metrics at a step; the tracker follows on its own time."""
        self.metrics.append(metrics, step)

    def progress(self, done: float, total: float, unit: str, **shown: float | str) -> None:
        """Move the stage's bar: how much of what, and values to show beside it (loss=2.31)."""
        self.on_progress(done, total, unit, **shown)

    def say(self, line: str) -> None:
        """One line for the person watching: a warning, a count of skipped documents, a retry."""
        self.on_say(line)

    def drop_scratch(self) -> None:
        """Remove committed units; called when the output is whole."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    # Interrupts: a data stage may stop anywhere (its units are committed), the training loop only between updates.

    @contextmanager
    def deferred_interrupts(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM only set a flag that `stop_if_interrupted` raises; a second one raises at once."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @property
    def pending(self) -> int | None:
        """The signal that waits to be honoured."""
        return self._pending

    @property
    def interrupted(self) -> bool:
        """Whether a signal waits to be honoured."""
        return self._pending is not None

    def stop_if_interrupted(self) -> None:
        """Raise the pending Interrupted, if any."""
        if self._pending is not None:
            raise Interrupted(self._pending)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self._deferring and self._pending is None:
            self._pending = signum
            self.say("saving a checkpoint before stopping; once more to stop at once")
            return
        raise Interrupted(signum)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for the time of the stage (main thread only), then give them back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


@dataclass(frozen=True)
class Outcome:
    """What a stage function returns."""

    results: tuple[str, ...]
    """Globs, relative to the directory, of the files that enter the output digest."""
    metrics: dict[str, float]
    """Final headline metrics, under their stable names; outside the digest."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Facts for the manifest: skipped counts, retries; outside the digest."""
