"""Digests of files, remembered by path, size, mtime and inode, so that nothing is read twice in vain."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from gptcore.durable import sha256_file, write_bytes

SETTLED_NS = 2_000_000_000
"""A file changed this recently could change again within one tick of its clock, so its digest is not remembered."""


class DigestCache:
    """A context manager over one JSON file in `directory`; saves on leaving when something new was read."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "digests.json"
        self._known: dict[str, list[Any]] = {}
        self._changed = False

    def __enter__(self) -> DigestCache:
        try:
            known = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            known = {}
        self._known = known if isinstance(known, dict) else {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._changed:
            write_bytes(self._path, json.dumps(self._known, separators=(",", ":")).encode())

    def get(self, path: str | Path, compute: Callable[[Path], Any] = sha256_file, purpose: str = "") -> Any:
        """What `compute` gives for a file (JSON-able), computed only when the file is not as it was last time.

        Another `compute` needs another `purpose`. Raises OSError when the file cannot be read.
        """
        state = os.stat(path)
        stamp = [state.st_size, state.st_mtime_ns, state.st_ino]
        name = f"{purpose}:{path}" if purpose else str(path)
        entry = self._known.get(name)
        if entry is not None and entry[:3] == stamp:
            return entry[3]
        value = compute(Path(path))
        if time.time_ns() - state.st_mtime_ns > SETTLED_NS:
            self._known[name] = [*stamp, value]
            self._changed = True
        return value
