"""Tables of comma or tab separated values with a header line (RFC 4180): a row a document."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO

from gptcore.text.bounded_lines import next_line
from gptcore.text.documents import Document, Problem
from gptcore.text.packings import Damaged
from gptcore.text.wanted import Found, NoTextField, Wanted

FIELD_CHARS = 16_000_000
"""A longer field is skipped with a count: a quote that nothing closes would take the rest of the file. The csv module
holds a field in 4 bytes a character and doubles its room, so this is 128 MB at most."""


class TooLong(Exception):
    """A line over the limit."""


class Lines(Iterator[str]):
    """Lines for the csv module. An object, not a generator: it goes on after an exception."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._mark = "\ufeff"

    def __next__(self) -> str:
        line = next_line(self._file)
        if line is None:
            raise TooLong
        if not line:
            raise StopIteration
        # One bad byte spoils its own field, found there, and not where the rows begin.
        text = line.decode("utf-8", "surrogateescape").removeprefix(self._mark)
        self._mark = ""
        return text


def read_csv(file: IO[bytes], name: str, wanted: Wanted, delimiter: str, done: int = 0) -> Found:
    """One item a row below the header, after the first `done`; blank lines are none.

    Quotes hold delimiters and line ends, and are doubled to stand for themselves, in tsv too. A row with fewer fields
    than the text field's place has no text. Raises NoTextField when the header lacks the text field.
    """
    row = 0
    try:
        rows = csv.reader(Lines(file), delimiter=delimiter)
        columns = _next(rows)
        if isinstance(columns, list) and not all(map(_sound, columns)):
            columns = "undecodable"
        if not isinstance(columns, list):
            if not done:
                yield Problem(columns or "no_text", f"{name}: header" if columns else name)
            return
        if wanted.text_field not in columns:
            raise NoTextField(f"{name} has no column {wanted.text_field!r}; its columns are {', '.join(columns[:10])}")
        place = columns.index(wanted.text_field)
        while (fields := _next(rows)) is not None:
            if fields:
                row += 1
                if row > done:
                    yield _item(fields, place, name, row, wanted)
    except Damaged as damage:
        yield Problem(damage.kind, f"{name}: after row {row} ({damage})")
        return
    if not row and not done:
        yield Problem("no_text", name)


def _next(rows: Iterator[list[str]]) -> list[str] | str | None:
    """The next row, [] for a blank line, the kind of problem it has, or None at the end."""
    limit = csv.field_size_limit(FIELD_CHARS)  # the module's, not the reader's: put back for others
    try:
        return next(rows, None)
    except TooLong:
        return "too_long"
    except csv.Error as error:
        return "too_long" if "field larger" in str(error) else "unparsable"
    finally:
        csv.field_size_limit(limit)


def _item(fields: list[str] | str, place: int, name: str, row: int, wanted: Wanted) -> Document | Problem:
    if isinstance(fields, str):
        return Problem(fields, f"{name}:{row}")
    if len(fields) <= place:
        return Problem("no_text", f"{name}:{row}")
    if not _sound(fields[place]):
        return Problem("undecodable", f"{name}:{row}")
    return wanted.document(name, fields[place], row)


def _sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
