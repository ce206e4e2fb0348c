"""Files that are one document each: plain text, and pages of HTML by their main text."""

from __future__ import annotations

import codecs
from typing import IO

from gptcore.text.documents import Document, Problem
from gptcore.text.packings import Damaged
from gptcore.text.wanted import Wanted

PAGE_BYTES = 20_000_000
"""A longer page is skipped: its tree takes some twenty times as much memory."""


def read_text(file: IO[bytes], name: str, wanted: Wanted) -> Document | Problem:
    """A text file; no more is read than `max_chars` can take (4 bytes a character, and the byte order mark)."""
    try:
        data = file.read(4 * wanted.max_chars + 4)
        whole = not file.read(1)
    except Damaged as damage:
        return Problem(damage.kind, f"{name} ({damage})")
    if not data:
        return Problem("no_text", name)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=whole)
    except UnicodeDecodeError:
        return Problem("undecodable", name)
    return wanted.document(name, text)


def read_page(file: IO[bytes], name: str, wanted: Wanted) -> Document | Problem:
    """A page of HTML: its main text, title and date."""
    try:
        data = file.read(PAGE_BYTES + 1)
    except Damaged as damage:
        return Problem(damage.kind, f"{name} ({damage})")
    if len(data) > PAGE_BYTES:
        return Problem("too_long", name)
    if not data:
        return Problem("no_text", name)
    from gptcore.text.html_text import page_of

    page = page_of(data)
    if page is None:
        return Problem("no_text", name)
    return wanted.document(name, page.text, title=page.title, date=page.date)
