"""Parquet: a row a document."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from gptcore.durable import writing
from gptcore.text.documents import Document, Problem
from gptcore.text.wanted import Found, NoTextField, Wanted

BATCH_ROWS = 256
"""Rows decoded at once."""


@contextmanager
def on_disk(file: IO[bytes], scratch: Path) -> Iterator[Path]:
    """A stream as a file in `scratch` for a while, for parquet is read from its end. Raises `Damaged`."""
    plain = scratch / f"unpacked-{os.getpid()}.parquet"
    with writing(plain) as out:
        shutil.copyfileobj(file, out, 1 << 20)
    try:
        yield plain
    finally:
        plain.unlink()


def read_parquet(path: Path, name: str, wanted: Wanted, done: int = 0) -> Found:
    """One item a row, after the first `done`; raises NoTextField when the column is not there.

    A row group that cannot be decoded is one `damaged` and, for its further rows, `undecodable`.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.stat().st_size:
        if not done:
            yield Problem("no_text", name)
        return
    try:
        # Buffered, not pre-buffered: a row group may be larger than memory.
        file = pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        if not _of_the_bytes(error):
            raise
        if not done:
            yield Problem("damaged", f"{name} ({_first_line(error)})")
        return
    with file:
        names = file.schema_arrow.names
        if wanted.text_field not in names:
            raise NoTextField(f"{name} has no column {wanted.text_field!r}; its columns are {', '.join(names[:10])}")
        if not file.metadata.num_rows and not done:
            yield Problem("no_text", name)
        row = 0
        for group in range(file.num_row_groups):
            end = row + file.metadata.row_group(group).num_rows
            if end > done:
                yield from _read_group(file, group, row, end, name, wanted, done)
            row = end


def _read_group(file: Any, group: int, row: int, end: int, name: str, wanted: Wanted, done: int) -> Found:
    """Rows `row + 1` to `end`, as many items as the group has rows, less those done."""
    import pyarrow

    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[wanted.text_field], use_threads=False):
            for value in batch.column(0):
                row += 1
                if row > done:
                    yield _from_cell(value, name, row, wanted)
    except (pyarrow.ArrowException, OSError) as error:
        if not _of_the_bytes(error):
            raise
        for bad in range(row + 1, end + 1):
            if bad > done:
                kind = "damaged" if bad == row + 1 else "undecodable"
                yield Problem(kind, f"{name}:{bad} ({_first_line(error)})")


def _of_the_bytes(error: Exception) -> bool:
    """Whether an error says that the file is wrong, and not the disk or the memory."""
    import pyarrow

    return not isinstance(error, MemoryError | pyarrow.ArrowMemoryError) and getattr(error, "errno", None) is None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _from_cell(value: Any, name: str, row: int, wanted: Wanted) -> Document | Problem:
    try:
        text = value.as_py()
    except UnicodeDecodeError:
        return Problem("undecodable", f"{name}:{row}")
    return wanted.document(name, text, row) if isinstance(text, str) else Problem("no_text", f"{name}:{row}")
