"""Whole rows of a source, with all their columns: what a skill's own items are made of."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from gptcore.config_sources import Source
from gptcore.durable import sha256_file
from gptcore.text import files, hub
from gptcore.text.bounded_lines import next_line
from gptcore.text.csv_rows import Lines, TooLong
from gptcore.text.digests import DigestCache
from gptcore.text.documents import Problem
from gptcore.text.file_names import PACKINGS, FileType, known_format
from gptcore.text.packings import Damaged, unpacked
from gptcore.text.sources import Version, downloaded, resolve_source, source_units

Rows = Iterator[tuple[str, dict[str, Any]] | Problem]
"""(name of the row, its columns), or why there is none."""

FORMATS = ("jsonl", "csv", "tsv", "parquet", "txt", "po")
BATCH_ROWS = 256


def row_format(name: str) -> FileType:
    """How a file of rows is read, by its name; raises ValueError for one that has no rows."""
    stem, _, last = name.lower().rpartition(".")
    packed = (stem.rpartition(".")[2], last) if last in PACKINGS else (last, None)
    found = FileType("po", packed[1]) if packed[0] == "po" else known_format(name)
    if found is None or found.form not in FORMATS:
        raise ValueError(f"{name}: no rows can be read from it; a skill's data are .{', .'.join(FORMATS)} files")
    return found


def resolve_rows(source: Source, cache_dir: Path) -> Version:
    """The version of a source of rows; like `resolve_source`, which knows no .po files."""
    if source.kind != "files":
        return resolve_source(source, cache_dir)
    with DigestCache(cache_dir) as cache:
        found = [[name, sha256] for name, _, sha256 in files.digests(source, cache, row_format)]
    return {"kind": source.kind, "files": found}


def read_rows(source: Source, version: Version, scratch: Path, tell: Callable[[dict[str, Any]], None]) -> Rows:
    """Every row of a source in order. Raises ValueError when it is no longer what its version says."""
    if source.kind == "files":
        digests = dict(version["files"])
        for name, path in files.expand(source, row_format):
            yield from _file(path, name, source.by_line, scratch)
            if sha256_file(path) != digests.get(name):
                raise ValueError(f"{path} changed while it was read; run again")
        return
    for unit in source_units(source, version):
        if source.kind == "python_docs":
            from gptcore.text.python_functions import read_unit

            yield from read_unit(unit["package"], unit["root"], unit["files"])
        elif source.kind == "hub":
            names = ("dataset", "config", "split", "text_field", "max_documents", "commit")
            rows = hub.open_rows(**{name: unit[name] for name in names}, label="", done=0, state=None)
            for number, row in enumerate(rows.data, 1):
                yield f"{rows.name}:{number}", row
                if number == source.max_documents:
                    break
        else:
            path = downloaded(unit, scratch, tell)
            row_format(path.name)
            yield from _file(path, path.name, False, scratch)
            path.unlink()


def _file(path: Path, name: str, by_line: bool, scratch: Path) -> Rows:
    type = row_format(name)
    try:
        if type == ("parquet", None):
            yield from _parquet(path, name)
            return
        with unpacked(path.open("rb"), type.packing) as file:
            if type.form == "parquet":
                from gptcore.text.parquet_rows import on_disk

                with on_disk(file, scratch) as plain:
                    yield from _parquet(plain, name)
            elif type.form == "po":
                from gptcore.text.po_rows import read_po

                yield from read_po(file, name)
            elif type.form == "jsonl":
                yield from _jsonl(file, name)
            elif type.form == "txt":
                yield from _txt(file, name, by_line)
            else:
                yield from _csv(file, name, {"csv": ",", "tsv": "\t"}[type.form])
    except Damaged as damage:
        yield Problem(damage.kind, f"{name} ({damage})", name)


def _jsonl(file: IO[bytes], name: str) -> Rows:
    number = 0
    while (line := next_line(file)) != b"":
        number += 1
        where = f"{name}:{number}"
        if line is None:
            yield Problem("too_long", where)
            continue
        try:
            value = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            yield Problem("undecodable", where)
        except (ValueError, RecursionError):
            yield Problem("unparsable", where)
        else:
            yield (where, value) if isinstance(value, dict) else Problem("unparsable", where)


def _txt(file: IO[bytes], name: str, by_line: bool) -> Rows:
    number = 0
    while (line := next_line(file) if by_line else file.read()) != b"":
        number += 1
        try:
            yield (f"{name}:{number}", {"text": line.decode("utf-8-sig")}) if line else Problem("too_long", name)
        except UnicodeDecodeError:
            yield Problem("undecodable", f"{name}:{number}")


def _csv(file: IO[bytes], name: str, delimiter: str) -> Rows:
    rows = csv.DictReader(Lines(file), delimiter=delimiter)
    number = 0
    while True:
        number += 1
        try:
            row = next(rows, None)
        except TooLong:
            yield Problem("too_long", f"{name}:{number}")
            continue
        except csv.Error:
            yield Problem("unparsable", f"{name}:{number}")
            continue
        if row is None:
            return
        yield f"{name}:{number}", row


def _parquet(path: Path, name: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{name}:{number}", row
    except pyarrow.ArrowInvalid as error:
        yield Problem("damaged", f"{name}: after row {number} ({str(error).splitlines()[0]})", name)
