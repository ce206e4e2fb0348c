"""Digests of files, remembered by path, size, mtime and inode, so that nothing is read twice in vain.

They are kept in a table on disk and asked for one by one: a million files cost no memory.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gptcore.durable import sha256_file

if TYPE_CHECKING:
    from sqlite3 import Connection

SETTLED_NS = 2_000_000_000
"""A file changed this recently could change again within one tick of its clock, so that it is read again next time."""
UNSETTLED = ""
"""Of such a file, in the place of size, mtime and inode."""
TOGETHER = 5_000
"""Digests written at once: a commit waits for the disk, and a kill loses those that wait."""
WAIT_S = 60.0
"""For another process that is writing."""
NAMED = 3
"""Changed files that are remembered by name."""


class DigestCache:
    """A context manager over one SQLite file in `directory`; what is new is saved on leaving, and on the way."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "digests.sqlite"
        self._open: Connection | None = None
        self._new: dict[bytes, tuple[str, str]] = {}
        self.changed: list[str] = []
        """The first files that hold something else than they did."""

    def __enter__(self) -> DigestCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._save()
        if self._open is not None:
            self._open.close()
            self._open = None

    def get(self, path: str | Path, compute: Callable[[Path], Any] = sha256_file, purpose: str = "") -> Any:
        """What `compute` gives for a file (JSON-able), computed only when the file is not as it was last time.

        Another `compute` needs another `purpose`. Raises OSError when the file cannot be read.
        """
        state = os.stat(path)
        stamp = f"{state.st_size} {state.st_mtime_ns} {state.st_ino}"
        name = os.fsencode(f"{purpose}:{path}" if purpose else path)
        known = self._new.get(name) or self._known(name)
        if known is not None and known[0] == stamp:
            return json.loads(known[1])
        value = compute(Path(path))
        settled = time.time_ns() - state.st_mtime_ns > SETTLED_NS
        entry = (stamp if settled else UNSETTLED, json.dumps(value))
        if known is not None and known[1] != entry[1] and len(self.changed) < NAMED:
            self.changed.append(str(path))
        self._new[name] = entry
        if len(self._new) >= TOGETHER:
            self._save()
        return value

    def _known(self, name: bytes) -> tuple[str, str] | None:
        found: tuple[str, str] | None = (
            self._table().execute("SELECT stamp, value FROM digests WHERE name = ?", (name,)).fetchone()
        )
        return found

    def _save(self) -> None:
        if self._new:
            table, rows = self._table(), [(name, *entry) for name, entry in sorted(self._new.items())]
            table.execute("BEGIN IMMEDIATE")  # waits for another writer here, not halfway
            table.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
            table.execute("COMMIT")
            self._new.clear()

    def _table(self) -> Connection:
        """The open table; a file that is none is begun anew."""
        if self._open is None:
            from sqlite3 import DatabaseError, OperationalError

            try:
                self._open = _opened(self._path)
            except OperationalError as error:
                raise OSError(f"cannot keep digests in {self._path}: {error}; see that it can be written") from error
            except DatabaseError:
                self._path.unlink()
                self._open = _opened(self._path)
        return self._open


def _opened(path: Path) -> Connection:
    import sqlite3  # 5 ms that a plan need not spend

    path.parent.mkdir(parents=True, exist_ok=True)
    table = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    try:
        table.execute("PRAGMA synchronous = NORMAL")
        table.execute(
            "CREATE TABLE IF NOT EXISTS digests (name BLOB PRIMARY KEY, stamp TEXT, value TEXT) WITHOUT ROWID"
        )
    except sqlite3.DatabaseError:
        table.close()
        raise
    return table
