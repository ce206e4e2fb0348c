"""JSON lines: a row a document."""

from __future__ import annotations

import json
from typing import IO

from gptcore.text.bounded_lines import next_line
from gptcore.text.documents import Problem
from gptcore.text.packings import Damaged
from gptcore.text.wanted import Found, NoTextField, Wanted


def read_jsonl(file: IO[bytes], name: str, wanted: Wanted, done: int = 0) -> Found:
    """One item a line, after the first `done`; raises NoTextField at the end when no row has the text field."""
    row = texts = 0
    keys: list[str] = []
    try:
        while (line := next_line(file)) != b"":
            row += 1
            if row <= done:
                texts += 1
            elif line is None:
                yield Problem("too_long", f"{name}:{row}")
            else:
                found = _parse(line, wanted.text_field)
                if isinstance(found, str):
                    texts += 1
                    yield wanted.document(name, found, row)
                else:
                    keys = keys or found[1]
                    yield Problem(found[0], f"{name}:{row}")
    except Damaged as damage:
        yield Problem(damage.kind, f"{name}: after row {row} ({damage})")
        return
    if not row and not done:
        yield Problem("no_text", name)
    if keys and not texts:
        raise NoTextField(f"{name}: no row has a text under {wanted.text_field!r}; keys are {', '.join(keys[:10])}")


def _parse(line: bytes, text_field: str) -> str | tuple[str, list[str]]:
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
