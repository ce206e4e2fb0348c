"""Local files: which there are, their digests, the units they are read in, and one file's items."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcore.durable import canonical_json, writing
from gptcore.text.digests import DigestCache
from gptcore.text.documents import DAMAGE, Problem
from gptcore.text.file_names import format_of
from gptcore.text.listing import listed

if TYPE_CHECKING:
    from gptcore.config_sources import Files, Wikipedia
    from gptcore.text.wanted import Found, Wanted

UNIT_BYTES = 8_000_000
"""Smaller files share a unit up to this many bytes: a unit costs two commits with fsync, some 10 ms."""
UNIT_FILES = 1000
"""Files of one unit: opening them costs more than their bytes, and a kill loses the unit in work."""
MANY_FILES = 10_000
"""Of more files the version is one digest, and the list stays on disk: named one by one they are a kilobyte each."""


@dataclass(frozen=True)
class Place:
    """Where the list of a source of very many files goes, and where digests are remembered."""

    path: Path
    cache: Path


def expand(source: Files | Wikipedia, check: Callable[[str], object] = format_of) -> list[tuple[str, Path]]:
    """(name, path) of every file of a source, see `listed`."""
    return [(name, Path(path)) for name, path in listed(source.paths, check)]


def digests(
    source: Files | Wikipedia, cache: DigestCache, check: Callable[[str], object] = format_of
) -> Iterator[tuple[str, str, str]]:
    """(name, path, sha256) of every file of a source, in order; raises ValueError for one that cannot be read."""
    for name, path in listed(source.paths, check):
        try:
            yield name, path, cache.get(path)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from error


def resolve(source: Files, cache: DigestCache) -> dict[str, Any]:
    """The source's version: every file's name and sha256, or of more than MANY_FILES their number and one digest.

    Raises ValueError for a file that cannot be read.
    """
    whole, few = ListDigest(), []
    for name, _, sha256 in digests(source, cache):
        whole.add(name, sha256)
        if whole.files <= MANY_FILES:
            few.append([name, sha256])
    if whole.files > MANY_FILES:
        return {"kind": source.kind, **whole.version()}
    return {"kind": source.kind, "files": few}


def units(source: Files, version: dict[str, Any], place: Place | None = None) -> list[dict[str, Any]]:
    """The work, small files sharing a unit: {"files" or "listed", "bytes", "text_field", …}, see `files_of`.

    place: where the list of very many files is written.
    """
    if "files" not in version:
        assert place is not None, "a list of many files needs a place"
        return write_list(source, version, place)
    known = dict(version["files"])
    return list(_units(source, ((name, str(path), known.get(name)) for name, path in expand(source))))


def _units(source: Files, files: Iterable[tuple[str, str, str | None]]) -> Iterator[dict[str, Any]]:
    unit: dict[str, Any] | None = None
    for name, path, sha256 in files:
        size = os.stat(path).st_size
        if unit is None or unit["bytes"] + size > UNIT_BYTES or len(unit["files"]) == UNIT_FILES:
            if unit is not None:
                yield unit
            unit = {"files": [], "bytes": 0, **source.model_dump(include={"text_field", "licence", "by_line"})}
        unit["files"].append({"path": path, "name": name, "sha256": sha256})
        unit["bytes"] += size
    if unit is not None:
        yield unit


def write_list(source: Files, version: dict[str, Any], place: Place) -> list[dict[str, Any]]:
    """The units of very many files: of each its place in a packed list on disk, which `files_of` reads.

    Raises ValueError when the files are no longer those of the version.
    """
    found, whole = [], ListDigest()
    with DigestCache(place.cache) as cache:

        def counted() -> Iterator[tuple[str, str, str]]:
            for file in digests(source, cache):
                whole.add(file[0], file[2])
                yield file

        with writing(place.path) as written:
            for unit in _units(source, counted()):
                packed = zlib.compress(json.dumps(unit.pop("files")).encode(), 1)
                found.append({**unit, "listed": {"path": str(place.path), "at": written.tell(), "size": len(packed)}})
                written.write(packed)
        if whole.version() != {name: version.get(name) for name in whole.version()}:
            which = ", ".join(cache.changed) or f"{whole.files:,} files are there, {version['count']:,} were"
            raise ValueError(f"{', '.join(source.paths)} changed since it was looked at ({which}); run again")
    return found


def files_of(unit: dict[str, Any]) -> list[dict[str, Any]]:
    """A unit's files: [{"path", "name", "sha256"}]."""
    if "files" in unit:
        found: list[dict[str, Any]] = unit["files"]
        return found
    at = unit["listed"]
    with open(at["path"], "rb") as file:
        file.seek(at["at"])
        found = json.loads(zlib.decompress(file.read(at["size"])))
    return found


class ListDigest:
    """One digest of a list of files, taken file by file."""

    def __init__(self) -> None:
        self.files = 0
        self._digest = hashlib.sha256()

    def add(self, name: str, sha256: str) -> None:
        """The next file."""
        self.files += 1
        self._digest.update(canonical_json([name, sha256]) + b"\n")

    def version(self) -> dict[str, Any]:
        """What the files are identified by."""
        return {"count": self.files, "digest": self._digest.hexdigest()}


def read_files(files: list[dict[str, Any]], wanted: Wanted, done: int = 0) -> Found:
    """The items of a unit's files, one file after another, after the first `done`; see `read_file`."""

    def read(file: dict[str, Any], done: int = 0) -> Found:
        return read_file(Path(file["path"]), file["name"], wanted, done)

    if len(files) == 1:
        return read(files[0], done)  # large, perhaps: its reader knows how to go on
    return islice((item for file in files for item in read(file)), done, None)


def read_file(path: Path, name: str, wanted: Wanted, done: int = 0) -> Found:
    """One Document or Problem for each row of a file, in order, after the first `done` rows.

    A file that cannot be unpacked or decoded is a Problem, after what is whole of it; so is one without a byte.
    `wanted.scratch` takes the unpacked copy of a packed parquet file. Memory stays flat: rows stream.
    Raises ValueError for a sound file in which no row has `text_field`.
    """
    # Here, not above: what `plan` needs is their names.
    from gptcore.text.archives import read_archive
    from gptcore.text.formats import read_stream
    from gptcore.text.packings import unpacked
    from gptcore.text.parquet_rows import read_parquet

    type = format_of(name)

    def items() -> Found:
        if not path.stat().st_size:
            if not done:
                yield Problem("no_text", name)
        elif type.archive:
            # Archives have no index to go on by: what was read before a kill is read again.
            yield from islice(read_archive(path, type, name, wanted), done, None)
        elif type == ("parquet", None):
            yield from read_parquet(path, name, wanted, done)
        else:
            with unpacked(path.open("rb"), type.packing) as file:
                yield from read_stream(file, type.form, name, wanted, done)

    return with_file(items(), name)


def with_file(items: Found, name: str) -> Found:
    """The items of one file; what says that it is damaged names it."""
    for item in items:
        yield replace(item, file=name) if isinstance(item, Problem) and item.kind in DAMAGE else item
