"""A document, how its text is cleaned, and the corpus files that hold it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "validation", "test")
FILE_PROBLEMS = ("damaged", "encrypted", "unsafe_name", "not_a_file", "no_reader", "bomb", "too_many")
"""Kinds of `Problem` that whole files have, and members of archives."""
DAMAGE = ("damaged", "truncated")
"""Kinds of `Problem` that say that a file is not what it was."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it comes from."""

    id: str
    """Unique in its corpus; says where the text stands, such as `python_docs/numpy/numpy/linalg/_linalg.py:33`."""
    source: str
    """The kind of source."""
    group: str
    """Unit of splitting: a module, or the document itself where nothing larger is known."""
    package: str | None
    """Distribution, for python_docs."""
    name: str | None
    """Dotted name of the documented object, for python_docs."""
    text: str
    """Clean text (see `clean_text`)."""
    title: str | None = None
    """Title, where the source gives one."""
    date: str | None = None
    """Day of publication, YYYY-MM-DD, where the source gives one."""
    licence: str | None = None
    """Licence the text stands under, where it is known."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A piece of a source that gave no document."""

    kind: str
    """Counted under this word: undecodable, unparsable, no_text, too_long, truncated, one of FILE_PROBLEMS."""
    where: str
    """File and row, for the person watching."""
    file: str | None = None
    """The file of the source that holds it, where the kind is one of DAMAGE: a file counts as damaged once."""


def clean_text(text: str) -> str:
    """Unicode NFC, newlines as \\n, no spaces at line ends, no blank lines at either end.

    Raises UnicodeEncodeError for lone surrogates, which no UTF-8 file can hold.
    """
    if not text.isascii():
        text.encode()
        text = unicodedata.normalize("NFC", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "\n".join([line.rstrip() for line in text.split("\n")]).strip("\n")


def write(document: Document) -> bytes:
    """A document as one line of a corpus file; the inverse of `read`."""
    fields = {name: getattr(document, name) for name in ("group", "id", "name", "package", "source", "text")}
    for name in ("title", "date", "licence"):
        if (value := getattr(document, name)) is not None:
            fields[name] = value
    return json.dumps(fields, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def read(line: bytes) -> Document:
    """A document from one line of a corpus file."""
    return Document(**json.loads(line))


def read_documents(corpus: Path, split: str) -> Iterator[Document]:
    """Stream the documents of a finished corpus in order; a split without documents gives none."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    for path in sorted((corpus / "documents").glob(f"{split}-*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                yield read(line)
