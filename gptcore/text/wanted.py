"""What a source wants of each of its files, whatever their format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gptcore.text.documents import Document, Problem

Found = Iterator[Document | Problem]


@dataclass(frozen=True, slots=True)
class Wanted:
    """How documents are made of a file's texts."""

    text_field: str
    """The column or key that holds the text."""
    kind: str
    """Of the source."""
    label: str
    """What ids start with."""
    max_chars: int
    """More of a document is not needed, characters."""
    scratch: Path
    """Folder for files unpacked to be read."""
    licence: str | None = None
    """Under which all texts stand."""
    by_line: bool = False
    """Whether each line of a plain text is a document."""

    def document(
        self, name: str, text: str, row: int | None = None, title: str | None = None, date: str | None = None
    ) -> Document:
        """A text of the file `name`, with its row where it has rows; the document is its own group."""
        id = f"{self.label}/{name}" if row is None else f"{self.label}/{name}:{row}"
        return Document(id, self.kind, id, None, None, text, title, date, self.licence)


class NoTextField(ValueError):
    """A sound file in which nothing stands under the text field: the config names the wrong one."""
