"""Where each document of a split lies: the ends of its lines, eight bytes a document, on disk.

So a process can read any documents of a corpus without having read those before them, and memory stays flat.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from gptcore.durable import writing

Integers = npt.NDArray[np.int64]
BLOCK_BYTES = 1 << 20


def split_files(corpus: Path, split: str) -> list[Path]:
    """The files of a split of a finished corpus, in order."""
    return sorted((corpus / "documents").glob(f"{split}-*.jsonl"))


def index_lines(corpus: Path, split: str, path: Path) -> None:
    """Write where each line of a split ends, as if its files were one: little-endian uint64, bytes, (documents,).

    An index of as many bytes of text that already stands at `path` is kept.
    """
    files = split_files(corpus, split)
    size = sum(file.stat().st_size for file in files)
    if path.exists() and (known := read_ends(path)).size and known[-1] == size:
        return
    done = 0
    with writing(path) as written:
        for name in files:
            last = done
            with name.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + (done + 1)
                    written.write(ends.astype("<u8").tobytes())
                    last = int(ends[-1]) if len(ends) else last
                    done += len(block)
            if last != done:
                written.write(np.array([done], dtype="<u8").tobytes())


def read_ends(path: Path) -> npt.NDArray[np.uint64]:
    """Map a flat file of little-endian uint64, (numbers,), read-only; an empty file holds none."""
    if not path.stat().st_size:
        return np.empty(0, dtype="<u8")
    return np.asarray(np.memmap(path, dtype="<u8", mode="r"))


class Lines:
    """Lines of a split by number; a context manager that holds its files open."""

    def __init__(self, corpus: Path, split: str, index: Path) -> None:
        """index: what `index_lines` wrote."""
        self._files = split_files(corpus, split)
        self._borders = [0, *accumulate(file.stat().st_size for file in self._files)]
        self._ends = read_ends(index)
        self._open = ExitStack()

    def __len__(self) -> int:
        return len(self._ends)

    def __enter__(self) -> Lines:
        self._handles = [self._open.enter_context(file.open("rb", buffering=0)).fileno() for file in self._files]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def spans(self, numbers: Integers) -> tuple[Integers, Integers]:
        """(begins, ends) of lines, bytes from the beginning of the split, each (len(numbers),)."""
        begins = np.where(numbers > 0, self._ends[np.maximum(numbers, 1) - 1], 0).astype(np.int64)
        return begins, self._ends[numbers].astype(np.int64)

    def read(self, numbers: Integers) -> list[bytes]:
        """Some lines, in the order asked for; the disk is read front to back, neighbours together."""
        begins, ends = self.spans(numbers)
        places = np.argsort(begins)
        breaks = np.flatnonzero(begins[places[1:]] != ends[places[:-1]]) + 1
        lines: list[bytes] = [b""] * len(numbers)
        for run in np.split(places, breaks):
            first = int(begins[run[0]])
            together = self._read(first, int(ends[run[-1]]))
            for place, begin, end in zip(run.tolist(), begins[run].tolist(), ends[run].tolist(), strict=True):
                lines[place] = together[begin - first : end - first]
        return lines

    def _read(self, begin: int, end: int) -> bytes:
        """Bytes [begin, end) of the split."""
        parts = []
        borders = pairwise(self._borders)
        for path, handle, (low, high) in zip(self._files, self._handles, borders, strict=True):
            at, until = max(begin, low) - low, min(end, high) - low
            while at < until:
                part = os.pread(handle, until - at, at)
                if not part:
                    raise ValueError(
                        f"{path} has shrunk to {at} bytes, {high - low} when its lines were counted; run again"
                    )
                parts.append(part)
                at += len(part)
        return b"".join(parts)


def in_blocks(lines: Lines, order: Iterator[Integers], block_bytes: int) -> Iterator[list[bytes]]:
    """Lines of about `block_bytes` bytes together, one at least. order: numbers of lines, in pieces."""
    for numbers in order:
        begins, ends = lines.spans(numbers)
        grown = np.cumsum(ends - begins)
        cuts = np.unique(np.searchsorted(grown, np.arange(block_bytes, int(grown[-1]), block_bytes)) + 1)
        for block in np.split(numbers, cuts[cuts < len(numbers)]):
            yield lines.read(block)
