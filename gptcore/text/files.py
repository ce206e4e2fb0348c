"""Local files: which there are, their digests, the units they are read in, and one file's items."""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcore.text.digests import DigestCache
from gptcore.text.documents import DAMAGE, Problem
from gptcore.text.file_names import format_of

if TYPE_CHECKING:
    from gptcore.config_sources import Files, Wikipedia
    from gptcore.text.wanted import Found, Wanted

PACKAGE = "package:"
UNIT_BYTES = 8_000_000
"""Smaller files share a unit up to this many bytes: a unit costs two commits with fsync, some 10 ms."""
UNIT_FILES = 1000
"""Files of one unit: opening them costs more than their bytes, and a kill loses the unit in work."""


def expand(source: Files | Wikipedia, check: Callable[[str], object] = format_of) -> list[tuple[str, Path]]:
    """(name, path) of every file the source's paths and globs match, each once, sorted by name.

    Names are relative to the files' common folder, so that moving the folder changes nothing.
    Raises FileNotFoundError for a pattern without a match, ValueError for a folder, or what `check` says of a name.
    """
    found: set[str] = set()
    for pattern in source.paths:
        there = _place(pattern)
        if os.path.isdir(there):
            raise ValueError(f"{pattern} is a folder; name files, or a glob such as {os.path.join(pattern, '*.jsonl')}")
        matches = [there] if os.path.exists(there) else glob.iglob(there, recursive=True)
        files = [os.path.abspath(match) for match in matches if os.path.isfile(match)]
        if not files:
            raise FileNotFoundError(f"no file matches {pattern} (seen from {os.getcwd()})")
        found.update(files)
    root = os.path.commonpath([os.path.dirname(path) for path in found])
    named = sorted((_told(path[len(root) :].lstrip(os.sep)), Path(path)) for path in found)
    for name, _ in named:
        check(name)
    return named


def _place(pattern: str) -> str:
    """Where a pattern looks; `package:NAME/…` below an installed package, which is not imported."""
    if not pattern.startswith(PACKAGE):
        return os.path.expanduser(pattern)
    name, _, inside = pattern.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{pattern}: no package {name!r} is installed; pip install it, or name another path")
    return os.path.join(spec.submodule_search_locations[0], inside)


def _told(name: str) -> str:
    """A name as text with slashes; bytes that are not UTF-8 are spelt out."""
    return name.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode()


def resolve(
    source: Files | Wikipedia, cache: DigestCache, check: Callable[[str], object] = format_of
) -> dict[str, Any]:
    """The source's version: every file's name and sha256; raises ValueError for a file that cannot be read."""
    version = []
    for name, path in expand(source, check):
        try:
            version.append([name, cache.get(path)])
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return {"kind": source.kind, "files": version}


def units(source: Files, version: dict[str, Any]) -> list[dict[str, Any]]:
    """The work: {"files": [{"path", "name", "sha256"}], "bytes", "text_field", …}; small files share one."""
    digests = dict(version["files"])
    found: list[dict[str, Any]] = []
    for name, path in expand(source):
        size = path.stat().st_size
        last = found[-1] if found else None
        if last is None or last["bytes"] + size > UNIT_BYTES or len(last["files"]) == UNIT_FILES:
            last = {"files": [], "bytes": 0, **source.model_dump(include={"text_field", "licence", "by_line"})}
            found.append(last)
        last["files"].append({"path": str(path), "name": name, "sha256": digests.get(name)})
        last["bytes"] += size
    return found


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
