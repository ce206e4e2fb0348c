"""One block of documents as it is after some steps: which are left, and where each one's line stands now.

A step leaves for each block what it changed, not a copy:

    <block>.codes   one byte for each document of the harvested block: AS_BEFORE, CHANGED or DROPPED
    <block>.lines   the changed documents' lines, in order, as in the harvested block
    <block>.json    counts and digests, written last: with it the block is committed
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptcore.text.parts import checked

AS_BEFORE, CHANGED, GONE = 0, 1, 2
"""What a step's code says of a document; one that an earlier step dropped is AS_BEFORE too."""

Codes = npt.NDArray[np.uint8]


@dataclass
class BlockView:
    """The documents of a block (n,), dropped ones too."""

    data: list[bytes]
    """The harvested lines, then the changed lines of each step."""
    layer: Codes
    """Which of `data` holds a document's line, (n,)."""
    start: npt.NDArray[np.int64]
    """Where in it the line begins, bytes, (n,)."""
    size: npt.NDArray[np.int64]
    """Of the line, bytes, (n,)."""
    there: npt.NDArray[np.bool_]
    """Whether the document is left, (n,)."""

    def line(self, document: int) -> bytes:
        """One document's line."""
        start = int(self.start[document])
        return self.data[int(self.layer[document])][start : start + int(self.size[document])]


def harvested(directory: Path, block: str) -> BlockView:
    """A harvested block; raises DamagedPart when it is not what was written."""
    record = json.loads((directory / f"{block}.json").read_bytes())
    data = checked(directory / f"{block}.lines", record["sha256"])
    starts, sizes = _lines(data)
    count = len(starts)
    return BlockView([data], np.zeros(count, np.uint8), starts, sizes, np.ones(count, bool))


def step_record(directory: Path, block: str) -> dict[str, Any] | None:
    """What a step's committed block says of itself; None where it is not committed."""
    try:
        record: dict[str, Any] = json.loads((directory / f"{block}.json").read_bytes())
    except FileNotFoundError:
        return None
    return record


def apply(view: BlockView, directory: Path, block: str, record: dict[str, Any]) -> None:
    """Put a step's committed block on top; raises DamagedPart when it is not what was written."""
    codes = np.frombuffer(checked(directory / f"{block}.codes", record["codes_sha256"]), np.uint8)
    data = checked(directory / f"{block}.lines", record["lines_sha256"])
    changed = codes == CHANGED
    view.start[changed], view.size[changed] = _lines(data)
    view.layer[changed] = len(view.data)
    view.data.append(data)
    view.there &= codes != GONE


def _lines(data: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where each line begins, and its size with the line end; lines are JSON, so no line end stands inside one."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
    return starts, ends - starts
