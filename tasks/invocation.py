"""The owner file of a pipeline invocation: which MLflow parent run a live process holds, and what a dead one left."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gptcore.config import Preset
from gptcore.durable import sha256_json, write_json
from gptcore.store import read_json

ENDED = "ended"
"""In the record of an invocation that failed or was interrupted and said so; a killed one has none."""


@dataclass
class Owner:
    """A parent run and the process that holds it; the kernel drops the lock when that process dies."""

    record: Path
    lock: IO[str]
    values: dict[str, Any]

    def remember(self, **values: Any) -> None:
        """Write facts into the owner file."""
        self.values.update(values)
        write_json(self.record, self.values)

    def release(self) -> None:
        """Let go, leaving the record for a resume."""
        self.lock.close()

    def forget(self) -> None:
        """Let go for good: the invocation is finished."""
        self.record.unlink(missing_ok=True)
        Path(self.lock.name).unlink(missing_ok=True)
        self.lock.close()


def claim(folder: Path, name: str) -> Owner | None:
    """Take an invocation's lock; None while a live process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lock"
    while True:
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
            return Owner(folder / f"{name}.json", lock, read_json(folder / f"{name}.json") or {})
        lock.close()  # its holder finished and removed it between our open and our lock


def abandoned(folder: Path) -> Iterator[Owner]:
    """Every recorded invocation whose process is gone, claimed."""
    for record in sorted(folder.glob("*.json")):
        owner = claim(folder, record.stem)
        if owner is None:
            continue
        if owner.values:
            yield owner
        else:
            owner.forget()


def invocation_identity(preset: Preset, sources: list[dict[str, Any]]) -> str:
    """What makes two invocations the same one: preset and source versions, not where or how they run."""
    return sha256_json([preset.model_dump(mode="json", exclude={"runtime"}), sources])


def was_killed(folder: Path, identity: str, uri: str) -> bool:
    """Whether a process at this invocation died without a word, so that its runs may still stand as RUNNING."""
    for record in sorted(folder.glob("*.json")):
        values = read_json(record) or {}
        if (values.get("identity"), values.get("uri")) == (identity, uri) and ENDED not in values:
            owner = claim(folder, record.stem)
            if owner is not None:
                owner.release()
                return True
    return False
