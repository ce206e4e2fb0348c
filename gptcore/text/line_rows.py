"""Text files of which every line is a document."""

from __future__ import annotations

from typing import IO

from gptcore.text.bounded_lines import next_line
from gptcore.text.documents import Problem
from gptcore.text.packings import Damaged
from gptcore.text.wanted import Found, Wanted


def read_lines(file: IO[bytes], name: str, wanted: Wanted, done: int = 0) -> Found:
    """One item a line that is not blank, after the first `done`; blank lines are neither document nor problem."""
    row = items = 0
    try:
        while (line := next_line(file)) != b"":
            row += 1
            if line is not None and not line.strip():
                continue
            items += 1
            if items <= done:
                continue
            if line is None:
                yield Problem("too_long", f"{name}:{row}")
                continue
            try:
                yield wanted.document(name, line.decode("utf-8-sig" if row == 1 else "utf-8"), row)
            except UnicodeDecodeError:
                yield Problem("undecodable", f"{name}:{row}")
    except Damaged as damage:
        yield Problem(damage.kind, f"{name}: after row {row} ({damage})")
        return
    if not items and not done:
        yield Problem("no_text", name)
