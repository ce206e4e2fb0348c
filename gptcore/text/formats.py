"""One door to the readers of every format that is no archive."""

from __future__ import annotations

from typing import IO

from gptcore.text.csv_rows import read_csv
from gptcore.text.documents import Problem
from gptcore.text.file_names import PAGES, TEXTS
from gptcore.text.jsonl_rows import read_jsonl
from gptcore.text.line_rows import read_lines
from gptcore.text.packings import Damaged
from gptcore.text.parquet_rows import on_disk, read_parquet
from gptcore.text.wanted import Found, Wanted
from gptcore.text.whole_files import read_page, read_text

DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_stream(file: IO[bytes], form: str, name: str, wanted: Wanted, done: int = 0) -> Found:
    """The items of an unpacked stream after the first `done`; raises NoTextField."""
    if form in TEXTS and wanted.by_line:
        yield from read_lines(file, name, wanted, done)
    elif form in TEXTS and not done:
        yield read_text(file, name, wanted)
    elif form in PAGES and not done:
        yield read_page(file, name, wanted)
    elif form == "jsonl":
        yield from read_jsonl(file, name, wanted, done)
    elif form in DELIMITERS:
        yield from read_csv(file, name, wanted, DELIMITERS[form], done)
    elif form == "parquet":
        try:
            with on_disk(file, wanted.scratch) as path:
                yield from read_parquet(path, name, wanted, done)
        except Damaged as damage:
            yield Problem(damage.kind, f"{name} ({damage})")
