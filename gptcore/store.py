"""The folder of finished stage outputs: manifests, atomic publication, locks.

<root>/<stage>/<first 16 of key>/
    IDENTITY.json   what this directory is for; written when work begins
    ATTEMPTS.json   tries so far: started, seconds of own work, joules
    scratch/        committed units of unfinished work
    MANIFEST.json   written last: its presence is what makes the stage finished
    TRACKING.json   by tracker: which run holds the stage there, and whether everything reached it
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gptcore.durable import sha256_file, sha256_json, sync_directory, write_json

MANIFEST, IDENTITY, ATTEMPTS, TRACKING = "MANIFEST.json", "IDENTITY.json", "ATTEMPTS.json", "TRACKING.json"
_OWN_FILES = {MANIFEST, IDENTITY, ATTEMPTS, TRACKING}


class Damaged(RuntimeError):
    """A finished stage whose bytes are no longer what its manifest says."""

    def __init__(self, stage: str, directory: Path, problem: str) -> None:
        super().__init__(f"{stage}: {problem} in {directory}")
        self.stage, self.directory, self.problem = stage, directory, problem


@dataclass(frozen=True)
class FileRecord:
    """One file of a finished stage."""

    size: int
    sha256: str
    result: bool
    """Whether it enters the output digest."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage is, where it came from and what it cost."""

    stage: str
    key: str
    identity: dict[str, Any]
    """The key's parts: stage, version, config, inputs, libraries and, for root stages, sources."""
    output_digest: str
    files: dict[str, FileRecord]
    metrics: dict[str, float]
    seconds: float
    """Own work over all attempts."""
    attempts: int
    finished: float
    """Unix time."""
    preset: str
    code_digest: str
    git: dict[str, Any]
    execution: dict[str, Any]
    mlflow_run_id: str | None
    mlflow_parent_run_id: str | None
    notes: dict[str, Any] = field(default_factory=dict)
    joules: float | None = None
    """Energy of this machine's processors and GPUs over all attempts, where it could be read (gptcore/energy.py)."""
    surroundings: dict[str, Any] = field(default_factory=dict)
    """What it ran on, as found then: Python, the libraries, processor, GPU, threads. Empty in old manifests."""

    @staticmethod
    def parse(text: bytes) -> Manifest:
        """Read MANIFEST.json; raises ValueError for anything that is not a whole one."""
        try:
            values = json.loads(text)
            values["files"] = {name: FileRecord(**record) for name, record in values["files"].items()}
            return Manifest(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a manifest: {error}") from None


def read_json(path: Path) -> Any:
    """Parsed JSON of a file of ours, or None where it is absent or broken."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def recorded_in(directory: Path, uri: str) -> dict[str, Any] | None:
    """A stage's record in one tracker: {"run_id", "parent_run_id", "complete"}; None where it has none."""
    record: dict[str, Any] | None = (read_json(directory / TRACKING) or {}).get(uri)
    return record


class Store:
    """Finished and unfinished stage outputs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def directory(self, stage: str, key: str) -> Path:
        """Where a stage's output of this key lives."""
        return self.root / stage / key[:16]

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a finished stage: every file present with its recorded size. None otherwise."""
        directory = self.directory(stage, key)
        manifest = _load(directory)
        if manifest is None or manifest.key != key or problem_by_size(directory, manifest):
            return None
        return manifest

    def manifests(self, stage: str) -> list[Manifest]:
        """Every readable manifest of a stage, oldest first, whole or not."""
        found = [_load(path.parent) for path in (self.root / stage).glob(f"*/{MANIFEST}")]
        return sorted((m for m in found if m is not None), key=lambda m: m.finished)

    def holding(self, stage: str, digest: str) -> Path | None:
        """Where a finished, whole output of this digest stands, whatever its key; None where it is not here."""
        for manifest in reversed(self.manifests(stage)):
            directory = self.directory(stage, manifest.key)
            if manifest.output_digest == digest and problem_by_size(directory, manifest) is None:
                return directory
        return None

    def verify(self, manifest: Manifest, progress: Callable[[str], None] | None = None) -> None:
        """Read every byte again; raises Damaged at the first that differs."""
        directory = self.directory(manifest.stage, manifest.key)
        problem = problem_by_size(directory, manifest)
        if problem:
            raise Damaged(manifest.stage, directory, problem)
        for name, record in manifest.files.items():
            if progress:
                progress(name)
            try:
                digest = sha256_file(directory / name)
            except FileNotFoundError:  # another process removed it meanwhile
                raise Damaged(manifest.stage, directory, f"{name} is lost") from None
            if digest != record.sha256:
                raise Damaged(manifest.stage, directory, f"{name} does not have its recorded sha256")

    def reopen(self, stage: str, key: str) -> None:
        """Make a finished output unfinished work again."""
        (self.directory(stage, key) / MANIFEST).unlink(missing_ok=True)

    def discard(self, stage: str, key: str) -> None:
        """Remove a damaged or unwanted output, marker first."""
        directory = self.directory(stage, key)
        (directory / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def lock(self, stage: str, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Be the only writer of a key. The kernel drops the lock when its holder dies; others wait here."""
        path = self.root / stage / f".{key[:16]}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def begin(self, stage: str, key: str, identity: Mapping[str, Any]) -> tuple[Path, bool]:
        """Make or find the directory of unfinished work; returns it and whether an earlier try left something."""
        directory = self.directory(stage, key)
        if (directory / MANIFEST).exists() or (
            directory.exists() and read_json(directory / IDENTITY) != json.loads(json.dumps(identity))
        ):
            self.discard(stage, key)
        resumed = (directory / IDENTITY).exists()
        directory.mkdir(parents=True, exist_ok=True)
        if not resumed:
            write_json(directory / IDENTITY, identity)
            sync_directory(directory.parent)
        return directory, resumed

    def commit(
        self, manifest: Callable[[dict[str, FileRecord], str], Manifest], directory: Path, results: tuple[str, ...]
    ) -> Manifest:
        """Digest every file, then write the manifest, last. `manifest` is called with the files and the digest."""
        result_names = {str(p.relative_to(directory)) for glob in results for p in directory.glob(glob) if p.is_file()}
        files = {}
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            name = str(path.relative_to(directory))
            if name in _OWN_FILES or name.startswith("scratch/"):
                continue
            if path.name.startswith(".") and path.name.endswith(".part"):
                path.unlink()  # written aside by a killed try
                continue
            files[name] = FileRecord(path.stat().st_size, sha256_file(path), name in result_names)
        digest = output_digest(files)
        whole = manifest(files, digest)
        for path in {directory, *(directory / name for name in files)}:
            sync_directory(path if path.is_dir() else path.parent)
        write_json(directory / MANIFEST, asdict(whole))
        return whole

    def unfinished(self) -> list[Path]:
        """Directories of unfinished work."""
        return sorted(p.parent for p in self.root.glob(f"*/*/{IDENTITY}") if not (p.parent / MANIFEST).exists())


def output_digest(files: Mapping[str, FileRecord]) -> str:
    """sha256 over the names and digests of the result files."""
    return sha256_json({name: record.sha256 for name, record in files.items() if record.result})


def problem_by_size(directory: Path, manifest: Manifest) -> str | None:
    """The first file that is absent or has another size than recorded."""
    for name, record in manifest.files.items():
        try:
            size = os.stat(directory / name).st_size
        except FileNotFoundError:
            return f"{name} is lost"
        if size != record.size:
            return f"{name} has {size} bytes, not {record.size}"
    return None


def _load(directory: Path) -> Manifest | None:
    try:
        return Manifest.parse((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return None  # torn by the disk, not by us: rebuilt like a missing one


@dataclass
class Attempts:
    """Seconds of own work, kept across kills."""

    directory: Path

    def begin(self) -> None:
        """Count a try."""
        tries = self.all()
        write_json(self.directory / ATTEMPTS, [*tries, {"started": time.time(), "seconds": 0.0}])

    def spent(self, seconds: float, joules: float | None = None) -> None:
        """Record what the current try has cost so far; joules where the machine can tell."""
        tries = self.all()
        tries[-1]["seconds"] = seconds
        if joules is not None:
            tries[-1]["joules"] = round(joules, 3)
        write_json(self.directory / ATTEMPTS, tries)

    def all(self) -> list[dict[str, float]]:
        """Every try so far."""
        return read_json(self.directory / ATTEMPTS) or []
