"""Local files: txt (one document), jsonl and parquet (one document a row), each also as .gz or .zst."""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from gptcore.durable import writing
from gptcore.text.digests import DigestCache
from gptcore.text.documents import Document, Problem

if TYPE_CHECKING:
    from gptcore.config_sources import Files, Wikipedia

FORMATS = ("txt", "jsonl", "parquet")
PACKINGS = ("gz", "zst")
LINE_BYTES = 64_000_000
"""A longer line is skipped with a count: one line must not take the machine's memory."""
BATCH_ROWS = 256
"""Parquet rows decoded at once."""

Found = Iterator[Document | Problem]


def format_of(name: str) -> tuple[str, str | None]:
    """(format, packing) by a file's name; raises ValueError for one that no reader takes."""
    parts = name.lower().split(".")
    packing = parts.pop() if parts[-1] in PACKINGS else None
    if len(parts) < 2 or parts[-1] not in FORMATS:
        raise ValueError(
            f"{name}: no reader for this file name; it must end in .{', .'.join(FORMATS)}, "
            f"each also with .{' or .'.join(PACKINGS)}"
        )
    return parts[-1], packing


def expand(source: Files | Wikipedia, check: Callable[[str], object] = format_of) -> list[tuple[str, Path]]:
    """(name, path) of every file the source's paths and globs match, sorted by name.

    Names are relative to the files' common folder, so that moving the folder changes nothing.
    Raises FileNotFoundError for a pattern without a match, ValueError for a folder, or what `check` says of a name.
    """
    found: set[Path] = set()
    for pattern in source.paths:
        there = os.path.expanduser(pattern)
        if os.path.isdir(there):
            raise ValueError(f"{pattern} is a folder; name files, or a glob such as {os.path.join(pattern, '*.jsonl')}")
        matches = [there] if os.path.exists(there) else glob.glob(there, recursive=True)
        files = [Path(os.path.abspath(match)) for match in matches if os.path.isfile(match)]
        if not files:
            raise FileNotFoundError(f"no file matches {pattern} (seen from {os.getcwd()})")
        found.update(files)
    root = os.path.commonpath([path.parent for path in found])
    named = sorted((os.path.relpath(path, root).replace(os.sep, "/"), path) for path in found)
    for name, _ in named:
        check(name)
    return named


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
    """The work, one file each: {"path", "name", "sha256", "text_field"}."""
    digests = dict(version["files"])
    return [
        {"path": str(path), "name": name, "sha256": digests.get(name), "text_field": source.text_field}
        for name, path in expand(source)
    ]


def read_file(
    path: Path, name: str, text_field: str, kind: str, label: str, max_chars: int, scratch: Path, done: int = 0
) -> Found:
    """One Document or Problem for each row of a file, in order, after the first `done` rows.

    `scratch` takes the unpacked copy of a packed parquet file. Memory stays flat: rows stream.
    Raises ValueError for a parquet file that is none, and for a file in which no row has `text_field`.
    """
    form, packing = format_of(name)
    make = _maker(name, kind, label)
    if form == "txt":
        if not done:
            yield _read_txt(path, packing, name, make, max_chars)
    elif form == "jsonl":
        yield from _read_jsonl(path, packing, name, make, text_field, done)
    else:
        with _unpacked(path, packing, scratch) as plain:
            yield from _read_parquet(plain, name, make, text_field, done)


def _maker(name: str, kind: str, label: str) -> Callable[[str, int | None], Document]:
    def make(text: str, row: int | None) -> Document:
        id = f"{label}/{name}" if row is None else f"{label}/{name}:{row}"
        return Document(id, kind, id, None, None, text)

    return make


def _open(path: Path, packing: str | None) -> IO[bytes]:
    if packing == "gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if packing == "zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(reader, 1 << 20)
    return path.open("rb")


