"""Fetched pages on disk: appended to segment files, each record with its digest, so that a kill loses the last ones.

A record is one line `<sha256 of the rest> <bytes of the head> <bytes of the body>`, then the head as JSON, then the
body, packed with zstd. What is torn or damaged is cut off when a store is opened, and fetched again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import zstandard

from gptcore.durable import canonical_json, sync_directory

SEGMENT_BYTES = 64_000_000
"""A segment that is longer is followed by a new one."""
SYNC_S = 2.0
"""Seconds of fetching that a power cut may cost; a kill costs nothing that was put."""
_LINE_BYTES = 128


class PageStore:
    """Records by name in `directory`. One process may write at a time; what it has put can be read at once.

    A context manager: leaving it syncs and closes what is being written; reading goes on to be possible.
    """

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._directory, self._segment_bytes = directory, segment_bytes
        self._index: dict[str, tuple[Path, int]] = {}
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()
        directory.mkdir(parents=True, exist_ok=True)
        self._segments = sorted(directory.glob("pages-*.segment"))
        for path in self._segments:
            self._scan(path)

    def __enter__(self) -> PageStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def put(self, name: str, head: dict[str, Any], body: bytes = b"") -> None:
        """Append a record (head: JSON-able); a name that is there already is not put again."""
        assert name not in self._index, name
        file = self._writing()
        packed = zstandard.ZstdCompressor(level=3).compress(body)
        text = canonical_json({**head, "name": name})
        digest = hashlib.sha256(text + packed).hexdigest()
        start = file.tell()
        file.write(f"{digest} {len(text)} {len(packed)}\n".encode() + text + packed)
        file.flush()
        if time.monotonic() - self._synced > SYNC_S:
            os.fsync(file.fileno())
            self._synced = time.monotonic()
        self._index[name] = (self._segments[-1], start)
        if file.tell() >= self._segment_bytes:
            self._close()
            self._segments.append(self._path(len(self._segments)))

    def get(self, name: str) -> tuple[dict[str, Any], bytes]:
        """A record's head and body; KeyError without it, ValueError when the disk no longer gives what was put."""
        path, start = self._index[name]
        with path.open("rb") as file:
            file.seek(start)
            record = _read_record(file)
        if record is None:
            raise ValueError(f"{path}: the page {name} is damaged; run again to fetch it anew")
        head, packed = record
        return head, zstandard.ZstdDecompressor().decompress(packed)

    def _scan(self, path: Path) -> None:
        """Index a segment's whole records and cut off the rest."""
        with path.open("r+b") as file:
            while True:
                start = file.tell()
                record = _read_record(file)
                if record is None:
                    break
                self._index[record[0]["name"]] = (path, start)
            if start < file.seek(0, os.SEEK_END):
                file.truncate(start)
                os.fsync(file.fileno())

    def _writing(self) -> IO[bytes]:
        if self._file is None:
            if not self._segments:
                self._segments.append(self._path(0))
            self._file = self._segments[-1].open("ab")
            sync_directory(self._directory)
        return self._file

    def _path(self, number: int) -> Path:
        return self._directory / f"pages-{number:05d}.segment"

    def _close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None


def _read_record(file: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """(head, packed body) of the record that begins here, or None when none stands here whole."""
    digest, *sizes = file.readline(_LINE_BYTES).split()[:3] or [b""]
    if len(sizes) != 2 or not all(size.isdigit() for size in sizes):
        return None
    head, body = map(int, sizes)
    text, packed = file.read(head), file.read(body)
    if hashlib.sha256(text + packed).hexdigest().encode() != digest:
        return None
    return json.loads(text), packed
