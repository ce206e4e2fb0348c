"""What a file holds, told by its name."""

from __future__ import annotations

from typing import NamedTuple

TEXTS = ("txt", "md")
PAGES = ("html", "htm")
TABLES = ("jsonl", "csv", "tsv", "parquet")
FORMATS = (*TEXTS, *PAGES, *TABLES)
PACKINGS = ("gz", "zst", "xz", "bz2")
SHORT_NAMES = {"tgz": ["tar", "gz"]}


class FileType(NamedTuple):
    """How a file is read."""

    form: str
    """One of FORMATS, or tar or zip."""
    packing: str | None
    """One of PACKINGS around it, or None."""

    @property
    def archive(self) -> bool:
        """Whether other files are inside."""
        return self.form in ("tar", "zip")


def format_of(name: str) -> FileType:
    """Format and packing by a file's name; raises ValueError for one that no reader takes."""
    found = known_format(name)
    if found is None:
        raise ValueError(
            f"{name}: no reader for this file name; it must end in .{', .'.join((*FORMATS, 'tar'))}, each also with "
            f".{', .'.join(PACKINGS)}, or in .tgz or .zip"
        )
    return found


def known_format(name: str) -> FileType | None:
    """Format and packing by a file's name, or None for one that no reader takes."""
    *stem, last = name.rsplit("/", 1)[-1].lower().split(".")
    parts = [*stem, *SHORT_NAMES.get(last, [last])]
    packing = parts.pop() if parts[-1] in PACKINGS else None
    if len(parts) < 2:
        return None
    if parts[-1] in (*FORMATS, "tar") or (parts[-1] == "zip" and packing is None):
        return FileType(parts[-1], packing)
    return None