def _broken_packing() -> tuple[type[Exception], ...]:
    import zstandard

    return (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


def _read_txt(
    path: Path, packing: str | None, name: str, make: Callable[[str, int | None], Document], max_chars: int
) -> Document | Problem:
    """A whole file as one document; no more is read than `max_chars` can take (4 bytes a character, and the mark)."""
    try:
        with _open(path, packing) as file:
            data = file.read(4 * max_chars + 4)
            whole = not file.read(1)
    except _broken_packing():
        return Problem("truncated", name)
    try:
        return make(codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=whole), None)
    except UnicodeDecodeError:
        return Problem("undecodable", name)


def _read_jsonl(
    path: Path,
    packing: str | None,
    name: str,
    make: Callable[[str, int | None], Document],
    text_field: str,
    done: int,
) -> Found:
    row = texts = 0
    keys: list[str] = []
    try:
        with _open(path, packing) as file:
            while line := file.readline(LINE_BYTES):
                row += 1
                too_long = len(line) == LINE_BYTES and not line.endswith(b"\n")
                if too_long:
                    while line and not line.endswith(b"\n"):
                        line = file.readline(LINE_BYTES)
                if row <= done:
                    texts += 1
                    continue
                if too_long:
                    yield Problem("too_long", f"{name}:{row}")
                    continue
                found = _parse_line(line, text_field)
                if isinstance(found, str):
                    texts += 1
                    yield make(found, row)
                else:
                    keys = keys or found[1]
                    yield Problem(found[0], f"{name}:{row}")
    except _broken_packing():
        yield Problem("truncated", f"{name}: after row {row}")
    if row and not texts and keys:
        raise ValueError(f"{name}: no row has a text under {text_field!r}; keys are {', '.join(keys[:10])}")


def _parse_line(line: bytes, text_field: str) -> str | tuple[str, list[str]]:
    """The text of a JSON line, or (kind of problem, the keys it has instead)."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "undecodable", []
    except (ValueError, RecursionError):
        return "unparsable", []
    if not isinstance(value, dict):
        return "no_text", []
    text = value.get(text_field)
    return text if isinstance(text, str) else ("no_text", list(value))


@contextmanager
def _unpacked(path: Path, packing: str | None, scratch: Path) -> Iterator[Path]:
    """Parquet is read from its end, so a packed file is unpacked beside the other units first."""
    if packing is None:
        yield path
        return
    plain = scratch / f"unpacked-{os.getpid()}.parquet"
    try:
        with _open(path, packing) as packed, writing(plain) as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except _broken_packing() as error:
        raise ValueError(f"{path.name} cannot be unpacked: {error}") from error
    try:
        yield plain
    finally:
        plain.unlink()


def _read_parquet(
    path: Path, name: str, make: Callable[[str, int | None], Document], text_field: str, done: int
) -> Found:
    import pyarrow
    import pyarrow.parquet

    try:
        # Buffered, not pre-buffered: a row group may be larger than memory.
        file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{name} is no parquet file: {str(error).splitlines()[0]}") from error
    with file:
        names = file.schema_arrow.names
        if text_field not in names:
            raise ValueError(f"{name} has no column {text_field!r}; its columns are {', '.join(names[:10])}")
        row = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows <= done:
                row += rows
                continue
            end = row + rows
            try:
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[text_field], use_threads=False):
                    for value in batch.column(0):
                        row += 1
                        if row > done:
                            yield _from_cell(value, name, make, row)
            except OSError as error:
                first = str(error).splitlines()[0]
                yield from (Problem("undecodable", f"{name}:{bad} ({first})") for bad in range(row + 1, end + 1))
                row = end


def _from_cell(value: Any, name: str, make: Callable[[str, int | None], Document], row: int) -> Document | Problem:
    try:
        text = value.as_py()
    except UnicodeDecodeError:
        return Problem("undecodable", f"{name}:{row}")
    return make(text, row) if isinstance(text, str) else Problem("no_text", f"{name}:{row}")
